"""Golden frames: pictures with the masks that this bundle must give, on any machine, before it is trusted there."""

from __future__ import annotations

from pathlib import Path

import cv2

from edgeseg.export.parity import Predict
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.frame import Image
from edgeseg.runtime.manifest import golden_paths
from edgeseg.runtime.street import StreetCamera

FP32_AGREEMENT = 0.999
"""Share of pixels that any machine's fp32 must give as the reference did: engines differ in the last bits only."""
_FRAME_INDICES = (0, 125, 250)  # 5 s apart, so that the street has moved on


def write_golden_frames(folder: Path, contract: Contract, reference: Predict) -> tuple[str, ...]:
    """Write frames of the street camera, and the masks that `reference` gives of them, to `folder`/golden.

    The frames have the contract's size, so no resizing stands between them and the graph. Returns their names.
    """
    (folder / "golden").mkdir()
    camera = StreetCamera(size_hw=contract.size_hw)
    names = []
    for index in _FRAME_INDICES:
        name = f"street-{index:06d}"
        frame, _ = camera.render(index)
        frame_path, mask_path = golden_paths(name)
        _write_png(folder / frame_path, frame)
        _write_png(folder / mask_path, reference(frame[None])[0])
        names.append(name)
    return tuple(names)


def _write_png(path: Path, picture: Image) -> None:
    if not cv2.imwrite(str(path), picture):
        raise ExportError(f"cannot write {path}", fix="check the disk's space and permissions")
