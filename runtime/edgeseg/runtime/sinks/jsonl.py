"""One JSON document a line and frame, for programs: figures, areas and the mask itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.frame import Mask, Result
from edgeseg.runtime.health.monitor import unsure_share
from edgeseg.runtime.sinks.feed import Feed


def encode_runs(mask: Mask) -> dict[str, Any]:
    """Run-length encode `mask` (H, W): `{"size": [H, W], "values": [...], "lengths": [...]}`, row by row from the top.

    `np.repeat(values, lengths).reshape(size)` is the mask again. One list for all classes, where COCO's needs one a
    class.
    """
    flat = mask.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size)
    return {"size": list(mask.shape), "values": flat[starts].tolist(), "lengths": lengths.tolist()}


class JsonlSink:
    """Writes a line per result, at once, so that `tail -f` and a reader beside the run see whole lines."""

    def __init__(self, spec: str, place: str, feed: Feed) -> None:
        self.spec, self.path, self._classes = spec, Path(place), feed.contract.classes
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = self.path.open("w", encoding="utf-8")
        except OSError as error:
            raise SinkError(f"{place} cannot be written ({error.strerror})", fix="name a writable file") from error

    def write(self, result: Result) -> None:
        """Append the record of `result`. Raises `SinkError` if it cannot be written."""
        try:
            self._file.write(json.dumps(self._record(result), separators=(",", ":"), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise SinkError(
                f"{self.path} cannot be written ({error.strerror})", fix="free some space or name another file"
            ) from error

    def _record(self, result: Result) -> dict[str, Any]:
        counts = np.bincount(result.mask.ravel(), minlength=len(self._classes))
        unsure = unsure_share(result)
        return {
            "id": result.frame.id,
            "name": result.frame.name,
            "captured_ns": result.frame.captured_ns,
            "frame_age_ms": round(result.frame_age_ms, 3),
            "inference_ms": round(result.inference_ms, 3),
            "area": {name: int(n) for name, n in zip(self._classes, counts, strict=False) if n},
            **({} if unsure is None else {"unsure": round(100 * unsure, 3)}),
            "mask": encode_runs(result.mask),
        }

    def close(self) -> None:
        """Close the file; safe to call twice, and after a write that failed."""
        try:
            self._file.close()
        except OSError as error:
            raise SinkError(f"{self.path} cannot be finished ({error.strerror})", fix="free some space") from error
