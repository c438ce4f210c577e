"""Public figures of devices, gathered on 2026-11-22; docs/predict.md tells where and how each was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from edgeseg.runtime.errors import EdgesegError

Precision = Literal["int8", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16")

# NVIDIA, "Getting Started with CUDA Graphs" (https://developer.nvidia.com/blog/cuda-graphs/): 3.4 µs for each kernel of
# a graph, of which the kernel itself takes 2.9. The least that is published, on a far larger GPU.
LAUNCH_US = 0.5

_NANO = "https://connecttech.com/ftp/pdf/nvidia_jetson_orin_datasheet.pdf"
_NX = "https://developer.nvidia.com/downloads/jetson-orin-nx-module-series-data-sheet"
_AGX = "https://static.generation-robots.com/media/Jetson-AGX-Orin-Data-Sheet.pdf"
_SUPER = "https://developer.nvidia.com/blog/nvidia-jetson-orin-nano-developer-kit-gets-a-super-boost/"
_SUPER_MODE = "https://developer.nvidia.com/blog/nvidia-jetpack-6-2-brings-super-mode-to-nvidia-jetson-orin-nano-and-jetson-orin-nx-modules/"
_DLA = "https://github.com/NVIDIA/Deep-Learning-Accelerator-SW"
_THOR = "https://www.nvidia.com/en-us/autonomous-machines/embedded-systems/jetson-thor/"

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A device at its highest power mode. Tera means 10^12, and a multiplication with addition is two operations."""

    name: str
    title: str
    int8_tops: float
    """Dense, the GPU's alone: what sparsity and the DLA add is left out."""
    fp16_tflops: float
    """Dense, of the tensor cores."""
    memory_gb_s: float
    multiprocessors: int
    gpu_mhz: float
    int8_operations: int
    """Dense INT8 operations of one multiprocessor in one clock; half of that in FP16."""
    on_chip_bytes: int
    """The GPU's L2 and the system's cache together: what may stay on the chip from one kernel to the next."""
    source: str

    def operations_per_s(self, precision: Precision) -> float:
        """Return the highest rate that can be claimed: published figures are rounded, sometimes down."""
        published = {"int8": self.int8_tops, "fp16": self.fp16_tflops}[precision] * 1e12
        clocked = self.multiprocessors * self.gpu_mhz * 1e6 * self.int8_operations
        return max(published, clocked if precision == "int8" else clocked / 2)


def _orin(name: str, title: str, tops: float, gb_s: float, multiprocessors: int, gpu_mhz: float, source: str) -> Device:
    return Device(
        name=name,
        title=f"Jetson {title}",
        int8_tops=tops,
        fp16_tflops=tops / 2,
        memory_gb_s=gb_s,
        multiprocessors=multiprocessors,
        gpu_mhz=gpu_mhz,
        int8_operations=4096,
        on_chip_bytes=8 * _MIB,
        source=source,
    )


_ALL = (
    _orin("orin-nano-4gb", "Orin Nano 4GB", 10, 34, 4, 625, _NANO),
    _orin("orin-nano-4gb-super", "Orin Nano 4GB, super mode", 17, 51, 4, 1020, _SUPER_MODE),
    _orin("orin-nano-8gb", "Orin Nano 8GB", 20, 68, 8, 635, _SUPER),
    _orin("orin-nano-8gb-super", "Orin Nano 8GB, super mode", 33, 102, 8, 1020, _SUPER),
    _orin("orin-nx-8gb", "Orin NX 8GB", 25, 102.4, 8, 765, _NX),
    _orin("orin-nx-8gb-super", "Orin NX 8GB, super mode", 38, 102.4, 8, 1173, _NX),
    _orin("orin-nx-16gb", "Orin NX 16GB", 30, 102.4, 8, 918, _NX),
    _orin("orin-nx-16gb-super", "Orin NX 16GB, super mode", 38, 102.4, 8, 1173, _NX),
    _orin("agx-orin-32gb", "AGX Orin 32GB", 54, 204.8, 14, 939, _AGX),
    _orin("agx-orin-64gb", "AGX Orin 64GB", 85.5, 204.8, 16, 1300.5, _DLA),
    Device(
        name="agx-thor",
        title="Jetson AGX Thor (T5000)",
        int8_tops=517,
        fp16_tflops=258,
        memory_gb_s=273,
        multiprocessors=20,
        gpu_mhz=1575,
        int8_operations=16384,
        on_chip_bytes=48 * _MIB,
        source=_THOR,
    ),
)

DEVICES: Mapping[str, Device] = MappingProxyType({device.name: device for device in _ALL})


def find_device(name: str) -> Device:
    """Return the device of that name. Raises `EdgesegError` naming the known ones."""
    device = DEVICES.get(name)
    if device is None:
        raise EdgesegError(f"device {name!r} is unknown", expected=f"one of {', '.join(DEVICES)}")
    return device
