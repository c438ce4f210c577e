"""Everything that `edgeseg evaluate` finds on a dataset, gathered in one pass over its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.contact_sheet import draw_sheet, save_picture
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.evaluate import Prediction
from edgeseg.runtime.evaluation.boundary import BoundaryScore
from edgeseg.runtime.evaluation.calibration import Calibration
from edgeseg.runtime.evaluation.pictures import draw_confusion, draw_reliability
from edgeseg.runtime.evaluation.worst import WorstImages

NO_CONFIDENCE = "the graph has no output `confidence`"


class Report:
    """Scores predictions of one network on one dataset."""

    def __init__(self, contract: Contract, dataset: Dataset, *, worst: int = 8) -> None:
        """`worst` is how many images the contact sheet shows."""
        self._contract = contract
        self.matrix = ConfusionMatrix(dataset.classes, dataset.ignore_index)
        self.boundary = BoundaryScore(dataset.classes, dataset.ignore_index)
        self.calibration: Calibration | None = None
        self.worst = WorstImages(worst)

    def add(self, prediction: Prediction) -> None:
        """Score one image. Raises what `ConfusionMatrix.add` raises."""
        truth, mask = prediction.truth, prediction.mask
        classes, ignore_index = self.matrix.classes, self.matrix.ignore_index
        alone = ConfusionMatrix(classes, ignore_index)
        alone.add(truth, mask)
        self.matrix = self.matrix.merge(alone)
        self.boundary.add(truth, mask)
        if alone.miou is not None:
            self.worst.add(prediction, alone.miou)
        if prediction.certainty is not None:
            self.calibration = self.calibration or Calibration(classes, ignore_index)
            self.calibration.add(prediction.certainty)

    def document(self) -> dict[str, Any]:
        """Return all figures for JSON; absent ones are absent, and of calibration it is said why."""
        calibration = {"absent": NO_CONFIDENCE} if self.calibration is None else self.calibration.document()
        return {
            **self.matrix.document(),
            **self.boundary.document(),
            "confusion": self.matrix.counts_document(),
            "calibration": calibration,
            "worst": self.worst.document(),
        }

    def draw(self, folder: Path, title: str) -> list[Path]:
        """Write the pictures to `folder` as PNG and return their paths. Raises `SinkError` if they cannot be written.

        `confusion.png`; `worst.png` if an image was scored; `reliability.png` if there is a calibration.
        """
        pictures = {"confusion": draw_confusion(self.matrix, title)}
        if self.worst.rows and self.matrix.miou is not None:
            facts = [f"mIoU {self.matrix.miou:.1f} % of {self.matrix.images} images", "the lowest of single images"]
            pictures["worst"] = draw_sheet(self.worst.rows, self._contract, title=title, facts=facts)
        if self.calibration is not None and self.calibration.error is not None:
            pictures["reliability"] = draw_reliability(self.calibration.bins, self.calibration.error, title)
        paths = []
        for name, picture in pictures.items():
            paths.append(folder / f"{name}.png")
            save_picture(paths[-1], picture)
        return paths
