"""How many points INT8 may lose to fp32, and how many it lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from edgeseg.runtime.errors import ExportError


class Scored(Protocol):
    """A score: points are percent."""

    @property
    def miou(self) -> float | None: ...
    @property
    def per_class_iou(self) -> Mapping[str, float]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Points that may be lost, by the mean and by any class."""

    drop: float = 0.5
    class_drop: float = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Points lost to fp32 on the same pictures; negative where it gained."""

    drop: float
    class_drop: float
    worst_class: str

    def exceeds(self, limits: Limits) -> bool:
        # Asked so that a limit that is no number lets nothing through.
        return not (self.drop <= limits.drop and self.class_drop <= limits.class_drop)

    def __str__(self) -> str:
        return f"{self.drop:+.2f} mIoU lost, {self.class_drop:+.2f} by class {self.worst_class}"


def measure_loss(fp32: Scored, other: Scored) -> Loss:
    """Compare two scores of the same pictures. Raises `ExportError` if nothing in them is labelled."""
    if fp32.miou is None or other.miou is None:
        raise ExportError("no pixel of the scored pictures is labelled", fix="export without INT8: --precision fp32")
    ours = other.per_class_iou
    drops = {name: iou - ours[name] for name, iou in fp32.per_class_iou.items()}
    worst = max(drops, key=lambda name: drops[name])
    return Loss(drop=fp32.miou - other.miou, class_drop=drops[worst], worst_class=worst)
