"""What a sink may know before the first result."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.runtime.contract import Contract


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """Where a sink's results come from."""

    contract: Contract
    fps: float | None
    """The source's nominal rate; None where it has none."""
    live: bool = False
    """Whether capture times are true, and results may be missing between two."""
