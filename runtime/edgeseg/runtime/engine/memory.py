"""How much memory an engine may be built in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

_MEMINFO = Path("/proc/meminfo")


class _Gpu(Protocol):
    integrated: bool

    def free_memory(self) -> tuple[int, int]: ...


def free_bytes(gpu: _Gpu) -> int:
    """Return the bytes that a build can have, with the GPU's context current.

    A GPU that shares the host's memory has what the kernel could free for a program (`MemAvailable`): what a live
    service holds is not in it, but the cache of files is, which CUDA's own figure leaves out (CUDA for Tegra,
    "Estimating Total Allocatable Device Memory on an Integrated GPU Device").
    """
    if gpu.integrated:
        try:
            found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
        except OSError:
            found = None
        if found:
            return int(found.group(1)) * 1024
    return gpu.free_memory()[0]
