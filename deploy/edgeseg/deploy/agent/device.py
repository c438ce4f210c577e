"""What the agent can learn of the device it runs on."""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIME_ERROR = 5  # adjtimex(2): the kernel's clock was never synchronised
_TIMEX_BYTES = 1024  # more than struct timex on any Linux; zero `modes` changes nothing

# NVIDIA's chip names in the device tree, and the compute capability of their GPU.
_CHIPS = {"tegra234": "sm87", "tegra264": "sm110"}


class Clock:
    """Time on this device. A Jetson may have no battery: its date can be years off until a network sets it."""

    def __init__(self, trust: str = "auto") -> None:
        self._trust = trust

    def wall(self) -> int:
        """Return the seconds since 1970 that the device believes in."""
        return int(time.time())

    def synchronised(self) -> bool:
        """Tell whether the clock is known to be set: by the kernel's word, or by the configuration's."""
        if self._trust != "auto":
            return self._trust == "trusted"
        adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
        return adjtimex is not None and adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) not in (-1, _TIME_ERROR)

    def monotonic(self) -> float:
        """Return seconds since this boot; comparable between processes."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        """Return a name of this boot that no other boot has."""
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class Device:
    """The facts that a release can ask for. None is unknown, which never satisfies a demand."""

    machine: str
    python: str
    memory_mb: int
    jetpack: str | None
    gpu: str | None


def read_device(overrides: dict[str, str | int]) -> Device:
    """Return this device's facts; `overrides`, from the configuration, win over what can be read."""
    readers = {
        "machine": platform.machine,
        "python": _python,
        "memory_mb": _memory_mb,
        "jetpack": _jetpack,
        "gpu": _gpu,
    }
    facts: dict[str, Any] = {name: overrides.get(name) or read() for name, read in readers.items()}
    return Device(**facts)


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _memory_mb() -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def _jetpack() -> str | None:
    # The package of that name is what carries JetPack's own number; L4T's numbers are others.
    query = shutil.which("dpkg-query")
    if query is None:
        return None
    command = [query, "-W", "-f", "${Version}", "nvidia-jetpack"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    found = re.match(r"\d+(\.\d+)*", answer.stdout)
    return found[0] if answer.returncode == 0 and found else None


def _gpu() -> str | None:
    tree = Path("/proc/device-tree/compatible")
    text = tree.read_bytes().decode("ascii", "replace") if tree.exists() else ""
    return next((gpu for chip, gpu in _CHIPS.items() if chip in text), None)
