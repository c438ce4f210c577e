"""NVML, on PCs with an NVIDIA GPU: through `nvidia-ml-py`, which is imported only here and only where it is there."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from edgeseg.runtime.telemetry.reading import Reading

# Bits of nvmlClocksEventReasons (nvml.h); the rest are no throttling (idle, an application's own setting, sync boost).
_REASONS = {
    0x04: "power",
    0x08: "hardware",
    0x20: "thermal",
    0x40: "hardware-thermal",
    0x80: "power-brake",
}
_MIB = 1 << 20


class Nvml:
    """Reads the first GPU once a second. Not for a Jetson, whose GPU NVML knows little of."""

    name = "nvml"

    def __init__(self, library: Any = None, *, interval_s: float = 1.0) -> None:
        """Open NVML through the module `library` (None: `pynvml`).

        Raises `ImportError` if nvidia-ml-py is not installed, `OSError` if there is no NVIDIA driver or no GPU.
        """
        self._nvml = library if library is not None else importlib.import_module("pynvml")
        self._interval_s, self._closed = interval_s, threading.Event()
        try:
            self._nvml.nvmlInit()
            self._gpu = self._nvml.nvmlDeviceGetHandleByIndex(0)
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error

    def readings(self) -> Iterator[Reading]:
        while not self._closed.is_set():
            yield self._read()
            self._closed.wait(self._interval_s)

    def close(self) -> None:
        self._closed.set()

    def release(self) -> None:
        """Give NVML back, once nothing asks it any more."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (self._nvml.NVMLError, AttributeError):  # not on this GPU, or not in this version
            return None

    def _read(self) -> Reading:
        nvml, gpu = self._nvml, self._gpu
        milliwatts = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(gpu))
        celsius = self._ask(lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
        load = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu))
        clock = self._ask(lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu))
        reasons = self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
        return Reading(
            power_w=None if milliwatts is None else milliwatts / 1000,
            power_rail=None if milliwatts is None else "GPU board",
            temperatures_c={} if celsius is None else {"gpu": float(celsius)},
            gpu_percent=None if load is None else float(load.gpu),
            gpu_mhz=None if clock is None else float(clock),
            memory_used_mib=None if memory is None else memory.used / _MIB,
            memory_total_mib=None if memory is None else memory.total / _MIB,
            throttle=None if reasons is None else tuple(name for bit, name in _REASONS.items() if reasons & bit),
        )
