"""CVAT's XML "for images": polygons, boxes, ellipses and masks. Its "Segmentation mask" export is read as VOC's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.frame import Mask
from edgeseg.runtime.image_files import Rgb
from edgeseg.train.data_import import voc
from edgeseg.train.data_import.notes import Notes
from edgeseg.train.data_import.shapes import (
    OtherSizeError,
    Polygons,
    Region,
    Runs,
    Shape,
    ShapeError,
    box,
    ellipse,
    paint,
    points_of,
)
from edgeseg.train.data_import.source import ImageIndex, Picture, Source, class_name, split_of


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses what a labels file never has: declarations, with which a small file can grow without end."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type")


def read(source: Path, images: ImageIndex, notes: Notes) -> Source:
    """Read an XML file, or the one in a folder; a folder with `SegmentationClass` is read as `voc.read` does.

    The higher `z_order` lies on top, of equal ones the later shape. Raises `DatasetError` if there are no such labels.
    """
    if source.is_dir():
        files = sorted(source.rglob("*.xml"))
        if not files and any(source.rglob(voc.MASKS)):
            return voc.read(source, images, notes)
        if len(files) != 1:
            raise DatasetError(
                f"{len(files)} XML files in {source}",
                expected="one, or the folder SegmentationClass",
                fix="give the file itself as SOURCE",
            )
        source = files[0]
    root = _parse(source)
    if root.tag != "annotations" or root.find("track") is not None:
        raise DatasetError(
            f"{source}: not CVAT's labels of images", expected="<annotations> without tracks",
            fix="export as `CVAT for images 1.1`",
        )  # fmt: skip
    classes: dict[str, Rgb | None] = {}
    for label in root.iterfind("meta//labels/label"):
        classes.setdefault(class_name(label.findtext("name"), "unnamed"), _colour(label.findtext("color")))
    if not classes:
        raise DatasetError(f"{source}: no labels", expected="<labels> in its <meta>", fix="export again")
    pictures = []
    for element in root.iterfind("image"):
        path = images.look_up(element.get("name", ""), notes, hint=element.get("subset", ""))
        if path is None:
            continue
        name = path.relative_to(images.root).as_posix()
        regions = list(_regions(element, list(classes), notes, name))
        if not regions:
            notes.add("no-label", name)
        try:
            drawn_hw = int(element.get("height", "")), int(element.get("width", ""))
        except ValueError:
            drawn_hw = None
        subset = element.get("subset")
        pictures.append(
            Picture(
                image=path,
                name=name,
                split=None if subset is None else split_of(PurePosixPath(subset)),
                paint=partial(_paint, regions, drawn_hw, notes, name),
            )
        )
    return Source(classes=tuple(classes), colours=tuple(classes.values()), pictures=pictures)


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path, parser=ElementTree.XMLParser(target=_NoDoctype())).getroot()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}", expected="an XML file") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise DatasetError(f"{path}: not XML as CVAT writes it: {error}", fix="export again") from None


def _regions(image: ElementTree.Element, classes: Sequence[str], notes: Notes, name: str) -> Iterator[Region]:
    for element in image:
        if element.tag == "tag":
            continue
        label = class_name(element.get("label"), "unnamed")
        if label not in classes:
            notes.add("unknown-class", name)
            continue
        try:
            order = int(element.get("z_order", "0"))
            yield Region(index=classes.index(label), shape=_shape(element), order=order)
        except ShapeError as error:
            notes.add(error.kind, name)
        except (ValueError, OverflowError):
            notes.add("bad-shape", name)


def _shape(element: ElementTree.Element) -> Shape:
    def number(name: str) -> float:
        return float(element.get(name, "0" if name == "rotation" else ""))

    if element.tag == "polygon":
        return Polygons(rings=[points_of([pair.split(",") for pair in element.get("points", "").split(";")])])
    if element.tag == "box":
        corners = number("xtl"), number("ytl"), number("xbr"), number("ybr")
        return Polygons(rings=[box(*corners, degrees=number("rotation"))])
    if element.tag == "ellipse":
        sizes = number("cx"), number("cy"), number("rx"), number("ry")
        return Polygons(rings=[ellipse(*sizes, degrees=number("rotation"))])
    if element.tag == "mask":
        return Runs(
            counts=[int(count) for count in element.get("rle", "").split(",")],
            size_hw=(int(number("height")), int(number("width"))),
            top=int(number("top")),
            left=int(number("left")),
        )
    raise ShapeError("no-surface")


def _colour(text: str | None) -> Rgb | None:
    try:
        levels = bytes.fromhex((text or "").removeprefix("#"))
    except ValueError:
        return None
    return (levels[0], levels[1], levels[2]) if len(levels) == 3 else None


def _paint(
    regions: Sequence[Region], drawn_hw: tuple[Any, Any] | None, notes: Notes, name: str, size_hw: tuple[int, int]
) -> Mask:
    if drawn_hw not in (None, size_hw):
        raise OtherSizeError
    return paint(regions, size_hw, notes, name, smaller_on_top=False)
