"""What the agent must not forget: JSON files with a checksum, each replaced as a whole.

`state.json` is kept twice. `trial.json` exists as long as a version is on trial, and what it says is never needed to
go back: the links alone tell which version was permanent.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from .descriptor import Descriptor
from .files import remove_file, sync_folder, write_whole

_Record = TypeVar("_Record")

_MAX_REFUSED = 16


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A version on trial: how things were before the switch, and what was seen since."""

    slot: str
    digest: str
    title: str
    flowing: bool
    """Frames flowed before the switch."""
    frame_age_ms: float | None
    """Frame age (p95) before the switch."""
    boot_id: str = ""
    boots: int = 0
    starts: int = 0
    """Starts of the service in this boot."""
    seen_s: float | None = None
    """Monotonic time of the last look in this boot."""
    asked_s: float = 0
    """Monotonic time at which the restart to this version was asked for."""
    healthy_s: float = 0
    silent_s: float = 0
    """Seconds since the service was last seen in health."""
    note: str = ""
    failure: str = ""
    """Why it is to be rolled back. Once set, nothing else happens to it."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What outlives releases."""

    highest_version: int = 0
    """Of all permanent versions: nothing older is accepted."""
    highest_digest: str = ""
    """The release of that version: no other may bear it."""
    time_floor: int = 0
    """The latest time that a permanent release was signed at, in seconds since 1970: it is at least as late now.

    The clock never moves it: one that is years ahead for a while would make every later release look expired."""
    failed: dict[str, str] = field(default_factory=dict)
    """Digests of releases that failed here, with the reason; the last few."""
    last: str = ""
    """The last outcome, for a person."""

    def with_permanent(self, release: Descriptor) -> State:
        """Return the state after `release` became permanent."""
        state = replace(self, time_floor=max(self.time_floor, release.created))
        if release.version < self.highest_version:  # gone back to by hand
            return state
        return replace(state, highest_version=release.version, highest_digest=release.digest)

    def with_failure(self, digest: str, reason: str) -> State:
        """Return the state after the release `digest` failed here."""
        kept = [item for item in self.failed.items() if item[0] != digest][1 - _MAX_REFUSED :]
        return replace(self, failed={**dict(kept), digest: reason})


class Records:
    """The records below the agent's root."""

    def __init__(self, root: Path) -> None:
        self._state, self._old_state, self._trial = (
            root / name for name in ("state.json", "state.old.json", "trial.json")
        )

    def load_state(self) -> State:
        """Return the state, from its old copy if the new one is damaged, or an empty one if both are."""
        return _load(self._state, State) or _load(self._old_state, State) or State()

    def damaged(self) -> list[str]:
        """Return the names of records that are there and cannot be read."""
        kinds = ((self._state, State), (self._old_state, State), (self._trial, Trial))
        return [path.name for path, kind in kinds if path.exists() and _load(path, kind) is None]

    def save_state(self, state: State) -> None:
        """Replace the state; the copy before it stays as the old one."""
        if _load(self._state, State) is not None:
            self._state.replace(self._old_state)
            sync_folder(self._state.parent)
        write_whole(self._state, _dump(state))

    def load_trial(self) -> Trial | None:
        """Return the trial, or None if there is none or its record is damaged."""
        return _load(self._trial, Trial)

    def save_trial(self, trial: Trial) -> None:
        """Replace the trial's record."""
        write_whole(self._trial, _dump(trial))

    def drop_trial(self) -> None:
        """Forget the trial."""
        remove_file(self._trial)


def _dump(record: Any) -> bytes:
    body = json.dumps(asdict(record), allow_nan=False)
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "record": body}).encode() + b"\n"


def _load(path: Path, kind: type[_Record]) -> _Record | None:
    try:
        envelope = json.loads(path.read_bytes())
        body = envelope["record"]
        if hashlib.sha256(body.encode()).hexdigest() != envelope["sha256"]:
            return None
        return kind(**json.loads(body))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
