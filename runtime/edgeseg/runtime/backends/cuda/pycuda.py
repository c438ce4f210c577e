"""CUDA through pycuda."""

from __future__ import annotations

import atexit
from importlib import import_module
from typing import Any

import numpy as np

from edgeseg.runtime.backends.cuda.gpu import Gpu, Held, HostArray


class PyCudaGpu(Gpu):
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

    def _timed_event(self) -> Held:
        return self._counted(self._drv.Event(self._drv.event_flags.BLOCKING_SYNC))

    def _elapsed_ms(self, began: Held, ended: Held) -> float:
        return float(began._native.time_till(ended._native))

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
