"""What a backend needs of CUDA, over pycuda, or over cuda-python's bindings where pycuda has no wheel.

The primary context is retained once in a process and kept: making one takes most of a second, every library shares
it, and pycuda neither gives it back from another thread than the one that took it, nor leaves it popped when it does.
All else belongs to whoever asked for it, and is given back by `close` with the context current.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.runtime.errors import BackendError

_log = logging.getLogger(__name__)

_FREE_FIX = "end other programs that use the GPU, or use a smaller network or another --backend"
_LOST_FIX = "restart the program; if it happens again look into dmesg, and check power supply and cooling"
_INSTALL_FIX = "pip install pycuda, or cuda-python, for this machine's CUDA"


class OutOfMemoryError(BackendError):
    """The GPU has not enough memory; nothing is lost but what was asked for."""


@dataclass
class Held:
    """Something of the GPU's. `handle` is a device address, a stream or an event as an integer."""

    handle: int
    _release: Callable[[], None] | None
    _native: Any = None

    def close(self) -> None:
        """Give it back, with the context current; safe to call twice. A GPU that is lost has nothing to give back."""
        release, self._release = self._release, None
        if release is not None:
            try:
                release()
            except Exception as error:
                _log.warning("the GPU did not take something back: %s", error)


def abandon(*objects: object) -> None:
    """Keep `objects` to the process's end, destructors unrun: on a GPU that is lost pycuda's abort the process."""
    for one in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


@dataclass
class HostArray(Held):
    """Pinned host memory as an array. `handle` is its address for the GPU if it is mapped, else 0."""

    array: NDArray[np.uint8] = None  # type: ignore[assignment]


class Gpu:
    """One GPU through one CUDA library. Everything but the properties wants `current()` around it."""

    library: str
    name: str
    capability: str
    """As NVIDIA writes it: "8.7"."""
    integrated: bool
    """Whether it shares the host's memory, as a Jetson's does."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context current in this thread for a block."""
        with self._told("make the context current"):
            self._push()
        try:
            yield
        finally:
            self._pop()

    def free_memory(self) -> tuple[int, int]:
        """Return (free, all) bytes of the GPU's memory."""
        with self._told("ask for free memory"):
            return self._memory()

    def allocate(self, size: int, purpose: str) -> Held:
        """Return `size` bytes of the GPU's memory. Raises `OutOfMemoryError` naming the purpose."""
        with self._told(f"allocate {size} bytes for {purpose}"):
            return self._allocate(size)

    def host_array(self, shape: tuple[int, ...], purpose: str, *, mapped: bool = False) -> HostArray:
        """Return pinned host memory, uint8, `mapped` for the GPU to read and write without a copy."""
        with self._told(f"pin {int(np.prod(shape))} bytes for {purpose}"):
            return self._host_array(shape, mapped)

    def stream(self) -> Held:
        """Return a stream."""
        with self._told("make a stream"):
            return self._stream()

    def event(self) -> Held:
        """Return an event that is waited for asleep: a spinning wait takes a core from camera and sinks."""
        with self._told("make an event"):
            return self._event()

    def copy_in(self, memory: Held, host: HostArray, stream: Held) -> None:
        """Queue a copy of `host`, which must not be written before the stream has been waited for."""
        with self._told("copy to the GPU"):
            self._copy_in(memory, host, stream)

    def copy_out(self, host: HostArray, memory: Held, stream: Held) -> None:
        """Queue a copy into `host`, which holds nothing of use before the stream has been waited for."""
        with self._told("copy from the GPU"):
            self._copy_out(host, memory, stream)

    def record(self, event: Held, stream: Held) -> None:
        """Queue `event`: it happens when all that was queued before it is done."""
        with self._told("record an event"):
            self._record(event, stream)

    def wait_event(self, event: Held) -> None:
        """Wait until `event` has happened. An event that was never recorded counts as happened."""
        with self._told("wait for the GPU"):
            self._wait_event(event)

    def wait_stream(self, stream: Held) -> None:
        """Wait until all that was queued is done."""
        with self._told("wait for the GPU"):
            self._wait_stream(stream)

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except BackendError:
            raise
        except Exception as error:  # each library has classes of its own
            if self._is_memory(error):
                raise OutOfMemoryError(f"the GPU is out of memory: cannot {doing} ({error})", fix=_FREE_FIX) from error
            raise BackendError(f"the GPU failed: cannot {doing} ({error})", fix=_LOST_FIX) from error

    _push: Callable[[], None]
    _pop: Callable[[], None]
    _memory: Callable[[], tuple[int, int]]
    _allocate: Callable[[int], Held]
    _host_array: Callable[[tuple[int, ...], bool], HostArray]
    _stream: Callable[[], Held]
    _event: Callable[[], Held]
    _copy_in: Callable[[Held, HostArray, Held], None]
    _copy_out: Callable[[HostArray, Held, Held], None]
    _record: Callable[[Held, Held], None]
    _wait_event: Callable[[Held], None]
    _wait_stream: Callable[[Held], None]
    _is_memory: Callable[[Exception], bool]


class _PyCudaGpu(Gpu):
    library = "pycuda"

    def __init__(self, ordinal: int) -> None:
        self._drv: Any = import_module("pycuda.driver")
        self._drv.init()
        device = self._drv.Device(ordinal)
        self.name = device.name()
        self.capability = ".".join(map(str, device.compute_capability()))
        self.integrated = bool(device.get_attribute(self._drv.device_attribute.INTEGRATED))
        self._context = device.retain_primary_context()
        atexit.register(self._context.detach)  # its destructor would detach it as if it were no primary context

    def _push(self) -> None:
        self._context.push()

    def _pop(self) -> None:
        self._drv.Context.pop()

    def _memory(self) -> tuple[int, int]:
        free, total = self._drv.mem_get_info()
        return free, total

    def _allocate(self, size: int) -> Held:
        memory = self._drv.mem_alloc(size)
        return Held(int(memory), memory.free, memory)

    def _host_array(self, shape: tuple[int, ...], mapped: bool) -> HostArray:
        flags = self._drv.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._drv.pagelocked_empty(shape, np.uint8, mem_flags=flags)
        try:
            address = int(array.base.get_device_pointer()) if mapped else 0
        except Exception:
            array.base.free()
            raise
        return HostArray(address, array.base.free, array.base, array=array)

    def _stream(self) -> Held:
        return self._counted(self._drv.Stream())

    def _event(self) -> Held:
        return self._counted(
            self._drv.Event(self._drv.event_flags.BLOCKING_SYNC | self._drv.event_flags.DISABLE_TIMING)
        )

    def _counted(self, native: Any) -> Held:
        # pycuda has no call that destroys a stream or an event: the last reference to it does.
        held = Held(int(getattr(native, "handle", 0)), None, native)  # its events have none

        def release() -> None:
            held._native = None

        held._release = release
        return held

    def _copy_in(self, memory: Held, host: HostArray, stream: Held) -> None:
        self._drv.memcpy_htod_async(memory.handle, host.array, stream._native)

    def _copy_out(self, host: HostArray, memory: Held, stream: Held) -> None:
        self._drv.memcpy_dtoh_async(host.array, memory.handle, stream._native)

    def _record(self, event: Held, stream: Held) -> None:
        event._native.record(stream._native)

    def _wait_event(self, event: Held) -> None:
        event._native.synchronize()

    def _wait_stream(self, stream: Held) -> None:
        stream._native.synchronize()

    def _is_memory(self, error: Exception) -> bool:
        return isinstance(error, self._drv.MemoryError)


class _CudaPythonError(Exception):
    """A call of cuda-python's that did not succeed."""

    def __init__(self, function: str, code: Any) -> None:
        self.code = code
        super().__init__(f"{function} failed: {code.name}")


class _CudaPythonGpu(Gpu):
    library = "cuda-python"

    def __init__(self, ordinal: int) -> None:
        self._drv: Any = import_module("cuda.bindings.driver")
        self._call("cuInit", 0)
        device = self._call("cuDeviceGet", ordinal)
        self.name = self._call("cuDeviceGetName", 256, device).partition(b"\0")[0].decode()
        attribute = self._drv.CUdevice_attribute

        def ask(name: str) -> int:
            return int(self._call("cuDeviceGetAttribute", getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), device))

        self.capability = f"{ask('COMPUTE_CAPABILITY_MAJOR')}.{ask('COMPUTE_CAPABILITY_MINOR')}"
        self.integrated = bool(ask("INTEGRATED"))
        self._context = self._call("cuDevicePrimaryCtxRetain", device)

    def _call(self, function: str, *arguments: Any) -> Any:
        code, *found = getattr(self._drv, function)(*arguments)
        if code != self._drv.CUresult.CUDA_SUCCESS:
            raise _CudaPythonError(function, code)
        return found[0] if len(found) == 1 else found

    def _push(self) -> None:
        self._call("cuCtxPushCurrent", self._context)

    def _pop(self) -> None:
        self._call("cuCtxPopCurrent")

    def _memory(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return free, total

    def _allocate(self, size: int) -> Held:
        address = self._call("cuMemAlloc", size)
        return Held(int(address), lambda: self._call("cuMemFree", address))

    def _host_array(self, shape: tuple[int, ...], mapped: bool) -> HostArray:
        size = int(np.prod(shape))
        address = int(self._call("cuMemHostAlloc", size, self._drv.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0))

        def release() -> None:
            self._call("cuMemFreeHost", address)

        try:
            device_address = int(self._call("cuMemHostGetDevicePointer", address, 0)) if mapped else 0
        except Exception:
            release()
            raise
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).reshape(shape)
        return HostArray(device_address, release, array=array)

    def _stream(self) -> Held:
        stream = self._call("cuStreamCreate", 0)
        return Held(int(stream), lambda: self._call("cuStreamDestroy", stream))

    def _event(self) -> Held:
        flags = self._drv.CUevent_flags
        event = self._call("cuEventCreate", int(flags.CU_EVENT_BLOCKING_SYNC) | int(flags.CU_EVENT_DISABLE_TIMING))
        return Held(int(event), lambda: self._call("cuEventDestroy", event))

    def _copy_in(self, memory: Held, host: HostArray, stream: Held) -> None:
        self._call("cuMemcpyHtoDAsync", memory.handle, host.array.ctypes.data, host.array.nbytes, stream.handle)

    def _copy_out(self, host: HostArray, memory: Held, stream: Held) -> None:
        self._call("cuMemcpyDtoHAsync", host.array.ctypes.data, memory.handle, host.array.nbytes, stream.handle)

    def _record(self, event: Held, stream: Held) -> None:
        self._call("cuEventRecord", event.handle, stream.handle)

    def _wait_event(self, event: Held) -> None:
        self._call("cuEventSynchronize", event.handle)

    def _wait_stream(self, stream: Held) -> None:
        self._call("cuStreamSynchronize", stream.handle)

    def _is_memory(self, error: Exception) -> bool:
        return isinstance(error, _CudaPythonError) and error.code == self._drv.CUresult.CUDA_ERROR_OUT_OF_MEMORY


_LIBRARIES: tuple[type[_PyCudaGpu] | type[_CudaPythonGpu], ...] = (_PyCudaGpu, _CudaPythonGpu)
_opened: dict[int, Gpu] = {}
_opening = threading.Lock()


def open_gpu(ordinal: int = 0) -> Gpu:
    """Return GPU `ordinal`, the same object each time. Raises `BackendError` if there is none, or no CUDA library."""
    with _opening:
        if ordinal not in _opened:
            _opened[ordinal] = _open(ordinal)
        return _opened[ordinal]


def _open(ordinal: int) -> Gpu:
    missing = []
    for library in _LIBRARIES:
        try:
            return library(ordinal)
        except ImportError as error:
            missing.append(f"{library.library}: {error}")
        except Exception as error:
            raise BackendError(
                f"GPU {ordinal} cannot be used ({error})",
                fix="see that nvidia-smi (on a Jetson: tegrastats) shows a GPU and that this user may use it",
            ) from error
    raise BackendError(f"no CUDA library can be loaded ({'; '.join(missing)})", fix=_INSTALL_FIX)
