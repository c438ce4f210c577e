"""Several cameras side by side in one picture, for sinks that show one."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Frame, Image, Mask, Result
from edgeseg.runtime.sinks import Sink

SIZE_HW = (720, 1280)


class MosaicSink:
    """Gives `sink` one picture of all cameras whenever one of them has a new mask. Its figures are that camera's."""

    def __init__(self, sink: Sink, cameras: int, contract: Contract, *, size_hw: tuple[int, int] = SIZE_HW) -> None:
        self.spec = sink.spec
        self._sink = sink
        self._columns = math.ceil(math.sqrt(cameras))
        rows = math.ceil(cameras / self._columns)
        self._cell_hw = (size_hw[0] // rows, size_hw[1] // self._columns)
        self._ignore_index = contract.ignore_index
        self._image: Image = np.zeros((*size_hw, 3), np.uint8)
        self._mask: Mask = np.full(size_hw, contract.ignore_index, np.uint8)

    def write(self, result: Result) -> None:
        """Put `result` into its camera's cell, aspect kept, and hand the whole on."""
        row, column = divmod(result.camera, self._columns)
        height, width = self._cell_hw
        cell = np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width]
        source_hw = result.mask.shape
        scale = min(height / source_hw[0], width / source_hw[1])
        inner_hw = (max(1, round(source_hw[0] * scale)), max(1, round(source_hw[1] * scale)))
        top, left = (height - inner_hw[0]) // 2, (width - inner_hw[1]) // 2
        inner = np.s_[top : top + inner_hw[0], left : left + inner_hw[1]]
        shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        # The frame size of a camera may change, so what was there before goes.
        self._image[cell], self._mask[cell] = 0, self._ignore_index
        self._image[cell][inner] = cv2.resize(result.frame.image_bgr, inner_hw[::-1], interpolation=shrinks)
        self._mask[cell][inner] = cv2.resize(result.mask, inner_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        frame = result.frame
        whole = Frame(image_bgr=self._image, id=frame.id, captured_ns=frame.captured_ns, name=frame.name)
        self._sink.write(replace(result, frame=whole, mask=self._mask))

    def close(self) -> None:
        self._sink.close()
