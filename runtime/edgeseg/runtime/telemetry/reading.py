"""One look at the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Figures of one moment. One that the device does not give is None, or not among the mapping's keys."""

    power_w: float | None = None
    """What the whole module or board draws, as far as `power_rail` measures it."""
    power_rail: str | None = None
    """The rail or the sum of rails that `power_w` is: readings of different rails do not compare."""
    rails_w: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    gpu_percent: float | None = None
    gpu_mhz: float | None = None
    """The fastest of the GPU's clusters."""
    cpu_percent: float | None = None
    """Mean over the cores that are online."""
    cpu_mhz: float | None = None
    """The fastest core."""
    emc_percent: float | None = None
    """Share of the memory's bandwidth in use."""
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None
    swap_used_mib: float | None = None
    throttle: tuple[str, ...] | None = None
    """Why clocks are held down now; empty if they are not, None where the device does not tell."""


class Source(Protocol):
    """Where readings come from: `readings` in one thread, `close` from another, then `release`."""

    name: str

    def readings(self) -> Iterator[Reading]:
        """Yield readings about once a second until `close`, or until the device gives no more."""

    def close(self) -> None:
        """End a `readings` that waits, and its process if it has one; safe to call twice."""

    def release(self) -> None:
        """Give back what `readings` used, once it has ended."""
