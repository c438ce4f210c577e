"""CUDA through cuda-python's bindings, which have wheels for every device."""

from __future__ import annotations

import ctypes

import numpy as np

from edgeseg.runtime.backends.cuda.driver import Driver
from edgeseg.runtime.backends.cuda.gpu import Gpu, Held, HostArray


class CudaPythonGpu(Gpu):
    library = "cuda-python"

    def __init__(self, ordinal: int) -> None:
        self._driver = Driver()
        self._call, self._drv = self._driver.call, self._driver.names
        self._call("cuInit", 0)
        device = self._call("cuDeviceGet", ordinal)
        self.name = self._call("cuDeviceGetName", 256, device).partition(b"\0")[0].decode()
        attribute = self._drv.CUdevice_attribute

        def ask(name: str) -> int:
            return int(self._call("cuDeviceGetAttribute", getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), device))

        self.capability = f"{ask('COMPUTE_CAPABILITY_MAJOR')}.{ask('COMPUTE_CAPABILITY_MINOR')}"
        self.integrated = bool(ask("INTEGRATED"))
        self._context = self._call("cuDevicePrimaryCtxRetain", device)

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

    def _timed_event(self) -> Held:
        event = self._call("cuEventCreate", int(self._drv.CUevent_flags.CU_EVENT_BLOCKING_SYNC))
        return Held(int(event), lambda: self._call("cuEventDestroy", event))

    def _elapsed_ms(self, began: Held, ended: Held) -> float:
        return float(self._call("cuEventElapsedTime", began.handle, ended.handle))

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
