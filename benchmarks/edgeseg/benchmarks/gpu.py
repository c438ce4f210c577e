"""The GPU before and after a run: a PC's by NVML (`pip install nvidia-ml-py`), a Jetson's by its files."""

from __future__ import annotations

import importlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeseg.benchmarks.document import GpuMoment

_MIB = 1 << 20


def read_gpu(root: Path = Path("/"), library: Any = None) -> GpuMoment | None:
    """Return what the first GPU tells of itself now; None where there is none that does.

    `root` is where a Jetson's `etc`, `proc` and `sys` lie; `library` stands in for the module `pynvml`.
    """
    release = _read(root / "etc/nv_tegra_release")
    if release is not None:
        return _read_jetson(root, release)
    with suppress(ImportError):
        return _read_nvml(library if library is not None else importlib.import_module("pynvml"))
    return None


def _read_jetson(root: Path, release: str) -> GpuMoment:
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    devices = sorted((root / "sys/class/devfreq").glob("*gpu*"))
    return GpuMoment(
        name=(_read(root / "proc/device-tree/model") or "").strip("\0") or None,
        driver=f"L4T {found.group(1)}.{found.group(2)}" if found else None,
        mhz=_mhz(devices[0] / "cur_freq") if devices else None,
        max_mhz=_mhz(devices[0] / "max_freq") if devices else None,
    )


def _read_nvml(nvml: Any) -> GpuMoment | None:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver
        return None

    def ask(question: str, *arguments: Any) -> Any:
        with suppress(nvml.NVMLError, AttributeError):  # not on this GPU, or not in this version
            return getattr(nvml, question)(*arguments)

    try:
        gpu = ask("nvmlDeviceGetHandleByIndex", 0)
        if gpu is None:
            return None
        memory = ask("nvmlDeviceGetMemoryInfo", gpu)
        return GpuMoment(
            name=_text(ask("nvmlDeviceGetName", gpu)),
            driver=_text(ask("nvmlSystemGetDriverVersion")),
            mhz=ask("nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_SM),
            memory_mhz=ask("nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_MEM),
            max_mhz=ask("nvmlDeviceGetMaxClockInfo", gpu, nvml.NVML_CLOCK_SM),
            temperature_c=ask("nvmlDeviceGetTemperature", gpu, nvml.NVML_TEMPERATURE_GPU),
            power_w=_scaled(ask("nvmlDeviceGetPowerUsage", gpu), 1000),
            power_limit_w=_scaled(ask("nvmlDeviceGetEnforcedPowerLimit", gpu), 1000),
            memory_used_mib=None if memory is None else round(memory.used / _MIB, 1),
        )
    finally:
        nvml.nvmlShutdown()


def _text(found: Any) -> str | None:
    # Older nvidia-ml-py gives bytes.
    return found.decode() if isinstance(found, bytes) else found


def _scaled(found: float | None, by: float) -> float | None:
    return None if found is None else found / by


def _mhz(path: Path) -> float | None:
    with suppress(ValueError):
        return float(_read(path) or "") / 1e6
    return None


def _read(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return None
