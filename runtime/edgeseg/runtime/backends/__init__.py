"""Engines behind one protocol, each in a module that is imported only when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.first_use import find_failure, say_once
from edgeseg.runtime.frame import Image, Mask


class Backend(Protocol):
    """Runs a bundle's graph. All three methods are called from one thread."""

    name: str
    precision: str

    def infer(self, frame: Image) -> Mask:
        """Segment `frame` (1, H, W, 3 uint8 BGR, of the contract's size), which the caller overwrites afterwards.

        Returns (1, H, W) uint8 class indices, which the next call may overwrite.
        """

    def warm_up(self) -> None:
        """Infer until the time of a frame is steady, so that the first real one is not slow."""

    def close(self) -> None:
        """Give the engine's memory back; safe to call twice."""


BACKENDS = {
    "ort": "edgeseg.runtime.backends.ort:OrtBackend",
    "tensorrt": "edgeseg.runtime.backends.tensorrt:TensorRTBackend",
    "null": "edgeseg.runtime.backends.null:NullBackend",
}
"""Name -> `module:class`. `auto` is tensorrt where that is installed, else ort; `null` is never chosen by itself."""

_WARM_UP_LIMIT = 12
_STEADY_SHARE = 0.1


def open_backend(
    bundle: Bundle, *, backend: str = "auto", precision: str = "auto", threads: int | None = None
) -> Backend:
    """Load the graph of `bundle` into an engine.

    `precision` `auto` is the fastest that passed its gate when the bundle was made and gives the golden frames on this
    machine; what fails is passed over, and said so on standard error, once. A precision that is named is opened
    whatever comes of them, and said so too. `threads` None leaves the engine its own choice. Raises `BackendError`
    for an unknown backend, one that is not installed, a graph that the engine refuses, and if no precision gives the
    golden frames; `BundleError` for a precision that the bundle lacks.
    """
    name = _choose_backend(threads) if backend == "auto" else backend
    if name not in BACKENDS:
        raise BackendError(f"backend {backend!r} is unknown", expected=f"auto or one of {', '.join(BACKENDS)}")
    if precision != "auto":
        bundle.model_path(precision)
    if threads is not None and threads < 1:
        raise BackendError(f"{threads} threads", expected="at least 1")
    module, _, attribute = BACKENDS[name].partition(":")
    engine = getattr(import_module(module), attribute)
    if name == "null":  # it computes nothing, so golden frames cannot come out
        return cast(Backend, engine(bundle, precision, threads))
    if precision == "auto":
        passed = {"fp32", *bundle.manifest.stages}
        candidates = [candidate for candidate in engine.candidates(bundle) if candidate in passed]
    else:
        candidates = [precision]
    for candidate in candidates:
        opened: Backend = engine(bundle, candidate, threads)
        failure = find_failure(bundle, opened)
        if failure is not None:
            say_once(failure)
        if failure is None or precision != "auto":
            return opened
        opened.close()
    raise BackendError(
        f"no precision of {bundle.name} gives its golden frames on this machine",
        fix="update the engine, or name a --precision to run it all the same",
    )


def _choose_backend(threads: int | None) -> str:
    # Who names a number of threads means the CPU.
    return "tensorrt" if threads is None and find_spec("tensorrt") is not None else "ort"


def run_until_steady(run: Callable[[], object]) -> None:
    """Call `run` until its time is within 10 % of the best so far, three times at least and twelve at most."""
    best_s = float("inf")
    for index in range(_WARM_UP_LIMIT):
        started_s = time.perf_counter()
        run()
        took_s = time.perf_counter() - started_s
        if index >= 2 and abs(took_s - best_s) <= _STEADY_SHARE * best_s:
            return
        best_s = min(best_s, took_s)
