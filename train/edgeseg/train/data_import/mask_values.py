"""What the values of masks mean: numbers, ranges of numbers and colours, named by the user or found in the files.

A value is a code: 0xRRGGBB for a colour and for the grey of 8 bits, which is the colour of three equal levels, and
`WIDE` plus the number for a grey above 255.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.frame import Mask
from edgeseg.runtime.image_files import LabelPixels, Rgb, read_label_pixels
from edgeseg.runtime.threads import mapped
from edgeseg.train.data_import.notes import Notes
from edgeseg.train.data_import.shapes import UNLABELLED, VOID
from edgeseg.train.data_import.source import class_name

WIDE = 1 << 24
NOTHING = 0
"""Code of black: what is not an object, unless a class is said to be black."""
VOID_NAME = "void"
_GREY = 0x010101
_SOFT = 32
"""By how much JPEG may have moved a level."""
_MOST_VALUES = 64
"""Different values that flat masks have at most; those with more were drawn with soft edges, or number objects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedValues:
    """A class, or `VOID_NAME`, and the numbers or the colour that mean it."""

    name: str
    numbers: tuple[int, int] | None = None
    """First and last."""
    colour: Rgb | None = None

    def codes(self, table: Sequence[Rgb] | None) -> list[int]:
        """Return its codes in a file; a number means an index where the file has a colour table."""
        if self.colour is not None:
            return [_code_of(self.colour)]
        first, last = self.numbers or (0, -1)
        if table is not None:
            return [_code_of(colour) for colour in table[first : last + 1]]
        return [_grey_code(number) for number in range(first, last + 1)]


def parse_named_values(text: str) -> NamedValues:
    """Read `weed=2`, `nucleus=1-65535`, `weed=#ff0000` or `weed=255,0,0`. Raises `ValueError` for anything else."""
    name, _, value = (part.strip() for part in text.rpartition("="))
    if not (name := class_name(name, "")):
        raise ValueError(f"{text!r} is not NAME=VALUE")
    if match := re.fullmatch(r"#([0-9a-fA-F]{6})", value):
        red, green, blue = bytes.fromhex(match[1])
        return NamedValues(name=name, colour=(red, green, blue))
    if match := re.fullmatch(r"(\d+),\s*(\d+),\s*(\d+)", value):
        levels = tuple(map(int, match.groups()))
        if max(levels) < 256:
            return NamedValues(name=name, colour=(levels[0], levels[1], levels[2]))
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", value):
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= last < 1 << 16:
            return NamedValues(name=name, numbers=(first, last))
    raise ValueError(f"{value!r} is no number up to 65535, range such as 1-255, or colour such as #00ff00")


class Meaning:
    """Turns mask files into indices of `classes`."""

    def __init__(self, values: Sequence[NamedValues], notes: Notes) -> None:
        """`values` are those of all classes; several may have one name."""
        self.classes = tuple(dict.fromkeys(one.name for one in values if one.name != VOID_NAME))
        self.covers_all = any(NOTHING in one.codes(None) for one in values)
        """Whether black is one of the classes, so that nothing is left unlabelled."""
        self._values, self._notes = values, notes
        self._index_of = self._indices(None)

    @property
    def colours(self) -> tuple[Rgb | None, ...]:
        """Colour of each class, where it was told one."""
        told = {one.name: one.colour for one in self._values if one.colour is not None}
        return tuple(told.get(name) for name in self.classes)

    def read(self, path: Path) -> Mask:
        """Read a mask file as (H, W) indices, `VOID` and `UNLABELLED`. Raises `DatasetError` if it cannot be read."""
        label = read_label_pixels(path)
        given = _codes(label)
        codes = np.unique(given)
        places = np.searchsorted(codes, given)  # few codes: much quicker than what `unique` itself gives
        index_of = self._index_of if label.colour_table is None else self._indices(label.colour_table)
        is_soft = _is_lossy(path) or len(codes) > _MOST_VALUES
        if is_soft and not set(codes.tolist()) <= index_of.keys() | {NOTHING}:
            self._notes.add("soft-label", path.name)
            codes = _nearest(codes, np.array([NOTHING, *index_of], np.int32))
        meant = np.array([index_of.get(code, UNLABELLED) for code in codes.tolist()], np.uint8)
        return meant[places]

    def _indices(self, table: Sequence[Rgb] | None) -> dict[int, int]:
        """Return what every code means in a file with that colour table; the value that was named first counts."""
        return {
            code: VOID if one.name == VOID_NAME else self.classes.index(one.name)
            for one in reversed(self._values)
            for code in one.codes(table)
        }


def find_values(paths: Iterable[Path], notes: Notes) -> list[NamedValues]:
    """Return the values of masks as classes that are named after them, one alone as `object`; black is left out.

    Of a file with a colour table they are its indices, of a JPEG those whose levels are nearly 0 or 255.

    Grey 255 beside several small numbers is void. Raises `DatasetError` if there are too many, or none but black.
    """
    pixels: Counter[int] = Counter()
    for found in mapped(_count, paths):
        pixels.update(found)
    if len(pixels) > _MOST_VALUES:
        total = sum(pixels.values())
        common = ", ".join(f"{_text(code)} {100 * count / total:.1f} %" for code, count in pixels.most_common(4))
        raise DatasetError(
            f"the masks have {len(pixels)} different values, most of all {common}",
            expected="a flat value for each class",
            fix="name the classes by their values: --class crop=#00ff00, --class crop=1, "
            "or --class nucleus=1-65535 where each object has a number of its own",
        )
    codes = sorted(pixels.keys() - {NOTHING})
    if not codes:
        raise DatasetError("the masks are black all over", expected="objects in another value", fix="choose --masks")
    numbers = [code // _GREY for code in codes if code < WIDE and code % _GREY == 0]
    if len(codes) == 1:
        return [_named("object", codes[0])]
    is_void = len(numbers) == len(codes) > 2 and numbers[-1] == 255 and numbers[-2] < 128
    for code in codes[: len(codes) - is_void]:
        notes.add("named-by-value", _text(code))
    named = [_named(f"class {_text(code)}", code) for code in codes]
    return [*named[:-1], _named(VOID_NAME, codes[-1])] if is_void else named


def _named(name: str, code: int) -> NamedValues:
    if code < WIDE and code % _GREY:
        return NamedValues(name=name, colour=(code >> 16, code >> 8 & 255, code & 255))
    number = code - WIDE if code >= WIDE else code // _GREY
    return NamedValues(name=name, numbers=(number, number))


def _text(code: int) -> str:
    if code >= WIDE:
        return str(code - WIDE)
    return f"#{code:06x}" if code % _GREY else str(code // _GREY)


def _count(path: Path) -> Counter[int]:
    try:
        label = read_label_pixels(path)
    except DatasetError:
        return Counter()  # it is named when its image is written
    codes, counts = np.unique(_codes(label), return_counts=True)
    found: Counter[int] = Counter()
    indices = {_code_of(colour): index for index, colour in reversed(list(enumerate(label.colour_table or ())))}
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        if label.colour_table is not None:
            found[_grey_code(indices[code])] += count
        elif not _is_lossy(path):
            found[code] += count
        elif (pure := _pure(code)) is not None:
            found[pure] += count
    return found


def _is_lossy(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg")


def _pure(code: int) -> int | None:
    """Return the code whose levels are 0 and 255 where those of `code` nearly are."""
    levels = [code >> 16, code >> 8 & 255, code & 255]
    if any(_SOFT < level < 255 - _SOFT for level in levels):
        return None
    red, green, blue = (255 * (level > _SOFT) for level in levels)
    return _code_of((red, green, blue))


def _codes(label: LabelPixels) -> npt.NDArray[np.int32]:
    """Return the code of every pixel, (H, W)."""
    if label.pixels.ndim == 3:
        blue, green, red = (label.pixels[..., channel].astype(np.int32) for channel in range(3))
        return red << 16 | green << 8 | blue
    numbers = label.pixels.astype(np.int32)
    return np.where(numbers < 256, numbers * _GREY, numbers + WIDE).astype(np.int32)


def _nearest(codes: npt.NDArray[np.int32], known: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return for each code the one of `known` that differs least in its most different level; black is as good."""
    shifts = np.array([16, 8, 0])
    levels, others = (some[:, None] >> shifts & 255 for some in (codes, known))
    distances = np.stack([np.abs(levels - other).max(axis=1) for other in others])
    return np.asarray(known[distances.argmin(axis=0)])


def _code_of(colour: Rgb) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _grey_code(number: int) -> int:
    return number * _GREY if number < 256 else number + WIDE
