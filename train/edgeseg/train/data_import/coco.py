"""COCO's JSON: instances with polygons or run-length masks, and panoptic with its PNGs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ValidationError

from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.frame import Mask
from edgeseg.runtime.image_files import Rgb, read_label_pixels
from edgeseg.train.data_import.notes import Notes
from edgeseg.train.data_import.shapes import (
    UNLABELLED,
    VOID,
    OtherSizeError,
    Polygons,
    Region,
    Runs,
    Shape,
    ShapeError,
    paint,
    points_of,
)
from edgeseg.train.data_import.source import ImageIndex, Picture, Source, class_name, read_json, split_of

_OTHER_TASKS = ("captions", "person_keypoints", "image_info")
_Entry = TypeVar("_Entry", bound=BaseModel)
_Text = Annotated[str, BeforeValidator(str)]


class _Category(BaseModel):
    id: int
    name: _Text
    color: tuple[int, int, int] | None = None


class _Image(BaseModel):
    id: _Text
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(BaseModel):
    image_id: _Text
    category_id: int
    segmentation: Any = None


class _Segment(BaseModel):
    id: int
    category_id: int


class _Panoptic(BaseModel):
    image_id: _Text
    file_name: str
    segments_info: list[Any]


def read(source: Path, images: ImageIndex, notes: Notes) -> Source:
    """Read the JSON file `source`, or those in a folder, whose names or folders tell of their splits.

    Objects lie over larger ones. Raises `DatasetError` if there is no such file or it cannot be read.
    """
    files = [source] if source.is_file() else _label_files(source)
    documents = [(file, read_json(file)) for file in files]
    documents = [(file, document) for file, document in documents if _is_coco(document)]
    if not documents:
        raise DatasetError(f"no COCO labels in {source}", expected="a JSON file with `images` and `annotations`")
    names: dict[str, Rgb | None] = {}
    for file, document in documents:
        for category in _entries(_Category, document.get("categories"), notes, file):
            names.setdefault(class_name(category.name, f"class {category.id}"), _colour(category.color))
    pictures: list[Picture] = []
    for file, document in documents:
        split = split_of(PurePosixPath(file.name if file == source else file.relative_to(source).as_posix()))
        pictures += _pictures(file, document, split, list(names), images, notes)
    return Source(classes=tuple(names), colours=tuple(names.values()), pictures=pictures)


def _label_files(source: Path) -> list[Path]:
    return [file for file in sorted(source.rglob("*.json")) if not file.name.startswith((".", *_OTHER_TASKS))]


def _is_coco(document: Any) -> bool:
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations"))


def _entries(model: type[_Entry], entries: Any, notes: Notes, file: Path) -> Iterator[_Entry]:
    for entry in entries if isinstance(entries, list) else []:
        try:
            yield model.model_validate(entry)
        except ValidationError:
            notes.add("bad-entry", file.name)


def _pictures(
    file: Path, document: Any, split: str | None, names: list[str], images: ImageIndex, notes: Notes
) -> Iterator[Picture]:
    index_of = {
        category.id: names.index(class_name(category.name, f"class {category.id}"))
        for category in _entries(_Category, document.get("categories"), Notes(), file)
    }
    entries = {image.id: image for image in _entries(_Image, document["images"], notes, file)}
    regions: dict[str, list[Region]] = {key: [] for key in entries}
    panoptic: dict[str, _Panoptic] = {}
    for raw in document["annotations"]:
        if isinstance(raw, dict) and "segments_info" in raw:
            panoptic |= {entry.image_id: entry for entry in _entries(_Panoptic, [raw], notes, file)}
            continue
        for entry in _entries(_Annotation, [raw], notes, file):
            if entry.image_id not in entries:
                notes.add("bad-entry", file.name)
            elif region := _region(entry, index_of, notes, entries[entry.image_id].file_name):
                regions[entry.image_id].append(region)
    hint = split or file.parent.name
    for key, image in entries.items():
        path = images.look_up(image.file_name, notes, hint=hint)
        if path is None:
            continue
        name = path.relative_to(images.root).as_posix()
        size_hw = (image.height, image.width) if image.height and image.width else None
        if key in panoptic:
            draw = partial(_paint_panoptic, _png_of(file, panoptic[key]), panoptic[key], index_of, notes)
        else:
            if not regions[key]:
                notes.add("no-label", name)
            draw = partial(_paint_regions, regions[key], size_hw, notes, name)
        yield Picture(image=path, name=name, split=split, paint=draw)


def _region(entry: _Annotation, index_of: dict[int, int], notes: Notes, name: str) -> Region | None:
    if entry.category_id not in index_of:
        notes.add("unknown-class", name)
    elif not entry.segmentation:
        notes.add("no-surface", name)
    else:
        try:
            return Region(index=index_of[entry.category_id], shape=_shape(entry.segmentation))
        except ShapeError as error:
            notes.add(error.kind, name)
    return None


def _shape(segmentation: Any) -> Shape:
    if isinstance(segmentation, list):
        return Polygons(rings=[points_of(ring) for ring in segmentation])
    try:
        height, width = (int(side) for side in segmentation["size"])
        counts = segmentation["counts"]
        counts = unpack_counts(counts) if isinstance(counts, str) else [int(count) for count in counts]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ShapeError("bad-shape") from None
    return Runs(counts=counts, size_hw=(height, width), in_columns=True, whole=True)


def unpack_counts(text: str) -> list[int]:
    """Turn COCO's packed run lengths into numbers: five bits a letter from "0" up, the sixth says that more follow,
    the highest bit is the sign, and from the fourth on each is the difference to the one before the last.

    Raises `ValueError` for a text that cannot come from that.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 35:
            raise ValueError(f"run lengths with {letter!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("run lengths cut short")
    return counts


def _paint_regions(
    regions: Sequence[Region], drawn_hw: tuple[int, int] | None, notes: Notes, name: str, size_hw: tuple[int, int]
) -> Mask:
    if drawn_hw not in (None, size_hw):
        raise OtherSizeError
    return paint(regions, size_hw, notes, name, smaller_on_top=True)


def _png_of(file: Path, entry: _Panoptic) -> Path:
    """Return the PNG of segments, in the folder that is named like the JSON file; a name cannot lead out of it."""
    return file.with_suffix("") / PurePosixPath(entry.file_name.replace("\\", "/")).name


def _paint_panoptic(
    png: Path, entry: _Panoptic, index_of: dict[int, int], notes: Notes, size_hw: tuple[int, int]
) -> Mask:
    pixels = read_label_pixels(png).pixels
    if pixels.shape[:2] != size_hw:
        raise OtherSizeError
    if pixels.ndim != 3:
        raise DatasetError(f"{png}: a grey picture", expected="segments numbered by colour")
    blue, green, red = (pixels[..., channel].astype(np.int64) for channel in range(3))
    segments = red + 256 * green + 65536 * blue
    numbers, places = np.unique(segments, return_inverse=True)
    found = np.full(len(numbers), UNLABELLED, np.uint8)
    for segment in _entries(_Segment, entry.segments_info, notes, png):
        if segment.category_id not in index_of:
            notes.add("unknown-class", png.name)
            found[numbers == segment.id] = VOID
        else:
            found[numbers == segment.id] = index_of[segment.category_id]
    return found[places].reshape(size_hw)


def _colour(colour: tuple[int, int, int] | None) -> Rgb | None:
    return colour if colour and all(0 <= level <= 255 for level in colour) else None
