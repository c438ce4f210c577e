"""A release to many devices: canaries first, then the rest, and nobody new once too many have failed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from edgeseg.deploy.fleet.errors import FleetError
from edgeseg.deploy.fleet.link import Link
from edgeseg.deploy.fleet.offer import Offer
from edgeseg.deploy.inventory import Device
from edgeseg.deploy.push import FAILURES, GOOD, Outcome, Patience, Push, Tell, Turn


@dataclass(frozen=True, kw_only=True)
class Failures:
    """How many devices may fail before nobody else is begun: a number of them, or a share of a wave (0 to 1)."""

    count: int = 0
    share: float | None = None

    def too_many(self, failed: int, devices: int) -> bool:
        """Tell whether `failed` out of `devices` are more than that."""
        return failed > (self.count if self.share is None else self.share * devices)


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


def roll_out(
    devices: Sequence[Device],
    offer: Offer,
    rules: Rollout,
    tell: Tell,
    *,
    canaries: Sequence[str],
    reach: Callable[[Device], Link] = Link,
) -> Report:
    """Push `offer` to `devices`, those named in `canaries` first, and return when each has an outcome.

    A canary must prove the release: one that cannot be reached counts as failed. Of the rest only those count that
    took it and failed.
    """
    done = {device.name: _pinned(device) for device in devices if device.pin not in (None, offer.descriptor.version)}
    free = [device for device in devices if device.name not in done]
    first = [device for device in free if device.name in canaries]
    aborted = ""
    for members, proving in ((first, True), ([device for device in free if device not in first], False)):
        wave = _Wave(len(members), proving, rules, aborted)
        turn = Turn(threading.Semaphore(rules.parallel), wave.stop, wave.abort, wave.ended)
        with ThreadPoolExecutor(max_workers=max(1, len(members)), thread_name_prefix="push") as pool:
            try:
                pushes = [pool.submit(Push(reach(device), offer, rules.patience, tell, turn).run) for device in members]
                done |= {outcome.device: outcome for outcome in (push.result() for push in pushes)}
            except BaseException:
                wave.stop.set()
                wave.abort.set()
                raise
        aborted = wave.verdict()
    return Report(outcomes=tuple(done[device.name] for device in devices), aborted=aborted)


class _Wave:
    """Counts the outcomes of one wave, and ends it early."""

    def __init__(self, size: int, proving: bool, rules: Rollout, aborted: str) -> None:
        self._size, self._proving, self._rules, self._aborted = size, proving, rules, aborted
        self._failed = self._good = 0
        self._lock = threading.Lock()
        self.stop, self.abort = threading.Event(), threading.Event()
        if aborted:
            self.abort.set()

    def ended(self, outcome: Outcome) -> None:
        """Count it."""
        with self._lock:
            self._good += outcome.ending in GOOD
            self._failed += outcome.ending not in GOOD if self._proving else outcome.ending in FAILURES
            if not self._aborted and self._rules.max_failures.too_many(self._failed, self._size):
                self._aborted = f"{self._failed} of {self._size} {'canaries' if self._proving else 'devices'} failed"
                self.abort.set()

    def verdict(self) -> str:
        """Return why nobody else is to be begun, or nothing."""
        unproved = self._proving and self._size and not self._good
        return self._aborted or ("no canary proved the release" if unproved else "")


def _pinned(device: Device) -> Outcome:
    detail = f"pinned to version {device.pin} in the inventory"
    return Outcome(device=device.name, ending="pinned", detail=detail)


def ask_all(
    devices: Sequence[Device], question: Callable[[Link], str], *, parallel: int = 16
) -> dict[str, str | FleetError]:
    """Ask each device and return the answers, or the errors instead, in the inventory's order."""
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        return dict(zip((device.name for device in devices), pool.map(partial(_ask, question), devices), strict=True))


def _ask(question: Callable[[Link], str], device: Device) -> str | FleetError:
    try:
        return question(Link(device))
    except FleetError as error:
        return error
