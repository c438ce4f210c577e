"""Two bundles, or two precisions of one, measured in turns: for anything that claims to be faster.

Each runs in a process of its own and waits while the other works. A round is one slice of each, and the order changes
from round to round, so what slows the machine meets both. A slice's first frame is not counted: it finds the caches
full of the other's data.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from edgeseg.benchmarks.document import Bounded, BundleName, Line, Part, Size, Surroundings, TimingPolicy
from edgeseg.benchmarks.measure import CLOCK, resolve_subject
from edgeseg.benchmarks.process import Process, Subject, start_process
from edgeseg.benchmarks.segment import WARM_UP_RULE
from edgeseg.benchmarks.statistics import Estimate, estimate_interleaved_ratio
from edgeseg.benchmarks.surroundings import watch_surroundings
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.environment import environment
from edgeseg.runtime.sources import redact

LEAST_ROUNDS = 20
"""With fewer, intervals hold the truth less often than they say."""
SLICE_FRAMES = 2
LINES = ("inference_ms", "whole_path_ms")
SURE_SHARE = 0.01
"""Faster or slower by less than this is called no difference."""
_GENERATOR = (
    f"two processes in turns, first one and then the other: {SLICE_FRAMES} frames counted of {SLICE_FRAMES + 1} a turn"
)


class Side(Part):
    """One of the two."""

    bundle: BundleName
    precision: str
    backend: str
    threads: int = Field(ge=1)
    input_size: Size
    warm_up_steady: bool
    inference_ms: Line
    whole_path_ms: Line


class Versus(Part):
    """The document `edgeseg/versus/1`: two sides and the ratios of their medians, A's over B's."""

    schema_name: Literal["edgeseg/versus/1"] = Field(alias="schema")
    started: str
    a: Side
    b: Side
    rounds: int = Field(ge=LEAST_ROUNDS)
    source_size: Size
    timing_policy: TimingPolicy
    inference_ratio: Bounded
    whole_path_ratio: Bounded
    environment: dict[str, Any]
    surroundings: Surroundings

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types; what is absent is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What the user asked to be measured."""

    bundle: str
    precision: str = "auto"


def measure_versus(
    a: Contender,
    b: Contender,
    *,
    duration_s: float,
    backend: str = "auto",
    threads: int | None = None,
    source: str = "synthetic://street",
) -> Versus:
    """Measure both for about `duration_s` together. Raises `EdgesegError` for what goes wrong."""
    known = [_resolve(side, backend=backend, threads=threads, source=source) for side in (a, b)]
    started = datetime.now(timezone.utc)
    with (
        watch_surroundings() as watch,
        start_process(known[0][0]) as first,
        start_process(known[1][0]) as second,
    ):
        steady = [process.do("warm_up")["steady"] for process in (first, second)]
        times = _take_turns(first, second, duration_s)
        height, width = first.first["source_size"]
    return Versus(
        schema="edgeseg/versus/1",
        started=started.isoformat(timespec="seconds"),
        **{
            name: Side(
                **facts,
                warm_up_steady=steady[index],
                **{line: Line.of(line, times[line][index].ravel()) for line in LINES},
            )
            for index, (name, (_, facts)) in enumerate(zip("ab", known, strict=True))
        },
        rounds=len(times["inference_ms"][0]),
        source_size=(height, width),
        timing_policy=TimingPolicy(
            duration_s=duration_s, source=redact(source), warm_up=WARM_UP_RULE, clock=CLOCK, generator=_GENERATOR
        ),
        inference_ratio=Bounded.of(_ratio(times["inference_ms"])),
        whole_path_ratio=Bounded.of(_ratio(times["whole_path_ms"])),
        environment=environment(),
        surroundings=watch.found,
    )


def verdict(ratio: Bounded) -> str:
    """Say what the ratio of A's median over B's shows."""
    figures = f"A's median is {ratio.value:.3f} of B's [{ratio.low:.3f}, {ratio.high:.3f}]"
    if Estimate(value=ratio.value, low=ratio.low, high=ratio.high).excludes(1, by=SURE_SHARE):
        if ratio.value < 1:
            return f"A is faster, {figures}"
        return f"A is slower, {figures}"
    return f"no difference of more than {SURE_SHARE:.0%} is shown, {figures}"


def _resolve(side: Contender, *, backend: str, threads: int | None, source: str) -> tuple[Subject, dict[str, Any]]:
    """Return what to measure, and its facts for the document."""
    with open_bundle(side.bundle) as bundle:
        subject = resolve_subject(
            bundle, side.bundle, backend=backend, precision=side.precision, threads=threads, source=source
        )
        return subject, {
            "bundle": BundleName(name=bundle.name, manifest_sha256=bundle.manifest_sha256),
            "precision": subject.precision,
            "backend": subject.backend,
            "threads": subject.threads,
            "input_size": bundle.contract.size_hw,
        }


_Turns = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def _take_turns(first: Process, second: Process, duration_s: float) -> dict[str, _Turns]:
    """Return for each line (R, K) milliseconds of either side: K counted frames in each of R rounds."""
    found: dict[str, tuple[list[list[float]], list[list[float]]]] = {line: ([], []) for line in LINES}
    sides = [(0, first), (1, second)]
    ends_s = time.monotonic() + duration_s
    rounds = 0
    while rounds < LEAST_ROUNDS or time.monotonic() < ends_s:
        for index, process in sides if rounds % 2 == 0 else reversed(sides):
            answer = process.do("segment", count=SLICE_FRAMES + 1)
            for line in LINES:
                found[line][index].append(answer[line][1:])
        rounds += 1
    return {line: (np.array(a, np.float32), np.array(b, np.float32)) for line, (a, b) in found.items()}


def _ratio(turns: _Turns) -> Estimate:
    ratio = estimate_interleaved_ratio(turns[1], turns[0])
    assert ratio is not None  # there are LEAST_ROUNDS at least
    return ratio
