"""Engines behind one protocol, each in a module that is imported only when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from edgeseg.runtime.backends.options import BackendOptions
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.engine.api import is_installed
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.first_use import find_failure, say_once
from edgeseg.runtime.frame import Confidence, Image, Mask


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


def read_confidence(backend: Backend) -> Confidence | None:
    """Return how sure `backend` was in its latest `infer`: (1, rows, columns), which its next may overwrite.

    None where the contract names no `confidence_cell`, or the backend does not tell.
    """
    found: Confidence | None = getattr(backend, "confidence", None)
    return found


BACKENDS = {
    "ort": "edgeseg.runtime.backends.ort:OrtBackend",
    "ort-cuda": "edgeseg.runtime.backends.ort_gpu:OrtCudaBackend",
    "ort-tensorrt": "edgeseg.runtime.backends.ort_gpu:OrtTensorRTBackend",
    "ort-rtx": "edgeseg.runtime.backends.ort_gpu:OrtRtxBackend",
    "tensorrt": "edgeseg.runtime.backends.tensorrt:TensorRTBackend",
    "null": "edgeseg.runtime.backends.null:NullBackend",
}
"""Name -> `module:class`. `auto` is tensorrt where that is installed, else ort; no other is chosen by itself."""

_WARM_UP_LIMIT = 12
_STEADY_SHARE = 0.1


def open_backend(
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    options: BackendOptions | None = None,
) -> Backend:
    """Load the graph of `bundle` into an engine.

    `backend` `auto` is TensorRT where that is installed and no number of `threads` is given; where it cannot be opened
    (no GPU, no memory, no engine and none may be built) the CPU, and why is said on standard error, once.

    `precision` `auto` is the fastest that passed its gate when the bundle was made and gives the golden frames on this
    machine; what fails is passed over, and said so once. A precision that is named is opened whatever comes of them,
    and said so too.

    `threads` None leaves the engine its own choice. `options` None are the environment's: `BackendOptions`; an engine
    refuses those that it cannot follow. Raises `BackendError` for an unknown backend, one that is not installed, a
    graph that the engine refuses, and if no precision gives the golden frames; `BundleError` for a precision that the
    bundle lacks.
    """
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"backend {backend!r} is unknown", expected=f"auto or one of {', '.join(BACKENDS)}")
    if precision != "auto":
        bundle.model_path(precision)
    if threads is not None and threads < 1:
        raise BackendError(f"{threads} threads", expected="at least 1")
    wanted = options or BackendOptions.from_environment()
    if backend != "auto":
        return _open(bundle, backend, precision, threads, wanted)
    if threads is None and is_installed():  # who names a number of threads means the CPU
        try:
            return _open(bundle, "tensorrt", precision, None, wanted)
        except BackendError as error:
            say_once(f"{bundle.name} runs on the CPU: {error}")
    return _open(bundle, "ort", precision, threads, BackendOptions(build=wanted.build))


def _open(bundle: Bundle, name: str, precision: str, threads: int | None, options: BackendOptions) -> Backend:
    module, _, attribute = BACKENDS[name].partition(":")
    engine = getattr(import_module(module), attribute)
    if name == "null":  # it computes nothing, so golden frames cannot come out
        return cast(Backend, engine(bundle, precision, threads, options))
    if precision == "auto":
        passed = {"fp32", *bundle.manifest.stages}
        candidates = [candidate for candidate in engine.candidates(bundle, options) if candidate in passed]
    else:
        candidates = [precision]
    for candidate in candidates:
        opened: Backend = engine(bundle, candidate, threads, options)
        try:
            failure = find_failure(bundle, opened)
        except BaseException:
            opened.close()
            raise
        if failure is not None:
            say_once(failure)
        if failure is None or precision != "auto":
            return opened
        opened.close()
    raise BackendError(
        f"no precision of {bundle.name} gives its golden frames on this machine",
        fix="update the engine, or name a --precision to run it all the same",
    )


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
