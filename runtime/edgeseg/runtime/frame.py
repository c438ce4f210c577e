"""A frame and what rides with it from the camera to the last sink."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

WHITE_LEVEL = 65535
"""White in pictures of more than 8 bits, unless said otherwise."""

Image = npt.NDArray[np.uint8]
"""(H, W, 3) uint8, BGR as OpenCV gives it."""

Mask = npt.NDArray[np.uint8]
"""(H, W) uint8 class indices."""

Confidence = npt.NDArray[np.uint8]
"""(rows, columns) uint8: how sure the network is of its class in each cell, 0 to 255 for a probability of 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frame:
    """One picture from a source. Whoever holds it may read the image and must not write to it."""

    image_bgr: Image
    id: int
    """The source's own count from 0: a dropped frame is a gap."""
    captured_ns: int
    """`time.monotonic_ns()` at capture, or as near to it as the source can tell."""
    name: str
    """Stem for files written of this frame: the image's own for image folders, else `frame-000012`."""
    truth: Mask | None = None
    """The exact labels, where the source knows them (the synthetic camera), at the image's size."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Result:
    """A frame with its mask."""

    frame: Frame
    mask: Mask
    """(H, W) class indices at the source's resolution; the contract's ignore index where the network saw nothing."""
    inference_ms: float
    """From the fitted frame in host memory to the mask in host memory."""
    masked_ns: int = field(default_factory=time.monotonic_ns)
    """When the mask at the source's resolution was ready."""
    camera: int = 0
    """Which of the run's cameras it comes from, counted from 0."""
    confidence: Confidence | None = None
    """Of the cells that the frame covers; None where the graph tells none."""

    @property
    def frame_age_ms(self) -> float:
        """Milliseconds from capture to mask."""
        return (self.masked_ns - self.frame.captured_ns) / 1e6
