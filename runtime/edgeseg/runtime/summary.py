"""What a run amounts to: counts, rates, percentiles and, where the source knows the truth, scores.

Memory is the same after a minute and after a month: percentiles come from histograms with logarithmic bins, the
method of HdrHistogram and DDSketch (Masson, Rim and Lee, "DDSketch", VLDB 2019), not from stored samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Frame, Result
from edgeseg.runtime.outlet import SinkReport
from edgeseg.runtime.sources.faults import Fault
from edgeseg.runtime.street import STREET_CLASSES, STREET_IGNORE

PERCENTILES = (50, 90, 95, 99)


class LogHistogram:
    """Percentiles of positive values to within 0.5 % between `LEAST` and `MOST`, in memory that does not grow.

    What is less than `LEAST` counts as `LEAST`; what is more than `MOST` is only exact as the maximum.
    """

    LEAST = 1e-3
    MOST = 1e7
    _LOG_STEP = math.log(1.01)

    def __init__(self) -> None:
        self.count = 0
        self.max = 0.0
        self._bins = [0] * (self._bin(self.MOST) + 1)

    def _bin(self, value: float) -> int:
        # Rounded, so that a bin's value is its middle: half a step of 1 % to either side.
        return round(math.log(min(max(value, self.LEAST), self.MOST) / self.LEAST) / self._LOG_STEP)

    def add(self, value: float) -> None:
        """Count one value."""
        self._bins[self._bin(value)] += 1
        self.count += 1
        self.max = max(self.max, value)

    def percentile(self, percent: float) -> float:
        """Return the least value that `percent` (0 to 100) of all values do not exceed (nearest rank).

        Raises `ValueError` if nothing was counted.
        """
        if not self.count:
            raise ValueError("no values")
        rank, seen = max(1, math.ceil(percent / 100 * self.count)), 0
        for index, amount in enumerate(self._bins):
            seen += amount
            if seen >= rank:
                return min(self.LEAST * math.exp(index * self._LOG_STEP), self.max)
        return self.max

    def document(self) -> dict[str, float] | None:
        """Return `{p50, p90, p95, p99, max}`, to the microsecond where values are milliseconds; None without values."""
        if not self.count:
            return None
        figures = {f"p{percent}": round(self.percentile(percent), 3) for percent in PERCENTILES}
        return {**figures, "max": round(self.max, 3)}


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The figures of a run so far. A figure that is not there is None."""

    frames: int
    """Frames whose masks were handed to the sinks."""
    drops: Mapping[str, int]
    """Frames that got no mask, by the stage that was not ready for them."""
    fps: float | None
    """`frames` over the time from the first capture to the last mask."""
    inference_ms: Mapping[str, float] | None
    frame_age_ms: Mapping[str, float] | None
    overhead_ms: Mapping[str, float] | None
    clock: str
    """Where capture times come from: `driver`, `arrival` or `synthetic`."""
    faults: tuple[Fault, ...] = ()
    """What the source survived, the newest thousand."""
    sinks: tuple[SinkReport, ...] = ()
    """What each sink took and dropped of `frames`."""
    confusion: ConfusionMatrix | None = None
    """Over the frames that carried truth; None if none did, or if the network has other classes."""

    @property
    def dropped(self) -> int:
        """All drops together."""
        return sum(self.drops.values())

    def document(self) -> dict[str, Any]:
        """Return the figures as JSON's types; those that are not there are left out."""
        fields: dict[str, Any] = {
            "frames": self.frames,
            "dropped": self.dropped,
            "drops": dict(self.drops),
            "fps": None if self.fps is None else round(self.fps, 3),
            "inference_ms": self.inference_ms,
            "frame_age_ms": self.frame_age_ms,
            "overhead_ms": self.overhead_ms,
            "clock": self.clock,
            "faults": [fault.document() for fault in self.faults],
            "sinks": [sink.document() for sink in self.sinks],
        }
        if self.confusion is not None:
            fields.update(self.confusion.document())
        return {name: value for name, value in fields.items() if value is not None}


class RunRecorder:
    """Gathers a run's figures. Each of `captured`, `masked` and `scored` is for one thread, `summary` for any."""

    def __init__(
        self,
        contract: Contract,
        *,
        clock: Callable[[], str],
        drops: Callable[[], dict[str, int]],
        sinks: Callable[[], tuple[SinkReport, ...]] = tuple,
        faults: Callable[[], tuple[Fault, ...]] = tuple,
    ) -> None:
        self._contract, self._clock, self._drops, self._sinks, self._faults = contract, clock, drops, sinks, faults
        self._inference_ms, self._frame_age_ms, self._overhead_ms = LogHistogram(), LogHistogram(), LogHistogram()
        self._confusion: ConfusionMatrix | None = None
        # Only the street camera knows the truth, and only its own classes can be scored with it.
        self._scored = contract.classes == tuple(STREET_CLASSES) and contract.ignore_index == STREET_IGNORE
        self._first_captured_ns: int | None = None
        self._last_masked_ns = 0
        self._next_id = 0
        self.frames = 0
        self.skipped = 0
        """Gaps in the source's own ids: frames that it had no taker for."""

    def captured(self, frame: Frame) -> None:
        """Note a frame as it leaves the source."""
        if self._first_captured_ns is None:
            self._first_captured_ns = frame.captured_ns
        self.skipped += frame.id - self._next_id
        self._next_id = frame.id + 1

    def masked(self, result: Result) -> None:
        """Note a result that is handed to the sinks."""
        self.frames += 1
        self._last_masked_ns = result.masked_ns
        self._inference_ms.add(result.inference_ms)
        self._frame_age_ms.add(result.frame_age_ms)
        self._overhead_ms.add(result.frame_age_ms - result.inference_ms)

    def scored(self, result: Result) -> None:
        """Compare a mask with the truth, where its frame carries it."""
        if self._scored and result.frame.truth is not None:
            if self._confusion is None:
                self._confusion = ConfusionMatrix(self._contract.classes, self._contract.ignore_index)
            self._confusion.add(result.frame.truth, result.mask)

    def summary(self) -> RunSummary:
        """Return the figures so far."""
        elapsed_s = (self._last_masked_ns - (self._first_captured_ns or 0)) / 1e9 if self.frames else 0.0
        return RunSummary(
            frames=self.frames,
            drops=self._drops(),
            fps=self.frames / elapsed_s if elapsed_s > 0 else None,
            inference_ms=self._inference_ms.document(),
            frame_age_ms=self._frame_age_ms.document(),
            overhead_ms=self._overhead_ms.document(),
            clock=self._clock(),
            faults=self._faults(),
            sinks=self._sinks(),
            confusion=self._confusion,
        )
