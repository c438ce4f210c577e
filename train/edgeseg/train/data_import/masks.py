"""Masks that lie beside their images, by whatever names: in a folder of their own, or one file for each object.

Which mask is whose is told by names (`IMG_7.JPG` and `IMG_7_mask.png`), or by folders (`7/images/a.png` and everything
in `7/masks`; `images/7.png` and everything in `masks/7`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.frame import Mask
from edgeseg.train.data_import.mask_values import Meaning, NamedValues, find_values
from edgeseg.train.data_import.notes import Notes
from edgeseg.train.data_import.shapes import UNLABELLED, OtherSizeError
from edgeseg.train.data_import.source import Picture, Source, image_paths, name_key, split_of

_LABEL_WORDS = r"masks?|labels?|annot(?:ation)?s?|ground[ _-]?truth|truth|gt|seg(?:mentation(?:class)?)?s?"
_FOLDER = re.compile(rf"(?:.*[^a-z])?(?:{_LABEL_WORDS})(?:[^a-z].*)?|.*(?:annot|masks?|labels?)", re.IGNORECASE)
_LABEL_AFFIX = re.compile(rf"^(?:{_LABEL_WORDS})[ _.-]+|[ _.-]+(?:{_LABEL_WORDS}|l)$")
_IMAGE_AFFIX = re.compile(r"^(?:image|img|photo)[ _.-]+|[ _.-]+(?:image|img|photo|rgb|sat)$")


def is_mask(path: PurePosixPath) -> bool:
    """Whether a picture's path within the source says that it is a label."""
    return any(_FOLDER.fullmatch(part) for part in path.parts[:-1])


def read(source: Path, images: Path | None, masks: Path | None, values: Sequence[NamedValues], notes: Notes) -> Source:
    """Read the images and masks below `source`, or below `images` and `masks` where they are given.

    Without `values` the classes are those that `find_values` finds. Raises `DatasetError` if there are no masks, an
    image has several of one name, or what `find_values` raises.
    """
    if not source.is_dir():
        raise DatasetError(f"{source} is a file", expected="a folder with images and masks", fix="give their folder")
    root = images or source
    photos, labels = _sorted_out(root, masks)
    if not labels and images is not None:
        labels = [source / path for path in image_paths(source) if is_mask(path)]
    if not labels:
        raise DatasetError(f"no masks below {source}", expected="a folder such as `masks`", fix="name it with --masks")
    of = _assign(root, photos, labels, notes)
    if not of:
        first = min(label.name for label in labels)
        raise DatasetError(
            f"none of {len(labels)} masks, the first {first}, fits one of {len(photos)} images by its name",
            expected="IMG_7.png or IMG_7_mask.png for IMG_7.jpg",
            fix="name the folders with --images and --masks",
        )
    used = [label for owned in of.values() for label in owned]
    meaning = Meaning(values or find_values(used, notes), notes)
    pictures = [
        Picture(
            image=root / path,
            name=path.as_posix(),
            split=split_of(path.parent),
            paint=partial(_paint, meaning, of[path], notes),
        )
        for path in photos
        if path in of
    ]
    return Source(classes=meaning.classes, colours=meaning.colours, pictures=pictures, covers_all=meaning.covers_all)


def _sorted_out(root: Path, masks: Path | None) -> tuple[list[PurePosixPath], list[Path]]:
    """Return the images below `root`, and the masks: all below `masks`, else what below `root` looks like one."""
    paths = list(image_paths(root))
    elsewhere = masks is not None and masks.resolve() != root.resolve()
    if masks is not None and elsewhere:
        paths = [path for path in paths if not (root / path.parent).resolve().is_relative_to(masks.resolve())]
    labels = {path for path in paths if is_mask(path)}
    known = {(path.parent, name_key(path.stem)) for path in paths if path not in labels}
    known |= {(parent, _IMAGE_AFFIX.sub("", stem)) for parent, stem in known}
    for path in paths:
        stem = _LABEL_AFFIX.sub("", name_key(path.stem))
        if stem != name_key(path.stem) and (path.parent, stem) in known:
            labels.add(path)
    photos = [path for path in paths if path not in labels]
    if masks is not None and elsewhere:
        return photos, [masks / path for path in image_paths(masks)]
    return photos, [root / path for path in paths if path in labels]


def _assign(
    root: Path, photos: Sequence[PurePosixPath], labels: Iterable[Path], notes: Notes
) -> dict[PurePosixPath, list[Path]]:
    """Return the masks of each image that has any."""
    by_name: dict[str, list[PurePosixPath]] = {}
    by_folder: dict[Path, list[PurePosixPath]] = {}
    for path in photos:
        key = name_key(path.stem)
        for name in {key, _IMAGE_AFFIX.sub("", key)}:
            by_name.setdefault(name, []).append(path)
        by_folder.setdefault((root / path).parent.parent, []).append(path)
    whole: dict[PurePosixPath, list[Path]] = {}
    parts: dict[PurePosixPath, list[Path]] = {}
    for label in labels:
        key = name_key(label.stem)
        found = next((by_name[name] for name in (key, _LABEL_AFFIX.sub("", key)) if name in by_name), [])
        owner, kind = _nearest(root, found, label), whole
        if owner is None and not found:
            named, beside = by_name.get(name_key(label.parent.name), []), by_folder.get(label.parent.parent, [])
            owner, kind = _nearest(root, named, label) or (beside[0] if len(beside) == 1 else None), parts
        if owner is None:
            notes.add("ambiguous-image" if found else "no-image", label.name)
        else:
            kind.setdefault(owner, []).append(label)
    for path, several in whole.items():
        if len(several) > 1 and path not in parts:
            raise DatasetError(
                f"{path} has several masks: {', '.join('/'.join(label.parts[-2:]) for label in several)}",
                expected="one mask of its name",
                fix="choose a folder with --masks, or move the other masks away",
            )
    for path in photos:
        if path not in whole and path not in parts:
            notes.add("no-mask", path.as_posix())
    return {path: whole.get(path, []) + parts.get(path, []) for path in photos if path in whole or path in parts}


def _nearest(root: Path, found: Sequence[PurePosixPath], label: Path) -> PurePosixPath | None:
    """Return the one of `found` whose folders' names are most like those of `label`; None if there is no such one."""
    if len(found) < 2:
        return found[0] if found else None
    # `train` is shared by `train/images` and `train/masks`, and by `train` and `trainannot`.
    shared = [sum(part.startswith((root / path).parent.parts) for part in label.parent.parts) for path in found]
    best = max(shared)
    return found[shared.index(best)] if shared.count(best) == 1 else None


def _paint(meaning: Meaning, labels: Sequence[Path], notes: Notes, size_hw: tuple[int, int]) -> Mask:
    mask = np.full(size_hw, UNLABELLED, np.uint8)
    for label in labels:
        part = meaning.read(label)
        if part.shape != size_hw:
            part = _brought_to(size_hw, part)
            notes.add("resized", label.name)
        np.copyto(mask, part, where=part != UNLABELLED)
    return mask


def _brought_to(size_hw: tuple[int, int], mask: Mask) -> Mask:
    """Bring a mask of the same shape to another size. Raises `OtherSizeError` if its shape differs."""
    scale = size_hw[0] / mask.shape[0]
    if abs(mask.shape[1] * scale - size_hw[1]) > max(1.0, scale):
        raise OtherSizeError
    resized: Mask = cv2.resize(mask, size_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[assignment]
    return resized
