"""TensorRT on an NVIDIA GPU, with a plan that this device built, sealed and kept.

Every inference is one chain on one stream: copy in, enqueue, copy out, event; and the host waits for that event. All
but the event may be one CUDA graph, launched at once instead of kernel by kernel. All buffers are made once. Pinned
memory is written only while nothing is queued, and nothing is given back before the stream was waited for.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from edgeseg.runtime.backends import run_until_steady
from edgeseg.runtime.backends.cuda import Gpu, Held, OutOfMemoryError, abandon, open_gpu
from edgeseg.runtime.backends.options import DEFAULTS, BackendOptions
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.contract import CONFIDENCE, Contract
from edgeseg.runtime.engine.api import load_tensorrt, shared_logger
from edgeseg.runtime.engine.cache import UnusableError
from edgeseg.runtime.engine.choice import Engines
from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.frame import Confidence, Image, Mask

_log = logging.getLogger(__name__)

_BUSY_LIMIT_S = 2.0
_TIMED_RUNS = 20


class PlanRunner:
    """A plan in the GPU's memory, with its buffers. `infer`, `warm_up` and `close` may each come from any thread."""

    name = "tensorrt"
    backend_ms: float | None = None
    """What the network took in the last inference by the GPU's own clock, copies not included. None in a graph."""
    confidence: Confidence | None = None
    """(1, rows, columns) of the last inference, where the engine tells it."""

    def __init__(
        self,
        trt: Any,
        gpu: Gpu,
        plan: bytes,
        contract: Contract,
        precision: str,
        *,
        zero_copy: bool = False,
        graph: bool | None = None,
    ) -> None:
        """Load `plan`, which must have been sealed by this device. Raises `BackendError`, and leaves nothing behind.

        `zero_copy` lets the GPU read frames from and write masks to the host's memory; only where they share it.
        `graph` True launches a CUDA graph, False never does; None leaves it to `warm_up`, which times both.
        """
        if zero_copy and not gpu.integrated:
            raise BackendError(
                f"{gpu.name} has memory of its own", expected="an integrated GPU for zero-copy", fix="copy instead"
            )
        self.precision = precision
        self.device = f"{gpu.name} ({gpu.capability})"
        self.launch_ms: dict[str, float] = {}
        """What `warm_up` found: the median inference `plain` and by `graph`. Empty where it did not compare."""
        self._trt, self._gpu, self.zero_copy = trt, gpu, zero_copy
        self._shape = (1, *contract.size_hw, 3)
        cells = contract.confidence_hw
        shapes = {"mask": self._shape[:3], **({} if cells is None else {CONFIDENCE: (1, *cells)})}
        self._found = {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}
        """What the last inference gave, by the name of the output."""
        self._held: list[Held] = []
        self._graph: Held | None = None
        self.by_graph = bool(graph)
        """Whether an inference is launched as a CUDA graph."""
        self._is_to_compare = graph is None and gpu.can_record
        self._one_at_a_time = threading.Lock()
        self._closed = False
        self._runtime = self._engine = self._context = None
        with gpu.current():
            try:
                self._load(plan)
                self._make_buffers()
                if graph:
                    self._record_graph()
            except BaseException:
                self._give_back()
                raise

    def _load(self, plan: bytes) -> None:
        logger, errors = shared_logger(self._trt)
        errors.take()
        self._runtime = self._trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan) if self._runtime is not None else None
        if self._engine is None:
            raise _refusal("TensorRT does not load the engine", errors.take())
        self._check_tensors()
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise _refusal("TensorRT makes no execution context", errors.take())

    def _check_tensors(self) -> None:
        """Raise `BackendError` unless the engine's tensors are the contract's, and no more."""
        trt = self._trt
        assert self._engine is not None
        expected = {
            "frame": (trt.TensorIOMode.INPUT, trt.DataType.UINT8, self._shape),
            **{name: (trt.TensorIOMode.OUTPUT, trt.DataType.UINT8, found.shape) for name, found in self._found.items()},
        }
        found = dict(map(self._describe_tensor, range(self._engine.num_io_tensors)))
        if found != expected:
            said = ", ".join(f"{name} {dtype} {shape}" for name, (_, dtype, shape) in found.items())
            wanted = f"frame uint8 {self._shape} and {', '.join(self._found)}"
            raise BackendError(f"the engine has {said}", expected=wanted, fix=_BUILD_FIX)

    def _describe_tensor(self, index: int) -> tuple[str, tuple[Any, Any, tuple[int, ...]]]:
        # No local name for the engine: a traceback would keep it alive beyond its runtime.
        assert self._engine is not None
        name = self._engine.get_tensor_name(index)
        shape = tuple(self._engine.get_tensor_shape(name))
        return name, (self._engine.get_tensor_mode(name), self._engine.get_tensor_dtype(name), shape)

    def _make_buffers(self) -> None:
        gpu, mapped = self._gpu, self.zero_copy
        self._stream = self._hold(gpu.stream())
        self._done = self._hold(gpu.event())
        self._began, self._ended = self._hold(gpu.timed_event()), self._hold(gpu.timed_event())
        self._host_frame = self._hold(gpu.host_array(self._shape, "the frame", mapped=mapped))
        self._host_out = {
            name: self._hold(gpu.host_array(found.shape, f"the {name}", mapped=mapped))
            for name, found in self._found.items()
        }
        if mapped:
            self._frame, self._out = self._host_frame, self._host_out
        else:
            self._frame = self._hold(gpu.allocate(math.prod(self._shape), "the frame"))
            self._out = {
                name: self._hold(gpu.allocate(found.size, f"the {name}")) for name, found in self._found.items()
            }
        assert self._context is not None
        for name, memory in (("frame", self._frame), *self._out.items()):
            if not self._context.set_tensor_address(name, memory.handle):
                raise BackendError(f"TensorRT refuses the address of {name}", fix=_BUILD_FIX)

    def _hold(self, held: Any) -> Any:
        self._held.append(held)
        return held

    def infer(self, frame: Image) -> Mask:
        """Segment `frame` (1, H, W, 3 uint8). Returns (1, H, W) uint8, overwritten by the next call.

        Raises `BackendError`; after that one the next call starts afresh, if the GPU still answers.
        """
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise BackendError(f"frame of shape {frame.shape}, {frame.dtype}", expected=f"{self._shape}, uint8")
        with self._alone():
            np.copyto(self._host_frame.array, frame)
            self._run()
            for name, found in self._found.items():
                np.copyto(found, self._host_out[name].array)
        self.confidence = self._found.get(CONFIDENCE)
        return self._found["mask"]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads from the buffers for a block, with the context current, and leave nothing queued."""
        with self._one_at_a_time:
            if self._closed:
                raise BackendError("the engine was closed", fix="open the backend again")
            with self._gpu.current():
                try:
                    yield
                except BaseException:
                    # What was queued still reads and writes the buffers.
                    with suppress(BackendError):
                        self._gpu.wait_stream(self._stream)
                    raise

    def _run(self) -> None:
        gpu, stream = self._gpu, self._stream
        graph = self._graph if self.by_graph else None
        if graph is not None:
            gpu.launch(graph, stream)
        else:
            self._queue()
        gpu.record(self._done, stream)
        gpu.wait_event(self._done)
        self.backend_ms = gpu.elapsed_ms(self._began, self._ended) if graph is None else None

    def _queue(self, *, timed: bool = True) -> None:
        gpu, stream = self._gpu, self._stream
        if not self.zero_copy:
            gpu.copy_in(self._frame, self._host_frame, stream)
        if timed:
            gpu.record(self._began, stream)
        assert self._context is not None
        if not self._context.execute_async_v3(stream.handle):
            raise _refusal("TensorRT did not run the engine", shared_logger(self._trt)[1].take())
        if timed:
            gpu.record(self._ended, stream)
        if not self.zero_copy:
            for name, memory in self._out.items():
                gpu.copy_out(self._host_out[name], memory, stream)

    def _record_graph(self) -> None:
        self._host_frame.array[...] = 127
        self._run()  # TensorRT puts off work to the first enqueue after an address was set, and that cannot be recorded
        self._graph = self._gpu.record_graph(self._stream, partial(self._queue, timed=False))

    def report_layers(self, profiler: Any) -> None:
        """Have `profiler`, an `IProfiler`, told each layer's time of every inference from now on."""
        assert self._context is not None
        self._context.profiler = profiler

    def warm_up(self) -> None:
        """Infer grey frames until the time is steady; if it is left to us, see whether a CUDA graph is faster."""
        frame = np.full(self._shape, 127, np.uint8)
        run_until_steady(lambda: self.infer(frame))
        if self._is_to_compare:
            self._is_to_compare = False
            try:
                with self._alone():
                    self._record_graph()
                self._compare(frame)
            except BackendError as error:
                self.by_graph = False
                _log.info("no CUDA graph: %s", error)

    def _compare(self, frame: Image) -> None:
        """Keep the graph if it is faster, and gives the same mask of noise."""
        noise, masks = np.random.default_rng(0).integers(0, 256, self._shape, np.uint8), []
        for self.by_graph in (False, True):
            masks.append(self.infer(noise).copy())
        if not np.array_equal(masks[0], masks[1]):
            self.by_graph = False
            _log.warning(
                "%s: a CUDA graph gives another mask than the engine without it: it is not used", self.precision
            )
            return
        times_s: dict[bool, list[float]] = {False: [], True: []}
        for self.by_graph in (False, True) * _TIMED_RUNS:  # in turns, so that what slows the machine slows both
            started_s = time.perf_counter()
            self.infer(frame)
            times_s[self.by_graph].append(time.perf_counter() - started_s)
        plain_ms, graph_ms = (median(times_s[way]) * 1e3 for way in (False, True))
        self.launch_ms = {"plain": plain_ms, "graph": graph_ms}
        self.by_graph = graph_ms < plain_ms

    def close(self) -> None:
        """Wait for the GPU and give everything back; safe to call twice.

        Where an inference does not end or the GPU is lost, what it uses is left to the process's end.
        """
        if not self._one_at_a_time.acquire(timeout=_BUSY_LIMIT_S):
            _log.warning("an inference still runs: the GPU's memory is given back when this process ends")
            return
        try:
            if self._closed:
                return
            with self._gpu.current():
                self._closed = True
                self._give_back()
        except BackendError as error:
            _log.warning("the GPU's memory is given back when this process ends: %s", error)
            self._closed = True
            abandon(self._held, self._graph, self._context, self._engine, self._runtime)
        finally:
            self._one_at_a_time.release()

    def _give_back(self) -> None:
        """Free in the order of use, last first; the engine before the runtime that made it."""
        stream = getattr(self, "_stream", None)
        if stream is not None:
            with suppress(BackendError):
                self._gpu.wait_stream(stream)
        if self._graph is not None:
            self._graph.close()
        self._context = None
        self._engine = None
        self._runtime = None
        while self._held:
            self._held.pop().close()


_BUILD_FIX = "edgeseg build --rebuild BUNDLE"


def _refusal(doing: str, reason: str) -> BackendError:
    found = f"{doing}: {reason or 'no reason given'}"
    if "memory" in reason.lower():
        return OutOfMemoryError(found, fix="end other programs that use the GPU, or use a smaller network")
    return BackendError(found, fix=f"{_BUILD_FIX}; if that fails restart the device and look into dmesg")


class TensorRTBackend(PlanRunner):
    """The bundle's engine from the cache, built first if it is not there."""

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "auto",
        threads: int | None = None,
        options: BackendOptions = DEFAULTS,
    ) -> None:
        """Load it. `threads` must be None: a GPU has none to choose. Raises `BackendError`."""
        if threads is not None:
            raise BackendError("--threads with backend tensorrt", fix="leave it out: it is for backend ort")
        trt, gpu = load_tensorrt(), open_gpu()
        chosen = self.candidates(bundle, options)[0] if precision == "auto" else precision
        engines = Engines(trt, gpu)
        try:
            plan = engines.plan(bundle, chosen) if options.build else engines.load(bundle, chosen)
        except UnusableError as reason:
            raise BackendError(str(reason), fix=f"edgeseg build {bundle.name}") from None
        super().__init__(trt, gpu, plan, bundle.contract, chosen, zero_copy=options.zero_copy, graph=options.graph)

    @staticmethod
    def candidates(bundle: Bundle, options: BackendOptions = DEFAULTS) -> list[str]:
        """Return what gives the golden frames on this GPU, fastest first; builds and measures if that is not known.

        Where nothing may be built, what is ready. Raises `BackendError` if that is nothing.
        """
        trt, gpu = load_tensorrt(), open_gpu()
        if not options.build:
            return Engines(trt, gpu).ready(bundle)

        def run(plan: bytes, precision: str) -> PlanRunner:
            return PlanRunner(trt, gpu, plan, bundle.contract, precision)

        return [one.precision for one in Engines(trt, gpu).measure(bundle, run) if one.right]
