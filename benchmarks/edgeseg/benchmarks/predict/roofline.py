"""The roofline: no kernel is faster than its arithmetic at the device's peak, than its bytes at the memory's, or than
a launch (Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 2009).

For the bound, bytes count only as far as they must cross the memory bus: of a tensor that one kernel leaves for
another, as much as the caches hold may stay on the chip, and so may that much of all weights from one frame to the
next. `uncached_ms` is the roofline as it is usually drawn, in which every tensor crosses: closer to what is measured,
but no bound, since a device with good caches may beat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edgeseg.benchmarks.predict.devices import LAUNCH_US, Device, Precision
from edgeseg.benchmarks.predict.graph import Kernel, Work

Limit = Literal["compute", "memory", "launch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerBound:
    """The least time of one kernel, and why."""

    kernel: Kernel
    precision: Precision
    compute_ms: float
    memory_ms: float
    bytes_touched: int
    """Everything that it reads and writes, from wherever."""
    bytes_moved: int
    """The part of that which must cross the memory bus."""
    uncached_ms: float
    """The least time if all of `bytes_touched` crossed it."""

    @property
    def bound_ms(self) -> float:
        return max(self.compute_ms, self.memory_ms) + LAUNCH_US / 1e3

    @property
    def limit(self) -> Limit:
        if max(self.compute_ms, self.memory_ms) < LAUNCH_US / 1e3:
            return "launch"
        return "compute" if self.compute_ms >= self.memory_ms else "memory"

    def document(self) -> dict[str, Any]:
        """Return JSON's types."""
        return {
            "name": self.kernel.name,
            "operator": self.kernel.operator,
            "precision": self.precision,
            "bound_ms": round(self.bound_ms, 6),
            "uncached_ms": round(self.uncached_ms, 6),
            "limit": self.limit,
            "macs": self.kernel.macs,
            "parameters": self.kernel.parameters,
            "bytes_touched": self.bytes_touched,
            "bytes_moved": self.bytes_moved,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """The least time of a whole network, its kernels one after another."""

    device: Device
    precision: Precision
    work: Work
    layers: tuple[LayerBound, ...]

    @property
    def bound_ms(self) -> float:
        return sum(layer.bound_ms for layer in self.layers)

    @property
    def uncached_ms(self) -> float:
        return sum(layer.uncached_ms for layer in self.layers)

    @property
    def bytes_moved(self) -> int:
        return sum(layer.bytes_moved for layer in self.layers)

    @property
    def bytes_touched(self) -> int:
        return sum(layer.bytes_touched for layer in self.layers)

    @property
    def shares_ms(self) -> dict[Limit, float]:
        """How much of the bound each limit is to blame for."""
        shares: dict[Limit, float] = {"compute": 0.0, "memory": 0.0, "launch": len(self.layers) * LAUNCH_US / 1e3}
        for layer in self.layers:
            roof: Limit = "compute" if layer.compute_ms >= layer.memory_ms else "memory"
            shares[roof] += max(layer.compute_ms, layer.memory_ms)
        return shares

    @property
    def limit(self) -> Limit:
        """What has the largest share."""
        shares = self.shares_ms
        return max(shares, key=shares.__getitem__)

    def document(self) -> dict[str, Any]:
        """Return JSON's types."""
        return {
            "measured": False,  # so that nobody takes it for what it is not
            "device": self.device.name,
            "precision": self.precision,
            "bound_ms": round(self.bound_ms, 4),
            "uncached_ms": round(self.uncached_ms, 4),
            "limit": self.limit,
            "shares_ms": {name: round(value, 4) for name, value in self.shares_ms.items()},
            "macs": self.work.macs,
            "parameters": self.work.parameters,
            "bytes_touched": self.bytes_touched,
            "bytes_moved": self.bytes_moved,
            "layers": [layer.document() for layer in self.layers],
        }


def bound_latency(work: Work, device: Device, precision: Precision) -> Bound:
    """Return the least time of `work` on `device`.

    In `int8`, a graph with Q/DQ says itself which kernels are INT8, and the others are FP16; of one without, all are
    taken as INT8.
    """
    total = sum(_bytes(work, kernel, precision) * kernel.parameters for kernel in work.kernels)
    # The rest of the weights can stay where the caches are.
    fetched = max(0.0, 1 - device.on_chip_bytes / total) if total else 0.0
    layers = tuple(_bound_layer(work, kernel, device, precision, fetched) for kernel in work.kernels)
    return Bound(device=device, precision=precision, work=work, layers=layers)


def _bytes(work: Work, kernel: Kernel, precision: Precision) -> int:
    return 1 if _precision(work, kernel, precision) == "int8" else 2


def _precision(work: Work, kernel: Kernel, precision: Precision) -> Precision:
    return "int8" if precision == "int8" and (kernel.quantised or not work.quantised) else "fp16"


def _bound_layer(work: Work, kernel: Kernel, device: Device, precision: Precision, fetched: float) -> LayerBound:
    own = _precision(work, kernel, precision)
    weights = kernel.parameters * _bytes(work, kernel, precision)
    # One byte wherever the run is INT8: what the other end of a tensor is quantised to is not known here.
    element = 1 if precision == "int8" else 2
    tensors = [size * element for size in (*kernel.reads, kernel.writes)]
    spilled = sum(max(0, size - device.on_chip_bytes) for size in tensors)
    moved = round(weights * fetched) + spilled
    touched = weights + sum(tensors)
    compute_ms, bytes_per_ms = 2e3 * kernel.macs / device.operations_per_s(own), device.memory_gb_s * 1e6
    return LayerBound(
        kernel=kernel,
        precision=own,
        compute_ms=compute_ms,
        memory_ms=moved / bytes_per_ms,
        bytes_touched=touched,
        bytes_moved=moved,
        uncached_ms=max(compute_ms, touched / bytes_per_ms) + LAUNCH_US / 1e3,
    )
