"""From a source to a dataset's folder: images as they were, labels as index images, splits without leaks."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.runtime.dataset import held_out
from edgeseg.runtime.dataset_duplicates import Fingerprint, alike, fingerprint, groups
from edgeseg.runtime.dataset_spec import DESCRIPTION, TRAIN, VAL, DatasetSpec, SplitSpec, write_spec
from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.files import whole_folder
from edgeseg.runtime.frame import WHITE_LEVEL, Mask
from edgeseg.runtime.image_files import read_samples, read_upright, to_8_bits, white_level_for
from edgeseg.runtime.threads import mapped
from edgeseg.train.data_import.notes import Notes
from edgeseg.train.data_import.palette import palette
from edgeseg.train.data_import.shapes import UNLABELLED, VOID, OtherSizeError
from edgeseg.train.data_import.source import Picture, Source

Unlabelled = Literal["background", "void"]
ValBy = Literal["time", "hash"]

BACKGROUND = "background"
_BACKGROUNDS = (BACKGROUND, "_background_", "__background__")
_BLACK = (0, 0, 0)
_MOST_CLASSES = 253


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What becomes of a source."""

    name: str
    unlabelled: Unlabelled = "background"
    """What a pixel is that nothing covers: of the class `background`, or void."""
    val_share: float = 0.2
    """Share to hold out where the source has no split `val`; 0 for none."""
    val_by: ValBy = "time"
    """Hold out blocks of the order of names, or names by their hash, which does not change as images are added."""
    lists: Mapping[str, Sequence[str]] | None = None
    """Names or stems of each split's images; None to take the source's own splits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was written."""

    splits: dict[str, int]
    classes: dict[str, float]
    """Percent of the labelled pixels, by class."""
    void: float
    """Percent of all pixels."""

    def document(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {"splits": self.splits, "classes": self.classes, "void": self.void}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Written:
    picture: Picture
    stem: str
    ending: str
    image: Fingerprint
    peak: int
    """Largest sample of an image of more than 8 bits, else 0."""
    pixels: npt.NDArray[np.int64]


def assemble(
    source: Source, out: Path, plan: Plan, notes: Notes, *, advance: Callable[[], object] = lambda: None
) -> Outcome:
    """Write `source` as the dataset `out`, whole or not at all; `advance` is called after each picture.

    Raises `DatasetError` if no picture can be used, a list's split is empty, or there are too many classes.
    """
    pictures = _listed(source.pictures, plan.lists, notes) if plan.lists else _once(source.pictures, notes)
    classes, table = _classes(source, plan.unlabelled)
    black = None if _BLACK in source.colours else _BLACK
    colours = palette((black, *source.colours) if len(classes) > len(source.classes) else source.colours, len(classes))
    with whole_folder(out) as folder:
        flat = folder / "images", folder / "masks"
        for part in flat:
            part.mkdir()
        work = list(zip(pictures, _stems(pictures), strict=True))
        written = []
        for one in mapped(lambda item: _write(item[0], item[1], table, folder, notes), work):
            advance()
            if one is not None:
                written.append(one)
        if not written:
            raise DatasetError(
                f"not one image could be used; {notes.commonest()}",
                expected="images beside their labels",
                fix="say where they are with --images",
            )
        splits = _splits(written, plan, notes)
        for one, split in zip(written, splits, strict=True):
            for part, ending in zip(flat, (one.ending, ".png"), strict=True):
                (part / split).mkdir(exist_ok=True)
                (part / f"{one.stem}{ending}").rename(part / split / f"{one.stem}{ending}")
        counts = Counter(splits)
        ordered = sorted(counts, key=lambda split: ((TRAIN, VAL, "test", split).index(split), split))
        peak = max(one.peak for one in written)
        white_level = white_level_for(peak) if peak else WHITE_LEVEL
        if white_level != WHITE_LEVEL:
            notes.add("white-level", f"white_level = {white_level}")
        spec = DatasetSpec(
            name=plan.name,
            ignore_index=VOID,
            classes=classes,
            palette=colours,
            white_level=white_level,
            splits={split: SplitSpec(images=f"images/{split}", masks=f"masks/{split}") for split in ordered},
        )
        write_spec(folder / DESCRIPTION, spec)
    pixels = np.sum([one.pixels for one in written], axis=0)
    labelled = max(1, int(pixels[: len(classes)].sum()))
    return Outcome(
        splits={split: counts[split] for split in ordered},
        classes={name: round(100 * int(pixels[i]) / labelled, 3) for i, name in enumerate(classes)},
        void=round(100 * int(pixels[VOID]) / int(pixels.sum()), 3),
    )


def _classes(source: Source, unlabelled: Unlabelled) -> tuple[tuple[str, ...], npt.NDArray[np.uint8]]:
    """Return the dataset's classes, and what each value of a painted mask becomes."""
    table = np.full(256, VOID, np.uint8)
    if len(source.classes) > _MOST_CLASSES:
        raise DatasetError(f"{len(source.classes)} classes", expected=f"at most {_MOST_CLASSES}")
    place = next((i for i, name in enumerate(source.classes) if name.lower() in _BACKGROUNDS), None)
    first = int(unlabelled == "background" and place is None and not source.covers_all)
    table[: len(source.classes)] = np.arange(first, len(source.classes) + first)
    if unlabelled == "background" and (first or place is not None):
        table[UNLABELLED] = place or 0
    return (BACKGROUND,) * first + source.classes, table


def _once(pictures: Sequence[Picture], notes: Notes) -> list[Picture]:
    """Return the pictures, each image once: the first that names it counts."""
    kept: dict[Path, Picture] = {}
    for picture in pictures:
        if kept.setdefault(picture.image, picture) is not picture:
            notes.add("listed-twice", picture.name)
    return list(kept.values())


def _listed(pictures: Sequence[Picture], lists: Mapping[str, Sequence[str]], notes: Notes) -> list[Picture]:
    """Return the pictures that `lists` name, by path, name or stem, each in its list's split."""
    known = _once(pictures, notes)
    by_name: dict[str, list[Picture]] = {}
    for picture in known:
        path = Path(picture.name)
        for name in dict.fromkeys((picture.name, path.with_suffix("").as_posix(), path.name, path.stem)):
            by_name.setdefault(name, []).append(picture)
    taken: dict[str, Picture] = {}
    for split, names in lists.items():
        for name in names:
            found = by_name.get(name, [])
            if len(found) != 1:
                notes.add("ambiguous-image" if found else "missing-image", name)
            elif found[0].name in taken:
                notes.add("listed-twice", name)
            else:
                taken[found[0].name] = replace(found[0], split=split)
    for picture in known:
        if picture.name not in taken:
            notes.add("not-listed", picture.name)
    if empty := [split for split in lists if split not in {picture.split for picture in taken.values()}]:
        raise DatasetError(f"the list of split {empty[0]!r} names no image of the source", expected="one name a line")
    return list(taken.values())


def _stems(pictures: Sequence[Picture]) -> list[str]:
    """Return a name for each picture that no other has, not even on a disk that takes no account of case."""
    paths = [Path(picture.name) for picture in pictures]
    stems = [path.stem for path in paths]
    for longer in (["_".join(path.with_suffix("").parts) for path in paths], ["_".join(path.parts) for path in paths]):
        often = Counter(stem.casefold() for stem in stems)
        stems = [other if often[stem.casefold()] > 1 else stem for stem, other in zip(stems, longer, strict=True)]
    seen: Counter[str] = Counter()
    unique = []
    for stem in stems:
        seen[stem.casefold()] += 1
        unique.append(stem if seen[stem.casefold()] == 1 else f"{stem}__{seen[stem.casefold()]}")
    return unique


def _write(picture: Picture, stem: str, table: npt.NDArray[np.uint8], folder: Path, notes: Notes) -> _Written | None:
    """Write a picture's image and mask, or note why it cannot be used."""
    try:
        upright, turned = read_upright(picture.image)
    except DatasetError:
        notes.add("undecodable-image", picture.name)
        return None
    try:
        mask, samples = _paint(picture, upright, turned)
    except OtherSizeError:
        notes.add("other-size", picture.name)
        return None
    except DatasetError:
        notes.add("unreadable-label", picture.name)
        return None
    ending = picture.image.suffix.lower()
    if turned and samples is upright:
        notes.add("turned", picture.name)
        ending = ".png"
        (folder / "images" / f"{stem}.png").write_bytes(cv2.imencode(".png", samples)[1].tobytes())
    else:
        shutil.copyfile(picture.image, folder / "images" / f"{stem}{ending}")
    indices = table[mask]
    (folder / "masks" / f"{stem}.png").write_bytes(cv2.imencode(".png", indices)[1].tobytes())
    return _Written(
        picture=picture,
        stem=stem,
        ending=ending,
        image=fingerprint(to_8_bits(samples, int(samples.max()) or 1)),
        peak=int(samples.max()) if samples.dtype == np.uint16 else 0,
        pixels=np.bincount(indices.ravel(), minlength=256),
    )


def _paint(picture: Picture, upright: npt.NDArray[Any], turned: bool) -> tuple[Mask, npt.NDArray[Any]]:
    """Return the mask and the image that it fits: upright, as tools show it, or else as it is stored."""
    try:
        return picture.paint((upright.shape[0], upright.shape[1])), upright
    except OtherSizeError:
        if not turned:
            raise
    stored = read_samples(picture.image)
    return picture.paint((stored.shape[0], stored.shape[1])), stored


def _splits(written: Sequence[_Written], plan: Plan, notes: Notes) -> list[str]:
    """Return each picture's split; where none is `val`, a share of train is held out."""
    splits = [one.picture.split or TRAIN for one in written]
    if VAL in splits or not plan.val_share or plan.lists:
        return splits
    places = [place for place, split in enumerate(splits) if split == TRAIN]
    names = [written[place].picture.name for place in places]
    near = [(one, other) for one, other, _ in alike([written[place].image for place in places])]
    units = [{names[place] for place in group} for group in groups(len(places), near)]
    val = _by_hash(units, plan.val_share) if plan.val_by == "hash" else held_out(names, plan.val_share)
    whole = _whole_units(units, val)
    for name in whole ^ val:
        notes.add("alike", name)
    for place, name in zip(places, names, strict=True):
        splits[place] = VAL if name in whole else TRAIN
    return splits


def _whole_units(units: Sequence[set[str]], val: set[str]) -> set[str]:
    """Return the units of which the larger part is in `val`; if there is none, the one with most in it, the largest of
    all aside. Where everything is one unit there is nothing else to score on, and `val` stays as it is.
    """
    if len(units) < 2:
        return val
    taken = [unit for unit in units if 2 * len(unit & val) > len(unit)]
    rest = sorted(units, key=len)[:-1]
    return set().union(*(taken or [max(rest, key=lambda unit: (len(unit & val), len(unit)))]))


def _by_hash(units: Sequence[set[str]], share: float) -> set[str]:
    """Return about `share` of all names, whole units at a time, in the order of their first name's hash."""
    total = sum(map(len, units))
    val: set[str] = set()
    for unit in sorted(units, key=lambda unit: hashlib.sha256(min(unit).encode()).digest()):
        if len(val) + len(unit) <= max(1, round(share * total)):
            val |= unit
    return val
