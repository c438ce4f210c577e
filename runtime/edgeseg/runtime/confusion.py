"""Scores of a segmentation: one matrix of pixel counts over a whole split, and the figures read from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.runtime.errors import DatasetError, FrameError
from edgeseg.runtime.frame import Mask


class ConfusionMatrix:
    """Exact counts of truth against prediction.

    Pixels whose truth is `ignore_index` are scored nowhere. A prediction that is no class (the ignore index too:
    the network saw nothing there) counts as wrong. Figures are percentages, None where there is nothing to score.
    """

    def __init__(self, classes: Sequence[str], ignore_index: int) -> None:
        self.classes, self.ignore_index, self.images = tuple(classes), ignore_index, 0
        count = len(self.classes)
        self.counts: npt.NDArray[np.int64] = np.zeros((count, count + 1), np.int64)
        """(classes, classes + 1) pixels, truth by prediction; the last column is predictions of no class."""
        # Two look-ups and one bincount per image: rows are classes, then void, then labels that must not be.
        rows = np.full(256, count + 1, np.intp)
        rows[:count], rows[ignore_index] = np.arange(count), count
        self._row_offset = rows * (count + 1)
        self._column = np.minimum(np.arange(256), count)

    def add(self, truth: Mask, prediction: Mask) -> None:
        """Count one image's pixels: two (H, W) uint8 masks of one shape.

        Raises `FrameError` if shapes or dtypes are wrong, `DatasetError` if `truth` has a label of no class; nothing
        is counted then.
        """
        if truth.shape != prediction.shape or truth.dtype != np.uint8 or prediction.dtype != np.uint8:
            raise FrameError(
                f"prediction of shape {prediction.shape}, {prediction.dtype} for truth of {truth.shape}, {truth.dtype}",
                expected="two uint8 masks of one shape",
            )
        rows, columns = len(self.classes) + 2, len(self.classes) + 1
        cells = self._row_offset[truth] + self._column[prediction]
        counts = np.bincount(cells.ravel(), minlength=rows * columns).reshape(rows, columns)
        if counts[-1].any():
            foreign = truth[self._row_offset[truth] == (rows - 1) * columns]
            raise DatasetError(
                f"truth with {foreign.size} pixels of no class, up to label {int(foreign.max())}",
                expected=f"0 to {len(self.classes) - 1} or ignore index {self.ignore_index}",
            )
        self.counts += counts[: len(self.classes)]
        self.images += 1

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Return a new matrix of both sides' images. Raises `ValueError` if their classes differ."""
        if self.classes != other.classes:
            raise ValueError(f"cannot merge classes {self.classes} with {other.classes}")
        merged = ConfusionMatrix(self.classes, self.ignore_index)
        merged.counts = self.counts + other.counts
        merged.images = self.images + other.images
        return merged

    @property
    def per_class_iou(self) -> dict[str, float]:
        """Intersection over union of each class that the truth has, in percent; classes absent from it are left out."""
        hits, truth, predicted = self._hits(), self.counts.sum(axis=1), self.counts[:, :-1].sum(axis=0)
        return {
            name: 100.0 * int(hits[i]) / int(truth[i] + predicted[i] - hits[i])
            for i, name in enumerate(self.classes)
            if truth[i]
        }

    @property
    def predicted_areas(self) -> dict[str, float]:
        """Share (0 to 1) of each class in the predictions of a class on scored pixels; empty where there are none."""
        predicted = self.counts[:, :-1].sum(axis=0)
        return {n: int(p) / int(predicted.sum()) for n, p in zip(self.classes, predicted, strict=True) if p}

    @property
    def miou(self) -> float | None:
        """Mean of `per_class_iou`."""
        ious = self.per_class_iou
        return sum(ious.values()) / len(ious) if ious else None

    @property
    def pixel_accuracy(self) -> float | None:
        """Share of scored pixels that are right, in percent."""
        total = int(self.counts.sum())
        return 100.0 * int(self._hits().sum()) / total if total else None

    def document(self) -> dict[str, Any]:
        """Return the figures for JSON: `miou`, `per_class_iou`, `pixel_accuracy`, `images`; absent ones are absent."""
        figures = {
            "miou": self.miou,
            "per_class_iou": self.per_class_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "images": self.images,
        }
        return {name: figure for name, figure in figures.items() if figure is not None}

    def counts_document(self) -> dict[str, Any]:
        """Return the counts for JSON: rows are the truth, columns the prediction, the last of them of no class."""
        return {"truth": list(self.classes), "prediction": [*self.classes, None], "pixels": self.counts.tolist()}

    def _hits(self) -> npt.NDArray[np.int64]:
        return self.counts.diagonal()
