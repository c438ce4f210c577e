"""One scene, written as five tools write it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from edgeseg.runtime.cli import main
from edgeseg.runtime.dataset import Dataset, load_dataset

HEIGHT, WIDTH = 30, 40
CROP = [(4, 4), (20, 4), (20, 20), (4, 20)]
WEED = [(10, 10), (30, 10), (30, 14), (10, 14)]
"""Smaller than the crop, and over it in part."""
CLASSES = ("crop", "weed")


def truth(background: int = 0, crop: int = 1, weed: int = 2) -> npt.NDArray[np.uint8]:
    """The scene's mask, the smaller and later weed on top."""
    mask = np.full((HEIGHT, WIDTH), background, np.uint8)
    mask[4:20, 4:20] = crop
    mask[10:14, 10:30] = weed
    return mask


def photo(seed: int, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> npt.NDArray[np.uint8]:
    """Blotches, other ones for every seed."""
    blotches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(blotches, size_hw[::-1], interpolation=cv2.INTER_CUBIC))


def write_photo(path: Path, seed: int = 0, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, photo(seed, size_hw))[1].tobytes())
    return path


def flat(points: list[tuple[int, int]]) -> list[float]:
    return [float(number) for point in points for number in point]


def coco_document(names: list[str]) -> dict[str, Any]:
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)]
    annotations = [
        {"id": 2 * i + k, "image_id": i, "category_id": 7 + k, "segmentation": [flat(shape)], "iscrowd": 0}
        for i in range(len(names))
        for k, shape in ((1, WEED), (0, CROP))
    ]
    categories = [{"id": 7, "name": "crop"}, {"id": 8, "name": "weed"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        write_photo(root / "images" / name, seed)
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_default.json").write_text(json.dumps(coco_document(names)))
    return root


def write_voc(root: Path, names: list[str]) -> Path:
    colours = np.array([(0, 0, 0), (10, 200, 30), (250, 0, 5)], np.uint8)
    (root / "SegmentationClass").mkdir(parents=True)
    for seed, name in enumerate(names):
        write_photo(root / "JPEGImages" / name, seed)
        path = root / "SegmentationClass" / f"{Path(name).stem}.png"
        path.write_bytes(cv2.imencode(".png", colours[truth()][..., ::-1])[1].tobytes())
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "crop:10,200,30::", "weed:250,0,5::"]
    (root / "labelmap.txt").write_text("\n".join(lines))
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("\n".join(Path(name).stem for name in names))
    return root


def write_labelme(root: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        path = write_photo(root / name, seed)
        shapes = [
            {"label": "crop", "shape_type": "polygon", "points": CROP},
            {"label": "weed", "shape_type": "rectangle", "points": [WEED[2], WEED[0]]},
        ]
        document = {"shapes": shapes, "imagePath": path.name, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        path.with_suffix(".json").write_text(json.dumps(document))
    return root


def cvat_image(index: int, name: str, shapes: str) -> str:
    return f'<image id="{index}" name="{name}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'


def cvat_document(images: str) -> str:
    labels = "".join(f"<label><name>{name}</name><color>#{hue}</color></label>" for name, hue in
                     (("crop", "0ac81e"), ("weed", "fa0005")))  # fmt: skip
    return (
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>'
        f"<meta><task><labels>{labels}</labels></task></meta>{images}</annotations>"
    )


def write_cvat(root: Path, names: list[str]) -> Path:
    crop = ";".join(f"{x},{y}" for x, y in CROP)
    # Above by its z_order, though it comes first.
    mask = '<mask label="weed" rle="0, 80" left="10" top="10" width="20" height="4" z_order="1"/>'
    for seed, name in enumerate(names):
        write_photo(root / "images" / name, seed)
    images = "".join(
        cvat_image(i, name, f'{mask}<polygon label="crop" points="{crop}" z_order="0"/>')
        for i, name in enumerate(names)
    )
    (root / "annotations.xml").write_text(cvat_document(images))
    return root


def write_yolo(root: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        write_photo(root / "train" / "images" / name, seed)
        lines = [
            " ".join([str(number), *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in shape)])
            for number, shape in ((1, WEED), (0, CROP))
        ]
        labels = root / "train" / "labels" / Path(name).with_suffix(".txt")
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['crop', 'weed']\n")
    return root


WRITERS: dict[str, Callable[[Path, list[str]], Path]] = {
    "coco": write_coco, "voc": write_voc, "labelme": write_labelme, "cvat": write_cvat, "yolo": write_yolo,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a run of the command left."""

    result: Result
    out: Path
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def dataset(self) -> Dataset:
        return load_dataset(self.out)

    @property
    def notes(self) -> dict[str, int]:
        return {note["kind"]: note["count"] for note in self.document["notes"]}

    def mask(self, stem: str) -> npt.NDArray[np.uint8]:
        (pair,) = (p for split in self.dataset.splits for p in self.dataset.pairs(split) if p.stem == stem)
        return self.dataset.read_mask(pair)

    def stems(self, split: str) -> list[str]:
        return [pair.stem for pair in self.dataset.pairs(split)]


Import = Callable[..., Imported]


@pytest.fixture
def import_it(tmp_path: Path) -> Import:
    """Run `edgeseg data import SOURCE --from FORM` and give what it left; its exit status must be `status`."""

    def run(source: Path, form: str, *arguments: str, status: int = 0) -> Imported:
        out, report = tmp_path / "made" / "yard", tmp_path / "report.json"
        words = ["data", "import", str(source), "--from", form, "--out", str(out), "--json", str(report), *arguments]
        result = CliRunner(env={"COLUMNS": "300"}).invoke(main, words)
        assert result.exit_code == status, result.output
        if status:
            assert not out.exists() and (not out.parent.exists() or not list(out.parent.iterdir()))
            return Imported(result=result, out=out)
        return Imported(result=result, out=out, document=json.loads(report.read_text()))

    return run


def png_base64(mask: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(cv2.imencode(".png", mask)[1].tobytes()).decode()
