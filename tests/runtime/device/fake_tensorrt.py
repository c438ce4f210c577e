"""A TensorRT whose engines are ONNX files, run by ONNX Runtime on a stream of the simulator's when that is waited for.

Stricter than the real one: what that would do at random is a problem with a name. In the shapes of 10.3 and of 11.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import sys
import types
import weakref
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tests.runtime.device.simulator import Simulator

FAKE_LAYERS = ("frame to planes", "network", "argmax")
"""What a profiler is told of each inference."""
_RUN: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_IDLE = _RUN(lambda _: None)
"""The part of an engine that writes another output: that of the mask computes them all."""


class HostMemory(bytes):
    """What TensorRT hands serialised things out as."""


def _enum(name: str, members: Any) -> Any:
    return enum.IntEnum(name, members)


def make_tensorrt(version: str, sim: Simulator) -> Any:
    """Return a module `tensorrt` of `version`, whose attributes beginning with `fake_` order its behaviour."""
    major = int(version.split(".")[0])
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__, trt.__spec__ = version, ModuleSpec("tensorrt", None)
    trt.fake_refuses_strong_typing = False
    trt.fake_before_run = None
    trt.fake_refuses_capture = False
    trt.fake_rejects = set()
    trt.fake_built = []
    flags = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1} if major < 11 else {"STRONGLY_TYPED": 0}
    trt.NetworkDefinitionCreationFlag = _enum("NetworkDefinitionCreationFlag", flags)
    builder_flags = ["FP16", "INT8", "TF32"] if major < 11 else ["TF32"]
    trt.BuilderFlag = _enum("BuilderFlag", builder_flags)
    trt.MemoryPoolType = _enum("MemoryPoolType", ["WORKSPACE", "TACTIC_DRAM"])
    trt.TensorIOMode = _enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
    trt.DataType = _enum("DataType", ["FLOAT", "HALF", "INT32", "INT8", "UINT8"])
    severities = _enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = severities

    class IProgressMonitor:
        pass

    class IProfiler:
        pass

    def must_have_context(doing: str) -> None:
        if not sim.lib.sim_has_context() and not sim.is_lost and not sys.is_finalizing():
            sim.note(f"no-context: {doing} with no context current on this thread")

    class Network:
        def __init__(self, strongly_typed: bool) -> None:
            self.strongly_typed = strongly_typed
            self.model = b""

    class ParserError:
        def desc(self) -> str:
            return "strong typing is not supported here"

    class OnnxParser:
        def __init__(self, network: Network, logger: Any) -> None:
            self.network, self.num_errors = network, 0

        def parse_from_file(self, path: str) -> bool:
            refused = trt.fake_refuses_strong_typing and self.network.strongly_typed
            if refused or Path(path).name in trt.fake_rejects:
                self.num_errors = 1
                return False
            self.network.model = Path(path).read_bytes()
            return True

        def get_error(self, index: int) -> ParserError:
            return ParserError()

    class TimingCache:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> HostMemory:
            return HostMemory(self.data + b"t")

    class Config:
        def __init__(self) -> None:
            self.flags: set[Any] = set()
            self.workspace = 0
            self.progress_monitor: Any = None
            self.cache: TimingCache | None = None

        def set_flag(self, flag: Any) -> None:
            self.flags.add(flag)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            assert pool is trt.MemoryPoolType.WORKSPACE
            self.workspace = size

        def create_timing_cache(self, data: bytes) -> TimingCache:
            return TimingCache(data)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            self.cache = cache
            return True

        def get_timing_cache(self) -> TimingCache | None:
            return self.cache

    class Builder:
        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, ILogger)

        def create_network(self, bits: int) -> Network:
            known = sum(1 << value for value in flags.values())
            if bits & ~known:
                sim.note(f"unknown-flag: create_network({bits}) in TensorRT {version}")
            return Network(bool(bits & 1 << flags["STRONGLY_TYPED"]))

        def create_builder_config(self) -> Config:
            return Config()

        def build_serialized_network(self, network: Network, config: Config) -> HostMemory | None:
            must_have_context("building an engine")
            monitor = config.progress_monitor
            if monitor is not None:
                monitor.phase_start("tactics", None, 3)
                for step in range(3):
                    if not monitor.step_complete("tactics", step):
                        return None
                monitor.phase_finish("tactics")
            trt.fake_built.append((network.strongly_typed, {flag.name for flag in config.flags}, config.workspace))
            body = version.encode() + b"\n" + network.model
            return HostMemory(hashlib.sha256(body).digest() + body)

    callbacks: list[Any] = []
    """What graphs call, which may outlive the context."""

    def run_context(context: Context | None) -> None:
        if context is None:
            sim.note("use-after-free: an execution context was destroyed before its engine ran")
        else:
            context.run()

    class Context:
        def __init__(self, engine: Engine) -> None:
            self.session, self.tensors = engine.session, engine.tensors
            self.addresses: dict[str, int] = {}
            self.pending: list[Any] = []
            self.captured: list[Any] = []
            self.is_warm = False
            self.callback = None  # must outlive the call that it is in
            self.profiler: Any = None

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if name not in self.tensors:
                return False
            size, held = int(np.prod(self.tensors[name][1])), sim.lib.sim_size(memory)
            if size != held:
                sim.note(f"wrong-size: {name} has {size} bytes, the memory at its address {held}")
                return False
            self.addresses[name], self.is_warm = memory, False
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            must_have_context("execute_async_v3")
            if unset := sorted(set(self.tensors) - set(self.addresses)):
                sim.note(f"unset-address: {', '.join(unset)}")
                return False
            if self.pending:
                sim.note("two-enqueues: of one execution context at once")
                return False
            capturing = bool(sim.lib.sim_is_capturing(stream_handle, trt.fake_refuses_capture))
            if capturing and trt.fake_refuses_capture:
                _logger().log(ILogger.ERROR, "enqueueV3: operation not permitted when stream is capturing")
                return False
            if capturing and not self.is_warm:
                sim.note("captured-cold: the first enqueue after an address was set was captured")
            this = weakref.ref(self)
            self.callback = _RUN(lambda _: run_context(this()))
            if capturing:
                self.captured.append(self.callback)
                callbacks.append(self.callback)
            else:
                self.pending.append(self.callback)
                self.is_warm = True
            source, callback = self.addresses["frame"], ctypes.cast(self.callback, ctypes.c_void_p)
            others = [name for name in self.tensors if name not in ("frame", "mask")]
            code = 0
            for name, work in [*((name, ctypes.cast(_IDLE, ctypes.c_void_p)) for name in others), ("mask", callback)]:
                code = code or sim.lib.sim_launch(stream_handle, source, self.addresses[name], work, None)
            if code:
                self.pending.clear()
                _logger().log(ILogger.ERROR, f"enqueueV3: CUDA error {code}")
            return not code

        def run(self) -> None:
            if trt.fake_before_run is not None:
                trt.fake_before_run()
            frame = _view(sim, self.addresses["frame"], self.tensors["frame"][1])
            names = [name for name in self.tensors if name != "frame"]
            for name, found in zip(names, self.session.run(names, {"frame": frame.copy()}), strict=True):
                _view(sim, self.addresses[name], self.tensors[name][1])[...] = found
            for layer in FAKE_LAYERS if self.profiler is not None else ():
                self.profiler.report_layer_time(layer, 0.25)
            self.pending.clear()

        def __del__(self) -> None:
            if self.pending and not sim.is_lost:
                sim.note("destroyed-while-pending: an execution context")
            must_have_context("destroying an execution context")
            if any(sim.lib.sim_is_in_graph(ctypes.cast(one, ctypes.c_void_p)) for one in self.captured):
                sim.note("destroyed-order: an execution context before the graph that it is in")

    class Engine:
        def __init__(self, model: bytes) -> None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            modes = trt.TensorIOMode
            self.tensors: dict[str, tuple[Any, tuple[int, ...]]] = {
                **{one.name: (modes.INPUT, tuple(one.shape)) for one in self.session.get_inputs()},
                **{one.name: (modes.OUTPUT, tuple(one.shape)) for one in self.session.get_outputs()},
            }
            self.num_io_tensors = len(self.tensors)
            self.contexts: weakref.WeakSet[Context] = weakref.WeakSet()

        def get_tensor_name(self, index: int) -> str:
            return list(self.tensors)[index]

        def get_tensor_mode(self, name: str) -> Any:
            return self.tensors[name][0]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.tensors[name][1]

        def get_tensor_dtype(self, name: str) -> Any:
            return trt.DataType.UINT8

        def create_execution_context(self) -> Context:
            must_have_context("create_execution_context")
            context = Context(self)
            self.contexts.add(context)
            return context

        def __del__(self) -> None:
            must_have_context("destroying an engine")
            if len(self.contexts):
                sim.note("destroyed-order: an engine before its execution context")

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.engines: weakref.WeakSet[Engine] = weakref.WeakSet()

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            must_have_context("deserialize_cuda_engine")
            digest, body = plan[:32], plan[32:]
            made_by, _, model = body.partition(b"\n")
            if hashlib.sha256(body).digest() != digest:
                sim.note("deserialised: a plan that was altered")
            if made_by != version.encode():
                sim.note(f"deserialised: a plan of TensorRT {made_by[:16]!r}")
                return None
            engine = Engine(model)
            self.engines.add(engine)
            return engine

        def __del__(self) -> None:
            if len(self.engines):
                sim.note("destroyed-order: a runtime before its engine")

    def _logger() -> Any:
        from edgeseg.runtime.engine.api import shared_logger

        return shared_logger(trt)[0]

    for made in (ILogger, IProgressMonitor, IProfiler, OnnxParser, Builder, Runtime):
        setattr(trt, made.__name__, made)
    return trt


def _view(sim: Simulator, address: int, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    size = int(np.prod(shape))
    pointer = sim.lib.sim_bytes(address)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer)).reshape(shape)
