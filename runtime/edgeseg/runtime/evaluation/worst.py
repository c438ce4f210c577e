"""The images that a network does worst on, for a person to look at."""

from __future__ import annotations

from typing import Any

from edgeseg.runtime.contact_sheet import SheetRow
from edgeseg.runtime.evaluate import Prediction


class WorstImages:
    """Keeps the `count` images with the lowest score, the worst first, at a contact sheet's size."""

    def __init__(self, count: int = 8) -> None:
        self.count = count
        self._kept: list[tuple[float, str, SheetRow]] = []

    def add(self, prediction: Prediction, miou: float) -> None:
        """Keep `prediction` if its `miou` (percent, over the classes that its truth has) is among the lowest."""
        if len(self._kept) == self.count and miou >= self._kept[-1][0]:
            return
        stem = prediction.pair.stem
        row = SheetRow.of(
            prediction.image_bgr, prediction.mask, prediction.truth, f"{stem}    mIoU {miou:.1f} % of this image"
        )
        self._kept = sorted([*self._kept, (miou, stem, row)], key=lambda one: one[:2])[: self.count]

    @property
    def rows(self) -> list[SheetRow]:
        """The lines of a contact sheet."""
        return [row for _, _, row in self._kept]

    def document(self) -> list[dict[str, Any]]:
        """Return stems and scores for JSON."""
        return [{"image": stem, "miou": miou} for miou, stem, _ in self._kept]
