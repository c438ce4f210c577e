"""Golden frames: pictures with the masks that this bundle must give, on any machine, before it is trusted there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2

from edgeseg.export.parity import Predict
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.dataset import Dataset, Pair
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.evaluate import spread
from edgeseg.runtime.frame import Image
from edgeseg.runtime.manifest import golden_paths
from edgeseg.runtime.street import StreetCamera

FP32_AGREEMENT = 0.999
"""Share of pixels that any machine's fp32 must give as the reference did: engines differ in the last bits only."""
_FRAME_INDICES = (0, 125, 250)  # 5 s apart, so that the street has moved on


def choose_real_frames(dataset: Dataset, contract: Contract, pairs: Sequence[Pair], count: int) -> dict[str, Image]:
    """Return at most `count` pictures of `pairs`, spread evenly and fitted to the contract, by the names they get.

    Raises `ExportError` if one of them is a picture of the split `test`, which nothing may be fitted to.
    """
    chosen = spread(pairs, count)
    final = {pair.image.resolve() for pair in dataset.pairs("test")} if chosen and "test" in dataset.splits else set()
    if any(pair.image.resolve() in final for pair in chosen):
        raise ExportError("the run chose its pictures from split 'test'", fix="export without --golden-real")
    frames = {}
    for index, pair in enumerate(chosen):
        image = dataset.read_image(pair)
        frames[f"real-{index:03d}"] = Fitter(contract, (image.shape[0], image.shape[1])).fit(image)[0].copy()
    return frames


def write_golden_frames(
    folder: Path, contract: Contract, reference: Predict, real: Mapping[str, Image]
) -> tuple[str, ...]:
    """Write frames of the street camera and those of `real`, with the masks that `reference` gives, to `folder`/golden.

    All have the contract's size, so no resizing stands between them and the graph. Returns their names.
    """
    (folder / "golden").mkdir()
    camera = StreetCamera(size_hw=contract.size_hw)
    frames = {f"street-{index:06d}": camera.render(index)[0] for index in _FRAME_INDICES}
    for name, frame in {**frames, **real}.items():
        frame_path, mask_path = golden_paths(name)
        _write_png(folder / frame_path, frame)
        _write_png(folder / mask_path, reference(frame[None])[0])
    return (*frames, *real)


def _write_png(path: Path, picture: Image) -> None:
    if not cv2.imwrite(str(path), picture):
        raise ExportError(f"cannot write {path}", fix="check the disk's space and permissions")
