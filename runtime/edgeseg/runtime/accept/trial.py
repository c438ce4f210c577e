"""What the checks share: the bundle, the engines and what was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median

import numpy as np

from edgeseg.runtime.accept.subject import Subject
from edgeseg.runtime.backends import Backend, open_backend
from edgeseg.runtime.backends.options import BackendOptions
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.frame import Image
from edgeseg.runtime.objective import Objective
from edgeseg.runtime.pipeline import Observer

_ROUNDS = 50
_ROUNDS_S = 5.0
_DEVICE_PRECISIONS = ("fp16", "int8")
_CPU_PRECISIONS = ("fp32", "int8-cpu", "int8")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A labelled split to score."""

    dataset: Dataset
    split: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One acceptance of a bundle on a subject."""

    subject: Subject
    bundle: Bundle
    duration_s: float
    """How long the live camera runs."""
    objectives: tuple[Objective, ...] = ()
    scored: Scored | None = None
    on_frame: Observer | None = None
    """Called with the live camera's results."""
    progress: Callable[[], AbstractContextManager[Callable[[], object]]] = lambda: nullcontext(lambda: None)
    """Shows how far scoring got: yields what is called after each image."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """The bundle's graphs that this backend is meant for, the widest first."""
        meant = _CPU_PRECISIONS if self.subject.kind == "cpu" else _DEVICE_PRECISIONS
        return tuple(one for one in meant if one in self.bundle.precisions) or ("fp32",)

    @property
    def rivals(self) -> tuple[str, ...]:
        """Those among which `--precision auto` chooses: the device's INT8 graph is computed as written on a CPU."""
        return tuple(one for one in self.precisions if not (self.subject.kind == "cpu" and one == "int8"))

    @contextmanager
    def opened(self, precision: str = "auto", options: BackendOptions | None = None) -> Iterator[Backend]:
        """Open an engine, and close it at the end."""
        engine = open_backend(self.bundle, backend=self.subject.backend, precision=precision, options=options)
        with closing(engine):
            yield engine

    def a_frame(self) -> Image:
        """Return a frame (1, H, W, 3) uint8 of the contract's size: the first golden one, else noise."""
        for _, frame, _ in self.bundle.golden_frames():
            return np.ascontiguousarray(frame[None])
        return np.random.default_rng(0).integers(0, 256, (1, *self.bundle.contract.size_hw, 3), np.uint8)


def medians_ms(engines: Sequence[Backend], frame: Image) -> list[float]:
    """Return each engine's median inference, warmed up and taken in turns, so that what slows the machine slows all."""
    for engine in engines:
        engine.warm_up()
    times_ms: list[list[float]] = [[] for _ in engines]
    ends_s = time.perf_counter() + _ROUNDS_S
    for _ in range(_ROUNDS):
        for engine, taken in zip(engines, times_ms, strict=True):
            started_s = time.perf_counter()
            engine.infer(frame)
            taken.append((time.perf_counter() - started_s) * 1e3)
        if time.perf_counter() > ends_s:
            break
    return [round(median(taken), 4) for taken in times_ms]
