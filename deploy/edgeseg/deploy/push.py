"""A release to one device: send what it lacks, ask for the activation, and follow it to its outcome.

Nothing is remembered here: after a lost link, or a pusher that was killed, the next push asks the device how far it
got and goes on from there. From the request on, the device goes on by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args

from edgeseg.deploy.fleet.errors import FleetError, OfflineError, RefusedError
from edgeseg.deploy.fleet.link import Link
from edgeseg.deploy.fleet.offer import Offer

_Answer = TypeVar("_Answer")
Ending = Literal["permanent", "unchanged", "pinned", "failed", "refused", "lost", "unreachable", "untouched"]
ENDINGS: tuple[Ending, ...] = get_args(Ending)
GOOD: tuple[Ending, ...] = ("permanent", "unchanged")
FAILURES: tuple[Ending, ...] = ("failed", "refused", "lost")
"""What counts against the release. A device that cannot be reached says nothing about it."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_FIRST_POLL_S, _LONGEST_POLL_S = 1.0, 15.0
_IN_FLIGHT = 4 << 20
"""Bytes that may be lost between here and the agent when a link is: more than ssh and the sockets hold."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one device. `sent_bytes` are the release's own, without what carries them."""

    device: str
    ending: Ending
    detail: str = ""
    sent_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long, in seconds, an unreachable device is tried again, and an outcome is waited for."""

    retry_s: float = 300
    wait_s: float = 7200


class Tell(Protocol):
    """Hears how far a device is: the stage, words about it, and of an upload the bytes sent and to be sent."""

    def __call__(self, device: str, stage: str, words: str = "", *, done: int = 0, total: int = 0) -> None: ...


class Push:
    """One device's part of a rollout."""

    def __init__(
        self,
        link: Link,
        offer: Offer,
        patience: Patience,
        tell: Tell,
        stopped: Callable[[], bool] = lambda: False,
        down_since_s: float | None = None,
    ) -> None:
        """`stopped` tells whether nothing new is to begin, and `down_since_s` (monotonic) since when it is off."""
        self._link, self._offer, self._patience, self._stopped = link, offer, patience, stopped
        self._name, self._tell = link.device.name, tell
        self._sent, self._offset, self._asked = 0, 0, False
        self._heard: dict[str, Any] | None = None
        self._down_since_s = down_since_s
        self._pause_s = _FIRST_PAUSE_S

    def reached(self) -> bool:
        """Tell whether the device answers at the first try. Whatever else is wrong is for `run` to meet."""
        self._tell(self._name, "asking")
        try:
            self._heard = self._ask()
        except OfflineError as error:
            self._tell(self._name, "waiting", error.found)
            return False
        except FleetError:
            pass
        return True

    def run(self) -> Outcome:
        """Push, and return the outcome, whatever happens."""
        try:
            if self._stopped():
                return self._end("untouched", "not begun")
            ending = self._begin()
            if ending is not None:
                return ending
            if self._stopped():
                return self._end("untouched", "uploaded, not activated")
            self._asked = True
            self._persist(self._request)
            return self._follow()
        except OfflineError as error:
            return self._end("lost" if self._asked else "unreachable", error.found)
        except RefusedError as error:
            return self._end("refused", str(error))
        except FleetError as error:
            return self._end("unreachable", str(error))

    def _begin(self) -> Outcome | None:
        """Get the release onto the device; return an outcome if there already is one."""
        self._tell(self._name, "asking")
        progress = self._heard or self._persist(self._ask)
        ending, words = judge(progress, self._offer.descriptor.digest)
        if ending == "permanent":
            return self._end("unchanged", "permanent already: nothing done")
        if ending == "failed":
            return self._end("failed", f"failed here before: {words}; fix: make a new version of it")
        if ending == "other":
            return self._end("refused", words)
        if ending != "running":
            heard = [progress]  # serves the first try
            self._persist(lambda: self._upload(heard.pop() if heard else self._ask()))
        return None

    def _upload(self, progress: dict[str, Any]) -> None:
        offer = self._offer
        if progress["whole"] or judge(progress, offer.descriptor.digest)[0] not in _TO_ASK_FOR:
            return  # another sender was faster
        if progress["sending"]:
            raise OfflineError("another sender is uploading to it")
        held, offset = json.loads(self._link.agent("content")), progress["offset"]
        if offset > self._offset:
            self._offset, self._down_since_s = offset, None
        self._require_room(progress)
        before, total = self._sent, offer.missing(held, offset)

        def sent(count: int) -> None:
            self._sent += count
            self._tell(self._name, "uploading", done=self._sent - before, total=total)

        self._tell(self._name, "uploading", total=total)
        words = ("assemble", offer.sha256, "--size", str(offer.size), "--offset", str(offset))
        try:
            self._link.agent(*words, stdin=offer.send(held, offset, sent))
        except OfflineError:
            if self._sent - before > _IN_FLIGHT:
                self._down_since_s = None  # a bad link, and some of it got through
            raise
        except RefusedError:
            now = self._ask()
            if now["sending"]:
                raise OfflineError("another sender is uploading to it") from None
            if offset and not now["offset"]:  # a power cut may leave zeros where it ended
                raise OfflineError("what had been uploaded before was damaged") from None
            raise

    def _require_room(self, progress: dict[str, Any]) -> None:
        upload, unpacked = self._offer.size - progress["offset"], self._offer.descriptor.size
        short = max(upload - progress["free"], upload + unpacked - progress["free"] - progress["reclaimable"])
        if short > 0:
            raise RefusedError(
                f"no room: {max(0, progress['free']) / 1e6:.1f} MB are free beside the reserve",
                expected=f"{short / 1e6:.1f} MB more",
                fix="free some space",
            )

    def _request(self) -> None:
        if not self._is_to_ask_for():
            return
        try:
            self._link.agent("request", self._offer.sha256)
        except RefusedError:
            if self._is_to_ask_for():  # else another sender was faster
                raise

    def _is_to_ask_for(self) -> bool:
        return judge(self._ask(), self._offer.descriptor.digest)[0] in _TO_ASK_FOR

    def _follow(self) -> Outcome:
        deadline_s, pause_s, silent = time.monotonic() + self._patience.wait_s, _FIRST_POLL_S, False
        while True:
            ending, words = judge(self._persist(self._ask), self._offer.descriptor.digest)
            if ending == "permanent" or ending == "failed" or ending == "refused":
                return self._end(ending, words)
            if ending == "other" or (ending == "absent" and silent):
                return self._end("refused", words or "the device did not say why: see edgeseg deploy logs")
            silent = ending == "absent"
            self._tell(self._name, "on the device", words)
            if time.monotonic() > deadline_s:
                return self._end("lost", f"no outcome after {self._patience.wait_s:g} s: {words}")
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_POLL_S)

    def _ask(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._link.agent("progress", self._offer.sha256))
        return answer

    def _persist(self, step: Callable[[], _Answer]) -> _Answer:
        """Take `step`, again and again with growing pauses while the device cannot be reached."""
        while True:
            try:
                answer = step()
                self._down_since_s = None
                return answer
            except OfflineError as error:
                now_s = time.monotonic()
                if self._down_since_s is None:
                    self._down_since_s, self._pause_s = now_s, _FIRST_PAUSE_S
                left_s = self._patience.retry_s - (now_s - self._down_since_s)
                self._tell(self._name, "waiting", error.found)
                if left_s <= 0 or (self._stopped() and not self._asked):
                    raise
                time.sleep(min(self._pause_s, left_s))
                self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    def _end(self, ending: Ending, detail: str) -> Outcome:
        self._tell(self._name, ending, detail)
        return Outcome(device=self._name, ending=ending, detail=detail, sent_bytes=self._sent)


_Verdict = Literal["permanent", "failed", "refused", "running", "other", "absent"]
_TO_ASK_FOR: tuple[_Verdict, ...] = ("absent", "refused")


def judge(progress: dict[str, Any], digest: str) -> tuple[_Verdict, str]:
    """Return what the agent's `progress` says of the release `digest`, and the words to that.

    `running` is on its way, `other` means that another release is on trial, `absent` that nothing is known of it.
    """
    trial = progress.get("trial", {})
    current = progress.get("current", {})
    if progress.get("good", {}).get("digest") == digest and not progress["on_trial"]:
        return "permanent", "permanent"
    if digest in progress["failed"]:
        return "failed", progress["failed"][digest]
    if progress["asked"]:
        return "running", "being unpacked and prepared"
    if digest in (trial.get("digest"), current.get("digest")):
        return "running", f"on trial: {trial.get('note') or 'begun'}, {trial.get('healthy_s', 0):.0f} s in health"
    if progress["on_trial"] or trial:
        title = f"{current.get('name')} version {current.get('version')}" if current else "another version"
        return "other", f"{title} is on trial; fix: wait for its end, or roll it back"
    return ("refused", progress["refused"]) if "refused" in progress else ("absent", "")
