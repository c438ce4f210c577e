"""What a figure was measured on: enough to tell two machines apart, nothing that names a person or a place."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

# What decides how fast, and on x86 without VNNI how exactly, INT8 is computed.
_INSTRUCTIONS = (
    *("sse4_1", "avx", "fma", "f16c", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("avx_vnni", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)

# Package -> the distributions that may carry it, and the module that does (apt's and JetPack's have no distribution).
_PACKAGES = {
    "edgeseg": (("edgeseg",), "edgeseg"),
    "numpy": (("numpy",), "numpy"),
    "opencv": (
        ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
        "cv2",
    ),
    "onnxruntime": (("onnxruntime", "onnxruntime-gpu"), "onnxruntime"),
    "onnx": (("onnx",), "onnx"),
    "torch": (("torch",), "torch"),
    "tensorrt": (("tensorrt",), "tensorrt"),
}


def environment(root: Path = Path("/")) -> dict[str, Any]:
    """Describe this machine for a report. What cannot be read is absent; nothing is imported to ask its version.

    `device` (a board's model, else the processor's), `machine` (architecture), `system`, `cores` (that this process
    may use), `instruction_set` (what matters to INT8), `memory_mib`, `clocks` (`governor`, `max_mhz`), `power_mode`
    (Jetson's), `python`, `packages` (name to version). Holds no host name, user name or path. `root` is where `proc`,
    `sys`, `etc` and `var` lie.
    """
    cpuinfo = _cpuinfo(root)
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    found = {
        "device": _read(root / "proc/device-tree/model") or cpuinfo.get("model name"),
        "machine": platform.machine(),
        "system": _match(root / "etc/os-release", r'^PRETTY_NAME="?([^"\n]+)'),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_set": [name for name in _INSTRUCTIONS if name in flags],
        "memory_mib": _memory_mib(root),
        "clocks": _clocks(root),
        "power_mode": _power_mode(root),
        "python": platform.python_version(),
        "packages": _packages(),
    }
    return {name: value for name, value in found.items() if value not in (None, "", [], {})}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return None


def _match(path: Path, pattern: str) -> str | None:
    found = re.search(pattern, _read(path) or "", re.MULTILINE)
    return found.group(1).strip() if found else None


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the first processor's lines of /proc/cpuinfo."""
    first = (_read(root / "proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _memory_mib(root: Path) -> int | None:
    kib = _match(root / "proc/meminfo", r"^MemTotal:\s+(\d+) kB")
    return int(kib) // 1024 if kib else None


def _clocks(root: Path) -> dict[str, Any]:
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    khz = _match(cpufreq / "scaling_max_freq", r"^(\d+)$")
    found = {"governor": _read(cpufreq / "scaling_governor"), "max_mhz": int(khz) // 1000 if khz else None}
    return {name: value for name, value in found.items() if value is not None}


def _power_mode(root: Path) -> str | None:
    """Return the name of the power mode that Jetson's nvpmodel last set, or its number where it has no name."""
    number = _match(root / "var/lib/nvpmodel/status", r"^pmode:0*(\d+)")
    if number is None:
        return None
    return _match(root / "etc/nvpmodel.conf", rf"^<\s*POWER_MODEL\s+ID=0*{number}\s+NAME=(\S+)") or number


def _packages() -> dict[str, str]:
    versions = {name: _version(*carriers) for name, carriers in _PACKAGES.items()}
    return {name: version for name, version in versions.items() if version}


def _version(distributions: tuple[str, ...], module: str) -> str | None:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    loaded = getattr(sys.modules.get(module), "__version__", None)
    return loaded if isinstance(loaded, str) else None
