"""The confusion matrix and the reliability diagram as pictures, drawn by OpenCV alone: a device has nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.contact_sheet import MARGIN, PAPER, QUIET, TEXT_CAP, TITLE_CAP
from edgeseg.runtime.evaluation.calibration import BINS, Bin
from edgeseg.runtime.frame import Image
from edgeseg.runtime.overlay import SOFT, WHITE, Colour, put_text, text_width

CELL = 54
SIDE = 420
"""Of the reliability diagram's square, pixels."""
FULL: Colour = (178, 114, 0)
"""Okabe and Ito's blue, BGR: told apart by colour-blind readers, as is the next."""
GAP_COLOUR: Colour = (0, 94, 213)
_NO_CLASS = "no class"


def draw_confusion(matrix: ConfusionMatrix, title: str) -> Image:
    """Draw where each class's pixels went, in percent of its truth: (H, W, 3) uint8 BGR. Rows are the truth."""
    columns = [*matrix.classes, *([_NO_CLASS] if matrix.counts[:, -1].any() else [])]
    counts = matrix.counts[:, : len(columns)]
    shares = 100.0 * counts / np.maximum(matrix.counts.sum(axis=1, keepdims=True), 1)
    names_px = max(text_width(name, TEXT_CAP) for name in columns)
    left, top = MARGIN + names_px + 12, MARGIN + TITLE_CAP + 24 + names_px + 12
    height = top + CELL * len(matrix.classes) + MARGIN + 2 * TEXT_CAP
    width = max(left + CELL * len(columns), MARGIN + text_width(title, TITLE_CAP)) + MARGIN
    canvas = np.full((height, width, 3), PAPER, np.uint8)
    put_text(canvas, title, MARGIN, MARGIN + TITLE_CAP, TITLE_CAP, WHITE)
    for column, name in enumerate(columns):
        _put_upright(canvas, name, left + CELL * column + CELL // 2 + TEXT_CAP // 2, top - 8)
    for row, name in enumerate(matrix.classes):
        middle = top + CELL * row + CELL // 2
        put_text(canvas, name, left - 12 - text_width(name, TEXT_CAP), middle + TEXT_CAP // 2, TEXT_CAP, SOFT)
        if not matrix.counts[row].any():
            continue
        for column, share in enumerate(shares[row].tolist()):
            _fill_cell(canvas, left + CELL * column, top + CELL * row, share)
    note = "row: truth, column: prediction; percent of the truth's pixels"
    put_text(canvas, note, left, height - MARGIN // 2, TEXT_CAP, QUIET)
    return canvas


def draw_reliability(bins: Sequence[Bin], error: float, title: str) -> Image:
    """Draw the share of right pixels against the network's own probability: (H, W, 3) uint8 BGR.

    Blue bars are what was right, orange what was missing to the diagonal or beyond it; the strip below them has the
    share of pixels in each bin.
    """
    left, top, strip = MARGIN + 44, MARGIN + TITLE_CAP + 52, 80
    canvas = np.full((top + SIDE + strip + 3 * MARGIN, left + SIDE + 2 * MARGIN, 3), PAPER, np.uint8)
    put_text(canvas, title, MARGIN, MARGIN + TITLE_CAP, TITLE_CAP, WHITE)
    heading = f"right, against confidence; expected calibration error {error:.2f} %"
    put_text(canvas, heading, MARGIN, MARGIN + TITLE_CAP + 30, TEXT_CAP, SOFT)
    bottom, floor = top + SIDE, top + SIDE + 16 + strip
    most = max(one.pixels for one in bins)
    for one in bins:
        x = left + round(one.low * SIDE), left + round(one.high * SIDE) - 2
        right, wanted = bottom - round(one.accuracy * SIDE), bottom - round(one.confidence * SIDE)
        cv2.rectangle(canvas, (x[0], right), (x[1], bottom), FULL, -1)
        cv2.rectangle(canvas, (x[0], min(right, wanted)), (x[1], max(right, wanted)), GAP_COLOUR, -1)
        cv2.rectangle(canvas, (x[0], floor - round(strip * one.pixels / most)), (x[1], floor), QUIET, -1)
    cv2.rectangle(canvas, (left, top), (left + SIDE, bottom), QUIET, 1)
    cv2.line(canvas, (left, bottom), (left + SIDE, top), WHITE, 1, cv2.LINE_AA)
    for tick in range(0, 101, 20):
        at = round(tick * SIDE / 100)
        put_text(canvas, f"{tick}", left - 12 - text_width(f"{tick}", TEXT_CAP), bottom - at + 5, TEXT_CAP, SOFT)
        put_text(canvas, f"{tick}", left + at - 8, floor + TEXT_CAP + 8, TEXT_CAP, SOFT)
    note = f"confidence, %; {BINS} bins; grey: pixels in each"
    put_text(canvas, note, left, floor + 2 * TEXT_CAP + 20, TEXT_CAP, QUIET)
    return canvas


def _fill_cell(canvas: Image, left: int, top: int, share: float) -> None:
    # By the square root, so that one percent of a class that went astray can be seen.
    weight = (share / 100) ** 0.5
    colour = [paper + weight * (full - paper) for paper, full in zip(PAPER, FULL, strict=True)]
    canvas[top + 1 : top + CELL - 1, left + 1 : left + CELL - 1] = np.array(colour).round().astype(np.uint8)
    if share >= 0.05:
        text = f"{share:.1f}"
        put_text(canvas, text, left + (CELL - text_width(text, TEXT_CAP)) // 2, top + CELL // 2 + 5, TEXT_CAP, WHITE)


def _put_upright(canvas: Image, text: str, right: int, bottom: int) -> None:
    """Write `text` upwards from row `bottom`, its baseline at column `right`."""
    line = np.full((2 * TEXT_CAP, text_width(text, TEXT_CAP), 3), PAPER, np.uint8)
    put_text(line, text, 0, TEXT_CAP + TEXT_CAP // 2, TEXT_CAP, SOFT)
    upright = np.rot90(line)
    height, width = upright.shape[:2]
    first = right - TEXT_CAP - TEXT_CAP // 2
    canvas[bottom - height : bottom, first : first + width] = upright
