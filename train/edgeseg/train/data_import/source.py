"""What every reader gives, and how it finds the images that its labels name."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.frame import Mask
from edgeseg.runtime.image_files import IMAGE_ENDINGS, Rgb
from edgeseg.train.data_import.notes import Kind, Notes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """An image and how to paint its labels."""

    image: Path
    name: str
    """Path within the source, with slashes: what lists name it by, and the order of time."""
    paint: Callable[[tuple[int, int]], Mask]
    """(height, width) → (H, W) indices of the source's classes, `UNLABELLED` and `VOID`.

    Raises `OtherSizeError` if they were drawn on another size, `DatasetError` if they cannot be read.
    """
    split: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """Classes in the source's own order, and its pictures."""

    classes: tuple[str, ...]
    pictures: list[Picture]
    colours: tuple[Rgb | None, ...] = ()
    """What the source gives its classes, RGB; empty if nothing."""
    covers_all: bool = False
    """Whether every pixel is of a class of the source or void, so that there is nothing to call background."""


class LookupFailedError(Exception):
    """An image that cannot be found, and which kind of note says why."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageIndex:
    """The image files below a folder, found by what labels call them: a name can only lead to one of these."""

    root: Path
    _by_name: dict[str, list[PurePosixPath]] = field(default_factory=dict)
    _by_stem: dict[str, list[PurePosixPath]] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, *, leave_out: Callable[[PurePosixPath], bool] = lambda path: False) -> ImageIndex:
        """Index the images below `root`, hidden ones and those of `leave_out` aside."""
        index = cls(root=root)
        for path in image_paths(root):
            if not leave_out(path):
                index._by_name.setdefault(name_key(path.name), []).append(path)
                index._by_stem.setdefault(name_key(path.stem), []).append(path)
        return index

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    def find(self, name: str, *, hint: str = "", by_stem: bool = False) -> Path:
        """Return the file of `name`, which may be a path and differ in case. `hint` is a folder that breaks a tie.

        Raises `LookupFailedError` if there is none, if there are several, or if the name leads out of its folder.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
            raise LookupFailedError("unsafe-name")
        parts = tuple(map(name_key, path.parts))
        known = self._by_stem if by_stem else self._by_name
        found = known.get(parts[-1], []) if parts else []
        fitting = [one for one in found if tuple(map(name_key, one.parts))[-len(parts) : -1] == parts[:-1]]
        if len(fitting) > 1:
            nearer = [one for one in fitting if name_key(hint) in map(name_key, one.parts[:-1])] if hint else []
            exact = [one for one in fitting if one == path]
            fitting = nearer if len(nearer) == 1 else exact or fitting
        if len(fitting) > 1:
            raise LookupFailedError("ambiguous-image")
        if not fitting:
            raise LookupFailedError("missing-image")
        return self.root / fitting[0]

    def look_up(self, name: str, notes: Notes, *, hint: str = "", by_stem: bool = False) -> Path | None:
        """Return the file of `name`, or note why there is none."""
        try:
            return self.find(name, hint=hint, by_stem=by_stem)
        except LookupFailedError as failure:
            notes.add(failure.kind, name)
            return None


def image_paths(root: Path) -> Iterator[PurePosixPath]:
    """Yield the image files below `root` in order, hidden ones aside, as paths from there."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = PurePosixPath((Path(folder) / name).relative_to(root).as_posix())
            if path.suffix.lower() in IMAGE_ENDINGS and not name.startswith("."):
                yield path


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises `DatasetError` if it is not one."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}", expected="a JSON file") from None
    except (ValueError, RecursionError) as error:
        found = str(error).splitlines()[0][:120] if isinstance(error, ValueError) else "nested too deeply"
        raise DatasetError(f"{path}: not JSON: {found}", fix="export the labels again") from None


def split_of(path: PurePosixPath) -> str | None:
    """Return the split that a file's or folder's name tells of: train, val, test or None."""
    for part in reversed(path.parts):
        if match := re.search(r"(?<![a-z])(train|val(?:id(?:ation)?)?|test)(?![a-z])", part.lower()):
            return "val" if match[1].startswith("val") else match[1]
    return None


def class_name(name: object, fallback: str) -> str:
    """Return a class name as a dataset can hold it: printable, of one line, at most 64 letters."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(name))
    return " ".join(text.split())[:64].strip() or fallback


def name_key(name: str) -> str:
    """Return what is the same for names that differ only in case or in how their letters are composed."""
    return unicodedata.normalize("NFC", name).casefold()
