"""A folder of labelled images, described by its `dataset.toml` (see `edgeseg.runtime.dataset_spec`).

Masks are index images, or colour images of the palette (black is void unless it is a class's colour).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.runtime.dataset_spec import DESCRIPTION, TRAIN, VAL, DatasetSpec, SplitSpec, read_spec
from edgeseg.runtime.errors import DatasetError, UnreadablePairError
from edgeseg.runtime.files import sha256_file
from edgeseg.runtime.frame import WHITE_LEVEL, Image, Mask
from edgeseg.runtime.image_files import IMAGE_ENDINGS, LabelPixels, Rgb, read_image, read_label_pixels
from edgeseg.runtime.threads import mapped

_BLACK = (0, 0, 0)
_BLOCKS = 4
"""Blocks that a held-out share is taken in: enough for variety, few enough that little of it has a neighbour left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """An image and its label."""

    stem: str
    image: Path
    mask: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """All files of one stem in a split; a sound one has one image and one mask."""

    stem: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]


class Dataset:
    """A dataset's description and its files. Holds no pixels; safe to share between threads."""

    def __init__(self, folder: Path, spec: DatasetSpec) -> None:
        self.folder, self.spec = folder, spec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def licence(self) -> str:
        return self.spec.licence

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.classes

    @property
    def palette(self) -> tuple[Rgb, ...]:
        """RGB, one per class."""
        return self.spec.palette

    @property
    def ignore_index(self) -> int:
        return self.spec.ignore_index

    @property
    def splits(self) -> Mapping[str, SplitSpec]:
        """Splits by name, one that is held out by `val_share` among them."""
        splits = dict(self.spec.splits)
        return splits if self.spec.val_share is None else splits | {VAL: splits[TRAIN]}

    def entries(self, split: str) -> list[Entry]:
        """Return what lies in a split's two folders, mated or not, sorted by stem.

        Hidden files and those without an image's ending are passed over. Raises `DatasetError` if the split is
        unknown or empty.
        """
        spec = self.splits.get(split)
        if spec is None:
            hold_out = (
                f"add `val_share = 0.2` above the splits in {DESCRIPTION}: that share of {TRAIN!r} is then held out"
            )
            raise DatasetError(
                f"dataset {self.name!r} has no split {split!r}",
                expected=f"one of {', '.join(self.splits)}",
                fix=hold_out if split == VAL and TRAIN in self.splits else "",
            )
        images, masks = (_files_by_stem(self.folder / part) for part in (spec.images, spec.masks))
        stems = sorted(stem for stem in images.keys() | masks.keys() if spec.takes(stem))
        if self.spec.val_share is not None and split in (TRAIN, VAL):
            val = held_out(stems, self.spec.val_share)
            stems = [stem for stem in stems if (stem in val) == (split == VAL)]
        if not stems:
            raise DatasetError(
                f"split {split!r} of dataset {self.name!r} is empty",
                expected=f"images in {self.folder / spec.images}",
                fix="add images or mend the include and exclude patterns",
            )
        return [Entry(stem=s, images=images.get(s, ()), masks=masks.get(s, ())) for s in stems]

    def pairs(self, split: str) -> list[Pair]:
        """Return a split's pairs, sorted by stem.

        Raises `DatasetError` if the split is unknown or empty, or has a stem without exactly one image and one mask.
        """
        entries = self.entries(split)
        unpaired = [e for e in entries if len(e.images) != 1 or len(e.masks) != 1]
        if unpaired:
            first = unpaired[0]
            raise DatasetError(
                f"{len(unpaired)} of {len(entries)} stems in split {split!r} are no pairs, first {first.stem!r} "
                f"({len(first.images)} images, {len(first.masks)} masks)",
                expected="one image and one mask per stem",
                fix=f"see `edgeseg data check {self.folder} --split {split}`"
                + f", or pair other names by `edgeseg data import {self.folder} --from masks`" * (unpaired == entries),
            )
        return [Pair(stem=e.stem, image=e.images[0], mask=e.masks[0]) for e in entries]

    def read_image(self, pair: Pair) -> Image:
        """Read a pair's image as (H, W, 3) BGR uint8. Raises `DatasetError` naming the file."""
        return read_image(pair.image, white_level=self.spec.white_level)

    def read_mask(self, pair: Pair) -> Mask:
        """Read a pair's label as (H, W) uint8 class indices and ignore index, nothing else.

        Raises `DatasetError` naming the file if it cannot be decoded or has a label or a colour of no class.
        """
        return self.labels(pair.mask, read_label_pixels(pair.mask))

    def read_pair(self, pair: Pair) -> tuple[Image, Mask]:
        """Read a pair's image and label, of one size, as `read_image` and `read_mask` do.

        Raises `UnreadablePairError` naming the file if either cannot be used or they differ in size.
        """
        try:
            image, mask = self.read_image(pair), self.read_mask(pair)
        except DatasetError as error:
            raise UnreadablePairError(error.found, expected=error.expected, fix=error.fix) from None
        if image.shape[:2] != mask.shape:
            raise UnreadablePairError(
                f"{pair.mask}: mask {mask.shape[1]}×{mask.shape[0]}",
                expected=f"{image.shape[1]}×{image.shape[0]} as its image",
                fix=f"see `edgeseg data check {self.folder}`",
            )
        return image, mask

    def readable(self, pairs: Iterable[Pair]) -> list[Pair]:
        """Return those of `pairs` that `read_pair` can read."""

        def is_readable(pair: Pair) -> bool:
            try:
                self.read_pair(pair)
            except UnreadablePairError:
                return False
            return True

        pairs = list(pairs)
        return [pair for pair, sound in zip(pairs, mapped(is_readable, pairs), strict=True) if sound]

    def labels(self, path: Path, label: LabelPixels) -> Mask:
        """Turn a label file's samples into (H, W) uint8 indices. `path` is for the message of `DatasetError`.

        A grey sample is an index; where it is none, a level that is some class's colour means that class.
        """
        if label.pixels.ndim == 3:
            return self._labels_of_colours(path, label)
        meaning = np.full(1 << 16, -1, np.int16)
        for index, (red, green, blue) in enumerate(self.palette):
            if red == green == blue:  # such as 0 and 255 of a binary mask; where it is an index too, the index counts
                meaning[red] = index
        meaning[: len(self.classes)] = np.arange(len(self.classes))
        meaning[self.ignore_index] = self.ignore_index
        indices = meaning[label.pixels]
        outside = label.pixels[indices < 0]
        if outside.size:
            raise DatasetError(
                f"{path}: {_most(outside, 'label {}')}",
                expected=f"0 to {len(self.classes) - 1} or ignore index {self.ignore_index}",
                fix="relabel, or add the class to dataset.toml",
            )
        mask: Mask = indices.astype(np.uint8)
        return mask

    def _labels_of_colours(self, path: Path, label: LabelPixels) -> Mask:
        index_of = {_BLACK: self.ignore_index} | {colour: index for index, colour in enumerate(self.palette)}
        if label.colour_table is not None:
            index_of |= self._void_colour(path, label.colour_table)
        codes = np.array([r << 16 | g << 8 | b for r, g, b in index_of], np.int32)
        order = np.argsort(codes)
        codes, indices = codes[order], np.array(list(index_of.values()), np.uint8)[order]
        blue, green, red = (label.pixels[..., channel].astype(np.int32) for channel in range(3))
        found = red << 16 | green << 8 | blue
        place = np.minimum(np.searchsorted(codes, found), len(codes) - 1)
        foreign = found[codes[place] != found]
        if foreign.size:
            raise DatasetError(
                f"{path}: {_most(foreign, 'colour #{:06x}')}",
                expected="colours of the palette, or black for void",
                fix="recolour, or add the class to dataset.toml",
            )
        return indices[place]

    def _void_colour(self, path: Path, table: tuple[Rgb, ...]) -> dict[Rgb, int]:
        """Return what a palette PNG's table adds to the palette: the colour it gives to the ignore index, if any.

        OpenCV gives such a file's colours, not its indices. Where the table starts with the palette both mean the
        same; where it has no other colours they are the label; else what is meant cannot be known.
        """
        if table[: len(self.palette)] == self.palette[: len(table)]:
            void = table[self.ignore_index : self.ignore_index + 1]
            if not set(void) & set(self.palette):
                return dict.fromkeys(void, self.ignore_index)
        if set(table) <= {*self.palette, _BLACK}:
            return {}
        raise DatasetError(
            f"{path}: palette PNG with a colour table of its own",
            expected="a table that starts with the palette of dataset.toml",
            fix="save the indices as 8-bit grey PNG",
        )

    def digest(self, split: str) -> str:
        """Return a SHA-256 over classes, palette, ignore index and the names and contents of a split's files.

        It does not depend on where the dataset lies or what its split is called.
        """
        meaning: list[Any] = [self.classes, self.palette, self.ignore_index]
        if self.spec.white_level != WHITE_LEVEL:
            meaning.append(self.spec.white_level)
        digest = hashlib.sha256(json.dumps(meaning).encode())
        for pair in self.pairs(split):
            for path in (pair.image, pair.mask):
                digest.update(f"\n{path.name}\0{sha256_file(path)}".encode())
        return digest.hexdigest()


def load_dataset(path: Path) -> Dataset:
    """Load the dataset described by the TOML file `path`, or by `dataset.toml` in the folder `path`.

    Raises `DatasetError` that names the field if the description is absent, malformed or contradicts the disk.
    """
    toml = path if path.is_file() else path / DESCRIPTION
    spec = read_spec(toml)
    for split, folders in spec.splits.items():
        for key, folder in (("images", folders.images), ("masks", folders.masks)):
            if not (toml.parent / folder).is_dir():
                raise DatasetError(
                    f"{toml}: splits.{split}.{key}: no folder {folder!r}", fix="mend that key or add the folder"
                )
    return Dataset(toml.parent, spec)


def held_out(names: Sequence[str], share: float) -> set[str]:
    """Return about `share` of `names`, at least one of two: blocks at the ends of equal stretches of their order.

    The order is that of people: `x2` before `x10`. Frames of a drive or photos of a walk resemble their neighbours, so
    a share scattered among the rest would be scored on what was learned; in blocks only their ends have neighbours.
    """
    ordered = sorted(names, key=_natural)
    count = min(len(ordered) - 1, max(1, round(share * len(ordered))))
    blocks = min(_BLOCKS, count)
    ends = [round(len(ordered) * (i + 1) / blocks) for i in range(blocks)]
    sizes = [round(count * (i + 1) / blocks) - round(count * i / blocks) for i in range(blocks)]
    return {name for end, size in zip(ends, sizes, strict=True) for name in ordered[end - size : end]}


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _most(values: npt.NDArray[Any], pattern: str) -> str:
    """Describe foreign `values` by the commonest of them."""
    kinds, counts = np.unique(values, return_counts=True)
    top = int(counts.argmax())
    others = f" and {len(kinds) - 1} others" if len(kinds) > 1 else ""
    return f"{pattern.format(int(kinds[top]))} ({int(counts[top])} pixels){others}"


def _files_by_stem(folder: Path) -> dict[str, tuple[Path, ...]]:
    files: dict[str, tuple[Path, ...]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".") and path.is_file():
            files[path.stem] = (*files.get(path.stem, ()), path)
    return files
