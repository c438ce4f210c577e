"""Frames worth a label: those on which the masks behave unlike this camera's usual.

A frame is hard if its flicker, its unsure share, or the divergence of its class areas from the camera's usual ones, is
`DEVIATIONS` standard deviations above what it was of late. None needs labels; see `edgeseg.runtime.health.monitor`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from time import monotonic_ns
from typing import Any

from edgeseg.runtime.frame import Result
from edgeseg.runtime.health.monitor import FadingMean, Reading, divergence_bits
from edgeseg.runtime.health.store import FrameStore

_log = logging.getLogger(__name__)

DEVIATIONS = 4.0
LEAST = {"flicker": 0.005, "unsure": 0.02, "area_jump": 0.02}
"""What is below is never hard, however steady the camera: shares of the picture, and bits."""
LEAST_MASKS = 50
"""Masks from which the usual is known."""
PAUSE_S = 5.0
"""Between two frames kept of one camera, so that one bad minute does not push everything else out."""


@dataclass
class _Camera:
    """What is usual for one camera."""

    areas: FadingMean = field(default_factory=FadingMean)
    usual: dict[str, FadingMean] = field(default_factory=lambda: {reason: FadingMean() for reason in LEAST})
    kept_s: float = float("-inf")


class HardFrames:
    """Looks at every result and keeps the hard ones. A disk that is full costs those frames and nothing else."""

    def __init__(self, store: FrameStore, facts: Mapping[str, Any]) -> None:
        """Keep frames in `store`, `facts` (bundle, precision) with each."""
        self.saved = self.failed = 0
        self._store, self._facts = store, dict(facts)
        self._cameras: dict[int, _Camera] = {}
        self._full = False

    def consider(self, result: Result, reading: Reading | None, camera: str) -> None:
        """Keep `result` if it is hard. `reading` is of its mask."""
        if reading is None:
            return
        state = self._cameras.setdefault(result.camera, _Camera())
        now_s = result.frame.captured_ns / 1e9
        found = _figures(reading, state)
        hard = [reason for reason, value in found.items() if _is_hard(reason, value, state.usual[reason])]
        if hard and now_s - state.kept_s >= PAUSE_S:
            state.kept_s = now_s
            self._keep(result, camera, {reason: found[reason] for reason in hard}, state)
        state.areas.add(reading.areas, now_s)
        for reason, value in found.items():
            state.usual[reason].add(value, now_s)

    def document(self) -> dict[str, int]:
        """Return what became of the hard frames, as JSON's types."""
        return {"saved": self.saved, "failed": self.failed, "frames": self._store.frames, "bytes": self._store.bytes}

    def _keep(self, result: Result, camera: str, hard: Mapping[str, float], state: _Camera) -> None:
        frame = result.frame
        age = timedelta(microseconds=(monotonic_ns() - frame.captured_ns) / 1000)
        why = {
            "schema": "edgeseg/hard-frame/1",
            "camera": camera,
            "frame": frame.id,
            "captured": (datetime.now(timezone.utc) - age).isoformat(timespec="milliseconds"),
            "reasons": {
                reason: {"found": round(value, 6), "usual": round(state.usual[reason].mean, 6)}
                for reason, value in hard.items()
            },
            **self._facts,
        }
        try:
            kept = self._store.save(f"{camera}-{frame.name}", frame.image_bgr, result.mask, why)
        except OSError as error:
            self.failed += 1
            if not self._full:
                _log.warning("hard frames cannot be kept in %s: %s", self._store.folder, error)
            self._full = True
            return
        self._full = False
        self.saved += kept
        self.failed += not kept


def _figures(reading: Reading, state: _Camera) -> dict[str, float]:
    shares = {"flicker": reading.flicker, "unsure": reading.unsure}
    found = {reason: share for reason, share in shares.items() if share is not None}
    if state.areas.count and state.areas.mean.any() and reading.areas.any():
        found["area_jump"] = divergence_bits(reading.areas, state.areas.mean)
    return found


def _is_hard(reason: str, value: float, usual: FadingMean) -> bool:
    if usual.count < LEAST_MASKS or value < LEAST[reason]:
        return False
    return bool(value > usual.mean + DEVIATIONS * usual.deviation)
