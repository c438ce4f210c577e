"""Pascal VOC's folders, which are CVAT's "Segmentation mask" too: colour masks, lists of names, `labelmap.txt`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.dataset_spec import DatasetSpec, SplitSpec
from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.frame import Mask
from edgeseg.runtime.image_files import Rgb, read_label_pixels
from edgeseg.train.data_import.notes import Notes
from edgeseg.train.data_import.palette import voc_colours
from edgeseg.train.data_import.shapes import VOID, OtherSizeError
from edgeseg.train.data_import.source import ImageIndex, Picture, Source, class_name

MASKS = "SegmentationClass"
LABEL_MAP = "labelmap.txt"
_STANDARD = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def is_mask(path: PurePosixPath) -> bool:
    """Whether a picture's path within the source says that it is a label."""
    return any(part.startswith("Segmentation") for part in path.parts[:-1])


def read(source: Path, images: ImageIndex, notes: Notes) -> Source:
    """Read the folder that holds `SegmentationClass`; without a `labelmap.txt` classes are VOC's own 21.

    Raises `DatasetError` if there are no masks, or the map of labels cannot be read.
    """
    root = next((path.parent for path in sorted(source.rglob(MASKS)) if path.is_dir()), None)
    if root is None:
        raise DatasetError(f"no folder {MASKS} in {source}", expected="Pascal VOC's folders", fix="give their parent")
    classes, colours = _classes(root / LABEL_MAP)
    spec = DatasetSpec(
        name="voc",
        ignore_index=VOID,
        classes=classes,
        palette=colours,
        splits={"all": SplitSpec(images="images", masks=MASKS)},
    )
    meaning = Dataset(root, spec)
    pictures = []
    for stem, split in _names(root, notes).items():
        path = images.look_up(stem, notes, by_stem=True)
        mask = root / MASKS / f"{stem}.png"
        if path is not None:
            name = path.relative_to(images.root).as_posix()
            pictures.append(Picture(image=path, name=name, split=split, paint=partial(_paint, meaning, mask)))
    return Source(classes=classes, colours=colours, pictures=pictures)


def _names(root: Path, notes: Notes) -> dict[str, str | None]:
    """Return every listed name with its split; without lists, of every mask."""
    lists = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    if {"train", "val"} <= {path.stem for path in lists}:
        lists = [path for path in lists if path.stem != "trainval"]
    if not lists:
        masks = sorted((root / MASKS).rglob("*.png"))
        return {path.relative_to(root / MASKS).with_suffix("").as_posix(): None for path in masks}
    names: dict[str, str | None] = {}
    for path in lists:
        named = re.fullmatch(r"[\w-]+", path.stem) and path.stem not in ("default", "trainval", "all")
        split = path.stem.lower() if named else None
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            # Quoted where it has a space.
            stem = line.strip().strip('"').replace("\\", "/")
            if not stem:
                continue
            if ".." in PurePosixPath(stem).parts or PurePosixPath(stem).is_absolute():
                notes.add("unsafe-name", stem)
            elif stem in names:
                notes.add("listed-twice", stem)
            else:
                names[stem] = split
    return names


def _classes(label_map: Path) -> tuple[tuple[str, ...], tuple[Rgb, ...]]:
    if not label_map.is_file():
        return _STANDARD, voc_colours(len(_STANDARD))
    classes: dict[str, Rgb] = {}
    for number, line in enumerate(label_map.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        # A name may hold a colon, what follows the name may not.
        name, colour, *_ = [*line.rsplit(":", 3), ""]
        try:
            red, green, blue = (int(level) for level in colour.split(","))
        except ValueError:
            red = -1
        if red < 0 or max(red, green, blue) > 255 or min(green, blue) < 0:
            raise DatasetError(f"{label_map}, line {number}: {line!r}", expected="name:red,green,blue::")
        classes[class_name(name, f"class {number}")] = (red, green, blue)
    if not classes or len(set(classes.values())) != len(classes):
        raise DatasetError(f"{label_map}: no classes, or two of one colour", expected="a colour for each class")
    return tuple(classes), tuple(classes.values())


def _paint(meaning: Dataset, mask: Path, size_hw: tuple[int, int]) -> Mask:
    indices = meaning.labels(mask, read_label_pixels(mask))
    if indices.shape != size_hw:
        raise OtherSizeError
    return np.ascontiguousarray(indices)
