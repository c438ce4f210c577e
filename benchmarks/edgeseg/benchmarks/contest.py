"""Any number of sides measured in turns, and the ratios of their times: what `versus` is for two bundles.

Each side is a process of its own that waits while another works, so an engine may run in any environment. A round is
one turn of each, and the order changes from round to round, so what slows the machine meets all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from edgeseg.benchmarks.document import Bounded, Line, Part, Surroundings, TimingPolicy, WarmUp
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.measure import CLOCK
from edgeseg.benchmarks.process import Process, start_command
from edgeseg.benchmarks.segment import WARM_UP_RULE, warm_up
from edgeseg.benchmarks.statistics import estimate_interleaved_ratio
from edgeseg.benchmarks.surroundings import watch_surroundings
from edgeseg.runtime.environment import environment

LEAST_ROUNDS = 20
"""With fewer, intervals hold the truth less often than they say."""


class Side(Part):
    """One of those measured."""

    what: str
    facts: dict[str, Any]
    """What its process says of itself: versions, sizes, threads."""
    warm_up: WarmUp | None = None
    """None where whole turns were left out instead: the timing policy says how many."""
    frame_ms: Line
    """Milliseconds a frame; its `what` says from and to what."""
    agreement: float | None = Field(default=None, ge=0, le=100)
    """Percent of pixels whose class is that of the reference, where masks were compared."""


class Ratio(Part):
    """The median time of the side `of` over that of the side `over`; where `of` is the slower it is how many times
    as many frames a second `over` does."""

    of: str
    over: str
    time: Bounded


class Contest(Part):
    """The document `edgeseg/contest/1`."""

    schema_name: Literal["edgeseg/contest/1"] = Field(alias="schema")
    about: str
    started: str
    sides: dict[str, Side]
    ratios: tuple[Ratio, ...]
    rounds: int = Field(ge=LEAST_ROUNDS)
    timing_policy: TimingPolicy
    environment: dict[str, Any]
    surroundings: Surroundings
    figures: dict[str, Bounded] = Field(default_factory=dict)
    """What else the sides' samples tell, by the names that the command's page explains."""
    absent: dict[str, str] = Field(default_factory=dict)
    """What was asked for and could not be measured here, and why."""

    def rounds_ms(self, side: str) -> npt.NDArray[np.float32]:
        """Return (rounds, K) milliseconds of a side."""
        return self.sides[side].frame_ms.samples_ms.reshape(self.rounds, -1)

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types; what is absent is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A side before it is measured."""

    name: str
    what: str
    command: Sequence[str]
    """Starts a process that says what it is as one line of JSON once it is ready, and answers each line
    `{"do": "run", "count": N}` with `{"ms": […]}`, the frame times of a turn."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a turn is."""

    timed: str
    """From and to what a frame's time runs."""
    frames: int
    """A turn's frames; of each turn, `uncounted` of its times come first and are left out."""
    uncounted: int = 0
    warm_up_turns: int | None = None
    """How many turns are left out first; None warms up frame by frame, by `WARM_UP_RULE`."""
    environment: dict[str, str]
    """Set in each process, beside what this one has."""


Judge = Callable[[dict[str, Process]], dict[str, float]]
"""Asks the processes, warm and before any turn, and returns their agreement in percent."""


def hold_contest(
    about: str,
    contestants: Sequence[Contestant],
    pairs: Sequence[tuple[str, str]],
    turn: Turn,
    *,
    duration_s: float,
    source: str,
    judge: Judge = lambda processes: {},
    absent: dict[str, str] | None = None,
) -> Contest:
    """Measure all for about `duration_s` together, warm-up not counted, and give the ratio of each pair (of, over).

    Raises `BenchmarkError` for what goes wrong in a side.
    """
    names = [contestant.name for contestant in contestants]
    if len(set(names)) != len(names):
        raise BenchmarkError(f"sides {', '.join(names)}", expected="a name for each", fix="name each side once")
    started = datetime.now(timezone.utc)
    with watch_surroundings() as watch, ExitStack() as stack:
        processes = {
            contestant.name: stack.enter_context(
                start_command(contestant.name, contestant.command, environment={**os.environ, **turn.environment})
            )
            for contestant in contestants
        }
        warmths = {name: _warm_up(process, turn) for name, process in processes.items()}
        agreement = judge(processes)
        times = _take_turns(processes, turn, duration_s)
        facts = {name: process.first for name, process in processes.items()}
    return Contest(
        schema="edgeseg/contest/1",
        about=about,
        started=started.isoformat(timespec="seconds"),
        sides={
            contestant.name: Side(
                what=contestant.what,
                facts=facts[contestant.name],
                warm_up=warmths[contestant.name],
                frame_ms=Line.of("whole_path_ms", times[contestant.name].ravel()).model_copy(
                    update={"what": turn.timed}
                ),
                agreement=agreement.get(contestant.name),
            )
            for contestant in contestants
        },
        ratios=tuple(Ratio(of=of, over=over, time=_ratio(times[of], times[over])) for of, over in pairs),
        rounds=len(times[names[0]]),
        timing_policy=TimingPolicy(
            duration_s=duration_s,
            source=source,
            warm_up=WARM_UP_RULE if turn.warm_up_turns is None else f"{turn.warm_up_turns} turns of each",
            clock=CLOCK,
            generator=f"processes in turns: {turn.frames} frames a turn, the first {turn.uncounted} not counted",
        ),
        environment=environment(),
        surroundings=watch.found,
        absent=absent or {},
    )


def _warm_up(process: Process, turn: Turn) -> WarmUp | None:
    if turn.warm_up_turns is None:
        found = warm_up(lambda index: float(process.do("run", count=1)["ms"][0]))
        return WarmUp(frames=found.frames, seconds=found.seconds, steady=found.steady)
    for _ in range(turn.warm_up_turns):
        process.do("run", count=turn.frames)
    return None


_Turns = npt.NDArray[np.float32]


def _take_turns(processes: dict[str, Process], turn: Turn, duration_s: float) -> dict[str, _Turns]:
    """Return for each side (R, K) milliseconds: K counted times in each of R rounds."""
    found: dict[str, list[list[float]]] = {name: [] for name in processes}
    names = list(processes)
    ends_s = time.monotonic() + duration_s
    rounds = 0
    while rounds < LEAST_ROUNDS or time.monotonic() < ends_s:
        shift = rounds % len(names)
        for name in [*names[shift:], *names[:shift]]:
            found[name].append(processes[name].do("run", count=turn.frames)["ms"][turn.uncounted :])
        rounds += 1
    return {name: np.array(rows, np.float32) for name, rows in found.items()}


def _ratio(of: _Turns, over: _Turns) -> Bounded:
    ratio = estimate_interleaved_ratio(over, of)
    assert ratio is not None  # there are LEAST_ROUNDS at least
    return Bounded.of(ratio)
