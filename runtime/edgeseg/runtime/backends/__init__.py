"""Engines behind one protocol, each in a module that is imported only when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.errors import BackendError
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
    "null": "edgeseg.runtime.backends.null:NullBackend",
}
"""Name -> `module:class`, in the order in which `auto` prefers them. `null` is never chosen by itself."""

_AUTO = "ort"
_WARM_UP_LIMIT = 12
_STEADY_SHARE = 0.1


def open_backend(
    bundle: Bundle, *, backend: str = "auto", precision: str = "auto", threads: int | None = None
) -> Backend:
    """Load the graph of `bundle` into an engine.

    `precision` `auto` is the fastest of the bundle's that the engine computes faithfully. `threads` None leaves the
    engine its own choice. Raises `BackendError` for an unknown backend, one that is not installed, and a graph that the
    engine refuses, `BundleError` for a precision that the bundle lacks.
    """
    name = _AUTO if backend == "auto" else backend
    if name not in BACKENDS:
        raise BackendError(f"backend {backend!r} is unknown", expected=f"auto or one of {', '.join(BACKENDS)}")
    if precision != "auto":
        bundle.model_path(precision)
    if threads is not None and threads < 1:
        raise BackendError(f"{threads} threads", expected="at least 1")
    module, _, attribute = BACKENDS[name].partition(":")
    factory: Callable[[Bundle, str, int | None], Backend] = getattr(import_module(module), attribute)
    return factory(bundle, precision, threads)


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
