"""YOLO's segmentation labels: `data.yaml`, and for each image a text file of outlines in shares of its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.frame import Mask
from edgeseg.runtime.image_files import IMAGE_ENDINGS
from edgeseg.train.data_import.notes import Notes
from edgeseg.train.data_import.shapes import Polygons, Region, ShapeError, paint, points_of
from edgeseg.train.data_import.source import ImageIndex, Picture, Source, class_name

_SPLITS = ("train", "val", "test")


def read(source: Path, images: ImageIndex, notes: Notes) -> Source:
    """Read `data.yaml`, or the folder that holds it. Objects lie over larger ones.

    Folders that it names are looked for below its own, wherever it says that they were: such files get moved.
    Raises `DatasetError` if there is no such file, or it names no classes.
    """
    file = source if source.is_file() else _yaml_of(source)
    document = _read_yaml(file)
    names = document.get("names")
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(numbered, dict) or not numbered or not all(isinstance(number, int) for number in numbered):
        raise DatasetError(f"{file}: no names of classes", expected="names: [a, b] or {0: a, 1: b}")
    numbers = sorted(numbered)
    classes = tuple(class_name(numbered[number], f"class {number}") for number in numbers)
    index_of = {number: index for index, number in enumerate(numbers)}
    pictures: dict[Path, Picture] = {}
    for split in _SPLITS:
        given = document.get(split, document.get("valid") if split == "val" else None)
        for path in _images_of(given, document.get("path"), file.parent, images, notes):
            name = path.relative_to(images.root).as_posix()
            if path in pictures:
                notes.add("listed-twice", name)
                continue
            labels = _labels_of(path)
            if not labels.is_file():
                notes.add("no-label", name)
            draw = partial(_paint, labels, index_of, notes, name)
            pictures[path] = Picture(image=path, name=name, split=split, paint=draw)
    if not pictures:
        raise DatasetError(
            f"{file}: no images where it says", expected=f"the folders of {', '.join(_SPLITS)} beside it"
        )
    return Source(classes=classes, pictures=list(pictures.values()))


def _yaml_of(source: Path) -> Path:
    files = [path for ending in ("*.yaml", "*.yml") for path in sorted(source.glob(ending))]
    if len(files) != 1:
        raise DatasetError(f"{len(files)} YAML files in {source}", expected="one data.yaml", fix="give it as SOURCE")
    return files[0]


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ModuleNotFoundError:
        raise DatasetError("YOLO's data.yaml needs PyYAML", fix="pip install 'edgeseg[data]'") from None
    try:
        document = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror or error}", expected="a data.yaml") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: not YAML: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(document, dict):
        raise DatasetError(f"{file}: not a data.yaml", expected="names, train and val")
    return document


def _images_of(given: Any, root: Any, folder: Path, images: ImageIndex, notes: Notes) -> Iterator[Path]:
    """Yield the images of a split: of a folder, of a text file's lines, or of a list of either."""
    for one in given if isinstance(given, list) else [given] if given else []:
        place = _below(folder, root, str(one))
        if place is None:
            notes.add("missing-folder", str(one))
        elif place.is_dir():
            files = sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
            yield from (path for path in files if not path.name.startswith(".") and path.is_relative_to(images.root))
        else:
            for line in place.read_text(encoding="utf-8", errors="replace").splitlines():
                # Lines are often absolute paths of the machine that wrote them.
                parts = [
                    part for part in PurePosixPath(line.strip().replace("\\", "/")).parts if part not in ("..", "/")
                ]
                if parts and (
                    path := images.look_up("/".join(parts[-3:]), Notes()) or images.look_up(parts[-1], notes)
                ):
                    yield path


def _below(folder: Path, root: Any, given: str) -> Path | None:
    """Return the place that `given` can mean below `folder`: as it stands, or less leading parts."""
    parts = [part for part in PurePosixPath(given.replace("\\", "/")).parts if part not in ("..", "/", ".")]
    top = [part for part in PurePosixPath(str(root or "").replace("\\", "/")).parts if part not in ("..", "/", ".")]
    wholes = [*top, *parts]
    for skipped in range(len(wholes)):
        place = folder.joinpath(*wholes[skipped:])
        if place.exists() and (place.is_dir() or place.suffix == ".txt"):
            return place
    return None


def _labels_of(image: Path) -> Path:
    """Return the labels' file: its last folder `images` becomes `labels`."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, 0, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _paint(labels: Path, index_of: dict[int, int], notes: Notes, name: str, size_hw: tuple[int, int]) -> Mask:
    try:
        lines = labels.read_text(encoding="utf-8", errors="replace").splitlines() if labels.is_file() else []
    except OSError as error:
        raise DatasetError(f"{labels}: {error.strerror or error}") from None
    return paint(list(_regions(lines, index_of, notes, name)), size_hw, notes, name, smaller_on_top=True)


def _regions(lines: Sequence[str], index_of: dict[int, int], notes: Notes, name: str) -> Iterator[Region]:
    for words in filter(None, map(str.split, lines)):
        try:
            number = int(float(words[0]))
            if number not in index_of:
                notes.add("unknown-class", name)
            elif len(words) == 5:
                notes.add("no-surface", name)  # a box: YOLO's detection labels
            else:
                yield Region(index=index_of[number], shape=Polygons(rings=[points_of(words[1:])], relative=True))
        except ShapeError as error:
            notes.add(error.kind, name)
        except (ValueError, OverflowError):
            notes.add("bad-shape", name)
