"""A release to many devices: canaries first, then the rest, and nobody new once too many have failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import floor
from typing import Any

from edgeseg.deploy.fleet import engine
from edgeseg.deploy.fleet.board import Board
from edgeseg.deploy.fleet.door import DONE, FAILED, LATER
from edgeseg.deploy.fleet.errors import FleetError
from edgeseg.deploy.fleet.link import Link
from edgeseg.deploy.fleet.offer import Offer
from edgeseg.deploy.inventory import Device
from edgeseg.deploy.push import FAILURES, GOOD, Ending, Outcome, Patience, Push, Tell

_VANISHED = "the process that was at it ended without a word"
_PUT_OFF: tuple[Ending, str] = ("unreachable", "off, and not tried again: the rollout had been stopped")


@dataclass(frozen=True, kw_only=True)
class Failures:
    """How many devices may fail before nobody else is begun: a number of them, or a share of a wave (0 to 1)."""

    count: int = 0
    share: float | None = None

    def allowed(self, devices: int) -> int:
        """Return how many of `devices` may fail."""
        return self.count if self.share is None else floor(self.share * devices + 1e-9)  # 0.07 * 100 is 7.000…01


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """The rules of one rollout. `parallel` is how many devices are changed at a time."""

    max_failures: Failures = field(default_factory=Failures)
    parallel: int = 16
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of each device, in the inventory's order; `aborted` is why nobody else was begun, or empty."""

    outcomes: tuple[Outcome, ...]
    aborted: str = ""


@dataclass(frozen=True, kw_only=True)
class Wave:
    """Devices that are done with before others are begun. Canaries prove the release: each is to end well."""

    members: frozenset[str]
    may_fail: int
    proving: bool

    def failed(self, ending: str) -> bool:
        """Tell whether a device with this ending counts."""
        return ending not in GOOD if self.proving else ending in FAILURES


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The job of a rollout: the release to one device, and nobody else if that was one failure too many."""

    offer: Offer
    patience: Patience
    waves: tuple[Wave, ...]

    def run(self, device: Device, board: Board, *, first: bool) -> int:
        """Push, and note the outcome. A device that is off is put off, so that it keeps no other waiting."""
        (wave,) = (wave for wave in self.waves if device.name in wave.members)
        seen = list(board.news())
        since_s = next((item["at_s"] for item in seen if item["device"] == device.name), None)
        push = Push(Link(device), self.offer, self.patience, board.tell, lambda: bool(board.reason()), since_s)
        if first and not push.reached():
            board.note(device.name, put_off=True)
            return LATER
        outcome = push.run()
        board.note(device.name, outcome=asdict(outcome))
        if not wave.failed(outcome.ending):
            return DONE
        ended = [item for item in (*seen, *board.news()) if "outcome" in item and item["device"] in wave.members]
        failed = sum(wave.failed(item["outcome"]["ending"]) for item in ended)
        if failed > wave.may_fail:
            board.stop(f"{failed} of {len(wave.members)} {'canaries' if wave.proving else 'devices'} failed")
        return FAILED


def roll_out(devices: Sequence[Device], offer: Offer, rules: Rollout, tell: Tell, *, canaries: Sequence[str]) -> Report:
    """Push `offer` to `devices`, those named in `canaries` first, and return when each has an outcome.

    A canary must prove the release: one that cannot be reached counts as failed. Of the rest only those count that
    took it and failed.
    """
    done = {device.name: _pinned(device) for device in devices if device.pin not in (None, offer.descriptor.version)}
    free = [device for device in devices if device.name not in done]
    first = frozenset(device.name for device in free if device.name in canaries)
    rest = frozenset(device.name for device in free) - first
    waves = tuple(
        Wave(members=members, may_fail=rules.max_failures.allowed(len(members)), proving=proving)
        for members, proving in ((first, True), (rest, False))
    )
    begun: dict[str, tuple[Ending, str]] = {}  # what is to be said of a device of which nothing more is heard

    def heard(entry: dict[str, Any]) -> None:
        put_off = "put_off" in entry
        begun[entry["device"]] = _PUT_OFF if put_off else ("lost", entry.get("died", _VANISHED))
        if "outcome" in entry:
            done[entry["device"]] = Outcome(**entry["outcome"])
        elif "stage" in entry:
            tell(entry["device"], entry["stage"], entry["words"], done=entry["done"], total=entry["total"])

    aborted = ""
    if free:
        job = Delivery(offer=offer, patience=rules.patience, waves=waves)
        aborted = engine.run(
            job, free, heard, canaries=first, failing_canaries=waves[0].may_fail, parallel=rules.parallel
        )
    for name in (first | rest) - set(done):
        ending, detail = begun.get(name, ("untouched", "not begun"))
        done[name] = Outcome(device=name, ending=ending, detail=detail)
    if first and not aborted and not any(done[name].ending in GOOD for name in first):
        aborted = "no canary proved the release"
    return Report(outcomes=tuple(done[device.name] for device in devices), aborted=aborted)


def _pinned(device: Device) -> Outcome:
    detail = f"pinned to version {device.pin} in the inventory"
    return Outcome(device=device.name, ending="pinned", detail=detail)


@dataclass(frozen=True, kw_only=True)
class Question:
    """The job of asking each device something; `ask` is a function of a module, or a partial of one."""

    ask: Callable[[Link], str]

    def run(self, device: Device, board: Board, *, first: bool) -> int:
        """Ask, and note the answer, or the error instead."""
        try:
            board.note(device.name, answer=self.ask(Link(device)))
        except FleetError as error:
            board.note(device.name, error=str(error))
            return FAILED
        return DONE


def ask_all(devices: Sequence[Device], ask: Callable[[Link], str]) -> dict[str, str | FleetError]:
    """Ask each device and return the answers, or the errors instead, in the inventory's order."""
    answers: dict[str, str | FleetError] = {device.name: FleetError(_VANISHED) for device in devices}

    def heard(entry: dict[str, Any]) -> None:
        problem = entry.get("error") or entry.get("died")
        answers[entry["device"]] = FleetError(problem) if problem else entry["answer"]

    engine.run(Question(ask=ask), devices, heard)
    return answers
