"""labelme's JSON: one file for each image."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.frame import Mask
from edgeseg.train.data_import.notes import Notes
from edgeseg.train.data_import.shapes import (
    VOID,
    Bitmap,
    OtherSizeError,
    Points,
    Polygons,
    Region,
    Shape,
    ShapeError,
    box,
    ellipse,
    paint,
    points_of,
)
from edgeseg.train.data_import.source import (
    ImageIndex,
    LookupFailedError,
    Picture,
    Source,
    class_name,
    read_json,
    split_of,
)

LABELS = "labels.txt"
IGNORE = "__ignore__"


def read(source: Path, images: ImageIndex, notes: Notes) -> Source:
    """Read every labelme file below a folder. Later shapes lie on top; shapes labelled `__ignore__` are void.

    Classes are in the order of `labels.txt` where there is one, else of the alphabet. Raises `DatasetError` if there
    is no labelme file.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    for file in sorted(source.rglob("*.json")) if source.is_dir() else [source]:
        document = read_json(file)
        if isinstance(document, dict) and isinstance(document.get("shapes"), list) and "imagePath" in document:
            found.append((file, document))
    if not found:
        raise DatasetError(f"no labelme files in {source}", expected="JSON files with `shapes` and `imagePath`")
    root = source if source.is_dir() else source.parent
    classes = _classes(root, [document for _, document in found])
    pictures = []
    for file, document in found:
        path = _image_of(file, document, root, images, notes)
        if path is None:
            continue
        name = path.relative_to(images.root).as_posix()
        regions = list(_regions(document["shapes"], classes, notes, name))
        if not document["shapes"]:
            notes.add("no-label", name)
        drawn_hw = (document.get("imageHeight"), document.get("imageWidth"))
        folder = PurePosixPath(file.relative_to(root).as_posix()).parent
        draw = partial(_paint, regions, drawn_hw if all(drawn_hw) else None, notes, name)
        pictures.append(Picture(image=path, name=name, split=split_of(folder), paint=draw))
    return Source(classes=classes, pictures=pictures)


def _classes(root: Path, documents: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    listed = root / LABELS
    if listed.is_file():
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    else:
        shapes = [shape for document in documents for shape in document["shapes"] if isinstance(shape, dict)]
        names = sorted({str(shape.get("label")) for shape in shapes})
    return tuple(dict.fromkeys(class_name(name, "unnamed") for name in names if name != IGNORE))


def _image_of(file: Path, document: dict[str, Any], root: Path, images: ImageIndex, notes: Notes) -> Path | None:
    """Find the image: beside its labels by the path they give, or anywhere by its name alone, as folders get moved."""
    name = PurePosixPath(str(document["imagePath"]).replace("\\", "/"))
    beside = (file.parent / name).resolve()
    if beside.is_file() and beside.is_relative_to(root.resolve()) and images.root == root:
        return root / beside.relative_to(root.resolve())
    try:
        return images.find(name.name, hint=file.parent.name)
    except LookupFailedError as failure:
        notes.add(failure.kind, f"{file.relative_to(root).as_posix()}: {name}")
        return None


def _regions(shapes: Sequence[Any], classes: Sequence[str], notes: Notes, name: str) -> Iterator[Region]:
    index_of = {label: index for index, label in enumerate(classes)}
    for shape in shapes:
        if not isinstance(shape, dict):
            notes.add("bad-entry", name)
            continue
        label = class_name(shape.get("label"), "unnamed")
        if label != IGNORE and label not in index_of:
            notes.add("unknown-class", name)
            continue
        try:
            yield Region(index=VOID if label == IGNORE else index_of[label], shape=_shape(shape))
        except ShapeError as error:
            notes.add(error.kind, name)


def _shape(shape: dict[str, Any]) -> Shape:
    points = points_of(shape.get("points"))
    kind = shape.get("shape_type") or "polygon"
    if kind in ("polygon", "oriented_rectangle"):
        return Polygons(rings=[points])
    if kind not in ("rectangle", "circle", "mask"):
        raise ShapeError("no-surface")
    if len(points) < 2 or not np.isfinite(points).all():
        raise ShapeError("bad-shape")
    if kind == "mask":
        return _bitmap(shape.get("mask"), points)
    (x0, y0), (x1, y1) = points[:2]
    if kind == "circle":
        radius = float(np.hypot(x1 - x0, y1 - y0))
        return Polygons(rings=[ellipse(x0, y0, radius, radius)])
    return Polygons(rings=[box(x0, y0, x1, y1)])


def _bitmap(mask: Any, points: Points) -> Bitmap:
    if np.abs(points).max() > 1e7:
        raise ShapeError("bad-shape")
    try:
        data = np.frombuffer(base64.b64decode(mask, validate=True), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    except (TypeError, ValueError, binascii.Error, cv2.error):
        pixels = None
    if pixels is None:
        raise ShapeError("bad-shape")
    left, top = points[:2].min(axis=0).round().astype(int)
    return Bitmap(inside=pixels > 0, top=int(top), left=int(left))


def _paint(
    regions: Sequence[Region], drawn_hw: tuple[Any, Any] | None, notes: Notes, name: str, size_hw: tuple[int, int]
) -> Mask:
    if drawn_hw not in (None, size_hw):
        raise OtherSizeError
    return paint(regions, size_hw, notes, name, smaller_on_top=False)
