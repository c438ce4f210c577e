"""What each thread of a run did when, as a trace that ui.perfetto.dev and chrome://tracing open.

The form is Chrome's trace-event JSON ("Trace Event Format", Google): one complete event for each step, and an arrow
along each frame's way from thread to thread.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from edgeseg.runtime.frame import Result
from edgeseg.runtime.sinks import Sink

MAX_STEPS = 200_000
"""A trace that is longer is slow to open. What comes later is left out, and said."""
NO_FRAME = -1
"""The id that is given for what is done for no frame."""
_PREFIX = "edgeseg-"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a thread did, by the host's monotonic clock."""

    thread: int
    name: str
    frame_id: int
    began_ns: int
    ended_ns: int

    @property
    def ms(self) -> float:
        return (self.ended_ns - self.began_ns) / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """All of one thread's steps of a name."""

    thread: str
    step: str
    count: int
    median_ms: float
    total_ms: float

    def document(self) -> dict[str, Any]:
        """Return the fields as JSON's types."""
        return {
            "thread": self.thread,
            "step": self.step,
            "count": self.count,
            "median_ms": round(self.median_ms, 4),
            "total_ms": round(self.total_ms, 3),
        }


class Trace:
    """Gathers steps from any number of threads, in memory that does not grow beyond `limit` steps."""

    def __init__(self, *, limit: int = MAX_STEPS, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns, self._limit = now_ns, limit
        self.began_ns = now_ns()
        self.steps: list[Step] = []
        self.truncated = False
        """Whether steps were left out."""
        self._names: dict[int, str] = {}
        self._last_ns: dict[int, int] = {}

    def mark(self, name: str, frame_id: int) -> None:
        """Say that step `name` for a frame, or for `NO_FRAME`, ended now in this thread.

        It began when the thread's step before it ended, or for a thread's first when the trace began.
        """
        thread, now_ns = threading.get_ident(), self._now_ns()
        if thread not in self._names:
            # What follows a colon is a path, which is nobody's business.
            self._names[thread] = threading.current_thread().name.removeprefix(_PREFIX).partition(":")[0]
        if len(self.steps) < self._limit:
            self.steps.append(Step(thread, name, frame_id, self._last_ns.get(thread, self.began_ns), now_ns))
        else:
            self.truncated = True
        self._last_ns[thread] = now_ns

    def costs(self) -> list[StepCost]:
        """Return what the steps took, by thread and name, the most expensive first."""
        times_ms: dict[tuple[str, str], list[float]] = defaultdict(list)
        for step in self.steps:
            times_ms[self._names[step.thread], step.name].append(step.ms)
        found = [
            StepCost(thread=thread, step=name, count=len(ms), median_ms=median(ms), total_ms=sum(ms))
            for (thread, name), ms in times_ms.items()
        ]
        return sorted(found, key=lambda cost: cost.total_ms, reverse=True)

    def document(self, extra: Sequence[Step] = (), *, extra_name: str = "engine") -> dict[str, Any]:
        """Return the trace as JSON's types. `extra` are further steps, shown as a thread called `extra_name`."""
        threads = {thread: index for index, thread in enumerate(self._names, start=1)}
        threads[NO_FRAME] = len(threads) + 1
        names = {**self._names, NO_FRAME: extra_name}
        shown = [*self.steps, *(Step(NO_FRAME, *_facts(step)) for step in extra)]
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": {"name": names[thread]}}
            for thread, number in threads.items()
            if thread != NO_FRAME or extra
        ]
        events.insert(0, {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "edgeseg"}})
        events += [self._event(step, threads[step.thread]) for step in shown]
        events += self._arrows(threads)
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"truncated": self.truncated}}

    def _event(self, step: Step, number: int) -> dict[str, Any]:
        return {
            "ph": "X",
            "name": step.name,
            "cat": "edgeseg",
            "pid": 1,
            "tid": number,
            "ts": self._us(step.began_ns),
            "dur": (step.ended_ns - step.began_ns) / 1e3,
            "args": {} if step.frame_id == NO_FRAME else {"frame": step.frame_id},
        }

    def _arrows(self, threads: dict[int, int]) -> Iterator[dict[str, Any]]:
        """Yield for each frame an arrow through the first step that each thread did for it, waiting left out.

        None where several cameras were read: ids are each camera's own.
        """
        if len({step.thread for step in self.steps if step.name == "capture"}) > 1:
            return
        ways: dict[int, dict[int, Step]] = defaultdict(dict)
        for step in self.steps:
            if step.frame_id != NO_FRAME and step.name != "wait":
                ways[step.frame_id].setdefault(step.thread, step)
        for frame_id, way in ways.items():
            stops = sorted(way.values(), key=lambda step: step.began_ns)
            for index, step in enumerate(stops if len(stops) > 1 else ()):
                phase = "s" if index == 0 else "f" if index == len(stops) - 1 else "t"
                place = {"pid": 1, "tid": threads[step.thread], "ts": self._us(step.began_ns)}
                yield {"ph": phase, "bp": "e", "name": "frame", "cat": "edgeseg", "id": frame_id, **place}

    def _us(self, at_ns: int) -> float:
        return (at_ns - self.began_ns) / 1e3


def _facts(step: Step) -> tuple[str, int, int, int]:
    return step.name, step.frame_id, step.began_ns, step.ended_ns


class TracedSink:
    """Passes results on to `sink` and marks what each took."""

    def __init__(self, sink: Sink, trace: Trace) -> None:
        self.spec = sink.spec
        self._sink, self._mark, self._name = sink, trace.mark, sink.spec.partition(":")[0]

    def write(self, result: Result) -> None:
        self._mark("wait", result.frame.id)
        self._sink.write(result)
        self._mark(self._name, result.frame.id)

    def close(self) -> None:
        self._sink.close()
