"""How the service is, as it tells the agent: a small file in memory, rewritten once a second."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FRESH_S = 10
"""A report older than this is no sign of life."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """One report. `present` tells whether the camera is there at all (None: unknown), `golden` the share reached of the
    agreement that the bundle requires with its golden masks."""

    release: str
    boot_id: str
    told_s: float
    """Seconds since this boot."""
    alive: bool
    """Every stage has shown life in time; a camera that is being reopened is alive."""
    flowing: bool
    """New frames came in the last seconds."""
    frames: int = 0
    present: bool | None = None
    frame_age_ms: float | None = None
    golden: float | None = None

    def fresh(self, boot_id: str, now_s: float) -> bool:
        """Tell whether this is a sign of life at `now_s` of boot `boot_id`."""
        return self.boot_id == boot_id and 0 <= now_s - self.told_s <= FRESH_S


def read_health(path: Path) -> Health | None:
    """Return the last report, or None if there is none that can be read."""
    try:
        return Health(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_health(path: Path, health: Health) -> None:
    """Replace the report. It lies in memory and dies with the boot, so nothing is synced."""
    partial = path.with_name(path.name + ".next")
    partial.write_text(json.dumps(asdict(health), allow_nan=False), encoding="utf-8")
    partial.replace(path)
