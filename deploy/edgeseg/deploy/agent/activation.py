"""From an uploaded release to a permanent version, or back.

    activate   verify, unpack to the free slot, prepare, seal, record the trial, stage the way back, switch, restart
    look       judge the trial; at its end make the version permanent, or go back
    settle     finish or undo what an interrupted run left; every command begins with it

Whatever instant the power fails at, `current` points at a whole, verified release. The record of a trial is written
before the switch and removed last, so it tells what is left to do; should it be lost, the links still differ, and an
unknown trial is rolled back.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from . import probation
from .archive import Archive, open_archive
from .config import Config
from .descriptor import Descriptor
from .device import Clock
from .engines import ask_to_build
from .errors import AgentError
from .files import free_bytes
from .health import read_health
from .lock import locked
from .policy import accept, require_space
from .records import Records, Trial
from .slots import PREPARED, Slots

_SHORT_WAIT_S = 10
_RESTART_S = 30
"""The old version may take so long to end. A second restart asked for meanwhile would look like a crash."""


class Agent:
    """The device's one agent. Every public method returns one line for a person and raises `AgentError`."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or Clock(config.clock)
        self.slots = Slots(config.root)
        self.records = Records(config.root)

    def activate(self, path: Path, *, wait_s: float = 0) -> str:
        """Put the release at `path` on trial. A release that is permanent already changes nothing.

        `wait_s` is how long another change that is under way is waited for.
        """
        with self._lock(wait_s=wait_s) as lock:
            self._settle()
            trial = self.records.load_trial()
            state = self.records.load_state()
            with open_archive(path) as archive:
                if trial is not None and trial.digest == archive.descriptor.digest:
                    return f"{trial.title} is on trial already: nothing done"
                slot = self.slots.free()
                if trial is not None or slot is None:
                    title = trial.title if trial else "another version"
                    raise AgentError(f"{title} is on trial", fix="wait for its end, or roll it back")
                good = self.slots.descriptor(self.slots.good) if self.slots.good else None
                if good is not None and good.digest == archive.descriptor.digest:
                    return f"{good} is permanent already: nothing done"
                release = accept(archive, config=self._config, clock=self._clock, slots=self.slots, state=state)
                try:
                    self._install(archive, slot, lock)
                except BaseException:
                    self.slots.clear(slot)  # it may be what filled the disk
                    raise
            return self._begin_trial(slot, release)

    def look(self) -> str:
        """Judge the version on trial, if one is."""
        with self._lock(wait_s=_SHORT_WAIT_S):
            self._settle()
            trial = self.records.load_trial()
            if trial is None:
                return "nothing is on trial"
            health = read_health(self._config.health)
            free_mb = free_bytes(self._config.root) >> 20
            look = probation.Look(self._clock.boot_id(), self._clock.monotonic(), health, free_mb)
            before = trial
            trial, passed = probation.judge(before, look, self._config)
            if passed:
                return self._make_permanent(trial)
            stale = health is not None and health.fresh(look.boot_id, look.now_s) and health.release != trial.digest
            if health is not None and stale and health.told_s > trial.asked_s + _RESTART_S:
                # The agent was stopped between the switch and the restart: the old version still runs.
                trial = replace(trial, asked_s=look.now_s)
                self._restart()
            if replace(trial, seen_s=before.seen_s) != before:  # waiting for a camera must not wear out the card
                trial = self._keep(trial)
            if trial.failure:
                return self._go_back(trial, restart=True)
            return f"{trial.title} is on trial: {trial.note}, {trial.healthy_s:.0f} of {self._config.probation_s:g} s"

    def guard(self) -> str:
        """Run before each start of the service: count it, and see to it that what starts is whole.

        Never in the way of the start: while an activation prepares the other slot, nothing is to be done here.
        """
        try:
            with self._lock(wait_s=_SHORT_WAIT_S):
                self._settle(restart=False)
                trial = self.records.load_trial()
                if trial is not None:
                    trial = self._keep(probation.count_start(trial, self._clock.boot_id(), self._config))
                    if trial.failure:
                        return self._go_back(trial, restart=False)
                return self._mend()
        except AgentError as error:
            return f"start not guarded: {error}"

    def start_failed(self) -> str:
        """The service hit systemd's start limit: end the trial, or start the permanent version again after a pause."""
        with self._lock(wait_s=_SHORT_WAIT_S):
            self._settle()
            trial = self.records.load_trial()
            if trial is not None:
                return self._go_back(replace(trial, failure="the service hit systemd's start limit"), restart=True)
        time.sleep(self._config.retry_s)
        return f"no trial: {self.rebuild()}"

    def rebuild(self) -> str:
        """Make the current version's engines again where they are missing or stale, and start it again either way."""
        with self._lock(wait_s=_SHORT_WAIT_S):
            current = self.slots.current
            if current is None:
                raise AgentError("no version is installed", fix="push a release")
            try:
                ask_to_build(self._config, current)
                return f"{self.slots.descriptor(current)} was started again"
            finally:
                self._restart()

    def roll_back(self) -> str:
        """End the trial, or put the version before the permanent one on trial."""
        with self._lock():
            self._settle()
            trial = self.records.load_trial()
            if trial is not None:
                return self._go_back(replace(trial, failure="rolled back by hand"), restart=True)
            slot = self.slots.free()
            older = self.slots.descriptor(slot) if slot else None
            if slot is None or older is None:
                raise AgentError("there is no other version on this device", fix="push one")
            fault = self.slots.fault(slot)
            if fault is not None:
                raise AgentError(fault, fix="push that version again, signed as a new one")
            return self._begin_trial(slot, older)

    # What follows runs under the lock.

    def _install(self, archive: Archive, slot: str, lock: int) -> None:
        partial = self.slots.clear(slot)
        require_space(self._config, archive.descriptor.size)
        archive.unpack(partial)
        self._prepare(self.slots.fill(slot, partial), lock)
        ask_to_build(self._config, slot)
        self.slots.seal(slot, archive.descriptor.digest)

    def _prepare(self, slot: Path, lock: int) -> None:
        (slot / PREPARED).mkdir()
        for command in self._config.prepare:
            words = [word.replace("{slot}", str(slot)) for word in command]
            limit_s = self._config.prepare_timeout_s
            try:
                ended = subprocess.run(words, cwd=slot, pass_fds=(lock,), check=False, timeout=limit_s).returncode
                problem = f"ended with status {ended}" if ended else ""
            except subprocess.TimeoutExpired:
                problem = f"took longer than {limit_s:g} s"
            except OSError as error:
                problem = f"cannot be run ({error.strerror})"
            if problem:
                raise AgentError(f"preparing failed: {words[0]} {problem}; the running version is untouched")

    def _begin_trial(self, slot: str, release: Descriptor) -> str:
        fault = self.slots.fault(slot)
        if fault is not None:
            raise AgentError(fault, fix="activate it again")
        health = read_health(self._config.health)
        boot_id, now_s = self._clock.boot_id(), self._clock.monotonic()
        before = health if health and health.fresh(boot_id, now_s) else None
        trial = Trial(
            slot=slot,
            digest=release.digest,
            title=str(release),
            flowing=before is not None and before.flowing,
            frame_age_ms=before.frame_age_ms if before else None,
            boot_id=boot_id,
            boots=1,
            seen_s=now_s,
            asked_s=now_s,
        )
        good = self.slots.good
        if good is not None:
            self.slots.stage(good, "rollback")
        self.records.save_trial(trial)
        self.slots.switch("current", slot)
        self._restart()
        return f"{trial.title} is on trial in slot {slot}"

    def _make_permanent(self, trial: Trial) -> str:
        self.slots.switch("good", trial.slot)
        release = self.slots.descriptor(trial.slot)
        state = self.records.load_state()
        outcome = f"{trial.title} is permanent"
        if release is not None:
            state = state.with_permanent(release)
        self.records.save_state(replace(state, last=outcome))
        self.slots.drop("rollback")
        self.records.drop_trial()
        return outcome

    def _keep(self, trial: Trial) -> Trial:
        try:
            self.records.save_trial(trial)
        except OSError as error:
            # A release may have filled the disk. Going back needs no space, and frees what it took.
            return replace(trial, failure=trial.failure or f"its trial cannot be recorded ({error.strerror})")
        return trial

    def _go_back(self, trial: Trial, *, restart: bool) -> str:
        trial = self._keep(trial)
        good = self.slots.good
        if good is None:
            self.slots.drop("current")
        elif self.slots.current != good:
            self.slots.switch("current", good, via="rollback")
        if restart:
            self._restart()
        self.slots.remove(trial.slot)
        back = f"back on {self.slots.descriptor(good)}" if good else "there is no version to go back to"
        outcome = f"{trial.title} failed: {trial.failure}; {back}"
        state = self.records.load_state().with_failure(trial.digest, trial.failure)
        self.records.save_state(replace(state, last=outcome))
        self.slots.drop("rollback")
        self.records.drop_trial()
        return outcome

    def _settle(self, *, restart: bool = True) -> None:
        trial, current, good = self.records.load_trial(), self.slots.current, self.slots.good
        if trial is None and current == good:
            if self.records.damaged():
                release = self.slots.descriptor(good) if good else None
                state = self.records.load_state()
                for _ in range(2):  # the copy that is kept beside it is made anew too
                    self.records.save_state(state.with_permanent(release) if release else state)
                self.records.drop_trial()
        elif trial is None and current is None and good is not None:
            self.slots.switch("current", good)
        elif trial is None and current is not None:
            release = self.slots.descriptor(current)
            lost = Trial(slot=current, digest=release.digest if release else "", title=str(release or "a version"),
                         flowing=False, frame_age_ms=None)  # fmt: skip
            if good is None:  # the first version of all: there is nothing to go back to, so judge it afresh
                self.records.save_trial(lost)
            else:
                self._go_back(replace(lost, failure="the record of its trial was lost"), restart=restart)
        elif trial is not None and trial.failure:
            self._go_back(trial, restart=restart)
        elif trial is not None and trial.slot == current == good:
            self._make_permanent(trial)
        elif trial is not None and trial.slot != current:
            self.slots.drop("rollback")  # it was stopped before the switch
            self.records.drop_trial()

    def _mend(self) -> str:
        current, good = self.slots.current, self.slots.good
        if current is None:
            return "no version is installed"
        fault = self.slots.fault(current)
        if fault is None:
            return f"{self.slots.descriptor(current)} is whole"
        trial = self.records.load_trial()
        if trial is not None:
            return self._go_back(replace(trial, failure=fault), restart=False)
        spare = self.slots.free()
        if good is None or spare is None or self.slots.fault(spare) is not None:
            raise AgentError(f"{fault}, and no other version is whole", fix="push a release")
        self.slots.switch("good", spare)
        self.slots.switch("current", spare)
        outcome = f"{fault}; running {self.slots.descriptor(spare)} instead"
        self.records.save_state(replace(self.records.load_state(), last=outcome))
        return outcome

    def _restart(self) -> None:
        command = self._config.restart
        ended = subprocess.run(command, check=False, timeout=120)
        if ended.returncode:
            raise AgentError(f"the service could not be restarted: {command[0]} ended with {ended.returncode}")

    def _lock(self, *, wait_s: float = 0) -> AbstractContextManager[int]:
        os.makedirs(self._config.root, exist_ok=True)  # noqa: PTH103
        return locked(self._config.root / "lock", wait_s=wait_s)
