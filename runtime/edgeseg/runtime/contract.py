"""The contract between training, export and device: what goes in, what comes out, how a frame is fitted.

Normalisation and argmax are inside the graph; all that is left outside is bringing a camera's frame to the graph's
size and the mask back. Training's evaluation, calibration and the device all do that here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeseg.runtime.errors import FrameError
from edgeseg.runtime.frame import WHITE_LEVEL, Confidence, Image, Mask

Fit = Literal["stretch", "letterbox", "crop"]
Colour = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]

PAD_LEVEL = 127
"""Grey of letterbox bars: the graph normalises by (x - 127) / 128, so the network sees zero there."""
CONFIDENCE = "confidence"
"""Name of the graph's second output, where it has one."""
CONFIDENCE_LEVELS = 255.0
"""What a probability of 1 is there."""


class Contract(BaseModel):
    """Input size, fit and classes of a network. Frozen; validated on construction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=32, le=8192)
    width: int = Field(ge=32, le=8192)
    fit: Fit = "letterbox"
    classes: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(min_length=1, max_length=255)
    palette: tuple[Colour, ...]
    """RGB, one per class."""
    ignore_index: int = Field(ge=0, le=255)
    """Label value that is scored nowhere, and mask value where the network saw nothing."""
    confidence_cell: int | None = Field(default=None, ge=1, le=256)
    """Pixels of the input, each way, that share a value of the graph's second output; None: it has only the mask."""
    white_level: int = Field(default=WHITE_LEVEL, ge=256, le=WHITE_LEVEL)
    """Sample that is white in pictures of more than 8 bits: a dataset's, for those that are read from files."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Contract:
        if len(self.palette) != len(self.classes):
            raise ValueError(f"{len(self.palette)} palette colours for {len(self.classes)} classes")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names are not unique")
        if self.ignore_index < len(self.classes):
            raise ValueError(f"ignore_index {self.ignore_index} is also a class index")
        if self.confidence_cell and (self.height % self.confidence_cell or self.width % self.confidence_cell):
            raise ValueError(f"{self.height}x{self.width} pixels are not whole cells of {self.confidence_cell}")
        return self

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def confidence_hw(self) -> tuple[int, int] | None:
        """Rows and columns of the graph's second output; None if it has none."""
        cell = self.confidence_cell
        return None if cell is None else (self.height // cell, self.width // cell)


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def _centred(outer_hw: tuple[int, int], inner_hw: tuple[int, int]) -> Window:
    height, width = (min(i, o) for i, o in zip(inner_hw, outer_hw, strict=True))
    return Window(top=(outer_hw[0] - height) // 2, left=(outer_hw[1] - width) // 2, height=height, width=width)


class Fitter:
    """Carries frames of one size to a contract's size and masks back.

    `stretch` scales each axis by itself; `letterbox` keeps the aspect and fills with grey; `crop` keeps the aspect
    and cuts what is over, so the cut border of the source has no prediction (`ignore_index`).

    Not thread-safe: `fit` returns a buffer that its next call overwrites.
    """

    def __init__(self, contract: Contract, source_hw: tuple[int, int]) -> None:
        self.contract, self.source_hw = contract, source_hw
        target_hw = contract.size_hw
        ratios = [t / s for t, s in zip(target_hw, source_hw, strict=True)]
        if contract.fit == "letterbox":
            scale = min(ratios)
            inner = tuple(max(1, round(s * scale)) for s in source_hw)
            self.source, self.target = _centred(source_hw, source_hw), _centred(target_hw, (inner[0], inner[1]))
        elif contract.fit == "crop":
            scale = max(ratios)
            seen = tuple(max(1, round(t / scale)) for t in target_hw)
            self.source, self.target = _centred(source_hw, (seen[0], seen[1])), _centred(target_hw, target_hw)
        else:
            self.source, self.target = _centred(source_hw, source_hw), _centred(target_hw, target_hw)
        self._input = np.full((1, *target_hw, 3), PAD_LEVEL, np.uint8)

    def fit(self, frame_bgr: Image) -> Image:
        """Bring `frame_bgr` (H, W, 3 uint8) to the contract's size.

        Returns (1, h, w, 3) uint8, reused by the next call. Raises `FrameError` if the frame has another size, dtype
        or channel count than this fitter's.
        """
        if frame_bgr.shape != (*self.source_hw, 3) or frame_bgr.dtype != np.uint8:
            raise FrameError(
                f"frame of shape {frame_bgr.shape}, {frame_bgr.dtype}",
                expected=f"{(*self.source_hw, 3)}, uint8",
                fix="convert the frame to 8-bit BGR",
            )
        inner, target = frame_bgr[self.source.slices], self._input[0][self.target.slices]
        # Exact bilinear gives the same bytes on every CPU, and past 2:1 it would skip pixels. So pairs are averaged
        # first, as often as it takes: exact too, and a quarter of the time of averaging areas of any size.
        while inner.shape[0] > 2 * target.shape[0] or inner.shape[1] > 2 * target.shape[1]:
            height, width = (n // 2 if n > 2 * t else n for n, t in zip(inner.shape[:2], target.shape[:2], strict=True))
            inner = cv2.resize(inner, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        _resize(inner, target, cv2.INTER_LINEAR_EXACT)
        return self._input

    def fit_mask(self, mask: Mask) -> Mask:
        """Bring labels (H, W uint8) to the contract's size; bars get the ignore index. Returns a new array."""
        fitted = np.full(self.contract.size_hw, self.contract.ignore_index, np.uint8)
        _resize(mask[self.source.slices], fitted[self.target.slices], cv2.INTER_NEAREST_EXACT)
        return fitted

    def unfit_confidence(self, cells: Confidence) -> Confidence:
        """Return those of the contract's `cells` (rows, columns) that lie within the frame and not in its bars: a copy.

        A frame that fills no whole cell gets its middle one.
        """
        cell = self.contract.height // cells.shape[0]
        target = self.target
        rows, columns = _whole_cells(target.top, target.height, cell), _whole_cells(target.left, target.width, cell)
        return cells[rows, columns].copy()

    def unfit(self, mask: Mask) -> Mask:
        """Bring a mask (h, w uint8) of the contract's size back to the source's size. Returns a new array."""
        inner = mask[self.target.slices]
        size_wh = (self.source.width, self.source.height)
        if (self.source.height, self.source.width) == self.source_hw:
            if inner.shape == self.source_hw:
                return inner.copy()
            return cv2.resize(inner, size_wh, interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[return-value]
        whole = np.full(self.source_hw, self.contract.ignore_index, np.uint8)
        whole[self.source.slices] = cv2.resize(inner, size_wh, interpolation=cv2.INTER_NEAREST_EXACT)
        return whole


def _whole_cells(start: int, size: int, cell: int) -> slice:
    first, end = -(-start // cell), (start + size) // cell
    if first >= end:
        first = (start + size // 2) // cell
        end = first + 1
    return slice(first, end)


def _resize(image: Image | Mask, out: Image | Mask, interpolation: int) -> None:
    if image.shape == out.shape:
        out[...] = image
    else:
        cv2.resize(image, out.shape[1::-1], dst=out, interpolation=interpolation)  # into the rows of `out` themselves
