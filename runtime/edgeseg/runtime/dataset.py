"""A folder of labelled images, described by its `dataset.toml`.

    name = "yard"
    ignore_index = 255                       # label value that is scored nowhere
    classes = ["ground", "crate"]
    palette = [[128, 64, 128], [0, 0, 142]]  # RGB, one per class
    licence = "CC BY 4.0"                    # optional

    [splits.train]
    images = "images/train"
    masks = "masks/train"                    # the same stems
    exclude = ["blurred_*"]                  # optional, as is include: patterns on the stem

Masks are index images, or colour images of the palette (black is void unless it is a class's colour).
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeseg.runtime.contract import Colour
from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.files import sha256_file
from edgeseg.runtime.frame import Image, Mask
from edgeseg.runtime.image_files import IMAGE_ENDINGS, LabelPixels, Rgb, read_image, read_label_pixels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BLACK = (0, 0, 0)


def _inside(folder: str) -> str:
    # By its words, not by where links lead: a data set whose images are linked in from another disk is ordinary.
    path = PurePath(folder)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{folder!r} leads out of the dataset's folder")
    return folder


class SplitSpec(BaseModel):
    """One `[splits.NAME]` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Annotated[str, Field(min_length=1), AfterValidator(_inside)]
    masks: Annotated[str, Field(min_length=1), AfterValidator(_inside)]
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _folders_differ(self) -> SplitSpec:
        if PurePath(self.images) == PurePath(self.masks):
            raise ValueError("images and masks are the same folder")
        return self

    def takes(self, stem: str) -> bool:
        """Whether the patterns let `stem` into the split."""
        included = any(fnmatch.fnmatchcase(stem, pattern) for pattern in self.include)
        return included and not any(fnmatch.fnmatchcase(stem, pattern) for pattern in self.exclude)


class DatasetSpec(BaseModel):
    """The content of a `dataset.toml`. Frozen; validated on construction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    licence: str = "not stated"
    ignore_index: int = Field(ge=0, le=255)
    classes: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(min_length=1, max_length=255)
    palette: tuple[Colour, ...]
    splits: dict[str, SplitSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _classes_agree(self) -> DatasetSpec:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: names are not unique")
        if len(self.palette) != len(self.classes):
            raise ValueError(f"palette: {len(self.palette)} colours for {len(self.classes)} classes")
        if len(set(self.palette)) != len(self.palette):
            raise ValueError("palette: colours are not unique")
        if self.ignore_index < len(self.classes):
            raise ValueError(
                f"ignore_index: {self.ignore_index} is also the index of {self.classes[self.ignore_index]!r}"
            )
        return self


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
        return self.spec.splits

    def entries(self, split: str) -> list[Entry]:
        """Return what lies in a split's two folders, mated or not, sorted by stem.

        Hidden files and those without an image's ending are passed over. Raises `DatasetError` if the split is
        unknown or empty.
        """
        spec = self.splits.get(split)
        if spec is None:
            raise DatasetError(
                f"dataset {self.name!r} has no split {split!r}", expected=f"one of {', '.join(self.splits)}"
            )
        images, masks = (_files_by_stem(self.folder / part) for part in (spec.images, spec.masks))
        stems = sorted(stem for stem in images.keys() | masks.keys() if spec.takes(stem))
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
                fix=f"see `edgeseg data check {self.folder} --split {split}`",
            )
        return [Pair(stem=e.stem, image=e.images[0], mask=e.masks[0]) for e in entries]

    def read_image(self, pair: Pair) -> Image:
        """Read a pair's image as (H, W, 3) BGR uint8. Raises `DatasetError` naming the file."""
        return read_image(pair.image)

    def read_mask(self, pair: Pair) -> Mask:
        """Read a pair's label as (H, W) uint8 class indices and ignore index, nothing else.

        Raises `DatasetError` naming the file if it cannot be decoded or has a label or a colour of no class.
        """
        return self.labels(pair.mask, read_label_pixels(pair.mask))

    def labels(self, path: Path, label: LabelPixels) -> Mask:
        """Turn a label file's samples into (H, W) uint8 indices. `path` is for the message of `DatasetError`."""
        if label.pixels.ndim == 3:
            return self._labels_of_colours(path, label)
        legal = np.zeros(1 << 16, np.bool_)
        legal[: len(self.classes)] = legal[self.ignore_index] = True
        outside = label.pixels[~legal[label.pixels]]
        if outside.size:
            raise DatasetError(
                f"{path}: {_most(outside, 'label {}')}",
                expected=f"0 to {len(self.classes) - 1} or ignore index {self.ignore_index}",
                fix="relabel, or add the class to dataset.toml",
            )
        return label.pixels.astype(np.uint8)

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
        meaning = [self.classes, self.palette, self.ignore_index]
        digest = hashlib.sha256(json.dumps(meaning).encode())
        for pair in self.pairs(split):
            for path in (pair.image, pair.mask):
                digest.update(f"\n{path.name}\0{sha256_file(path)}".encode())
        return digest.hexdigest()


def load_dataset(path: Path) -> Dataset:
    """Load the dataset described by the TOML file `path`, or by `dataset.toml` in the folder `path`.

    Raises `DatasetError` that names the field if the description is absent, malformed or contradicts the disk.
    """
    toml = path if path.is_file() else path / "dataset.toml"
    try:
        spec = DatasetSpec.model_validate(tomllib.loads(toml.read_text(encoding="utf-8")))
    except OSError as error:
        raise DatasetError(
            f"{toml}: {error.strerror or error}",
            expected="a dataset.toml",
            fix="describe the folder's classes and splits in a dataset.toml",
        ) from None
    except UnicodeDecodeError:
        raise DatasetError(f"{toml}: not UTF-8", fix="save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise DatasetError(f"{toml}: not TOML: {error}", fix="mend that line") from None
    except ValidationError as error:
        raise DatasetError(f"{toml}: {_first_mistake(error)}", fix="mend that key") from None
    for split, folders in spec.splits.items():
        for key, folder in (("images", folders.images), ("masks", folders.masks)):
            if not (toml.parent / folder).is_dir():
                raise DatasetError(
                    f"{toml}: splits.{split}.{key}: no folder {folder!r}", fix="mend that key or add the folder"
                )
    return Dataset(toml.parent, spec)


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    message = str(first.get("ctx", {}).get("error", first["msg"]))
    return ": ".join(part for part in (".".join(map(str, first["loc"])), message) if part)


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
