"""Name everything in a dataset that would stop or quietly spoil a training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.runtime.dataset import Dataset, Entry
from edgeseg.runtime.dataset_duplicates import Fingerprint, fingerprint
from edgeseg.runtime.dataset_findings import Finding, Problem, Rule
from edgeseg.runtime.dataset_leaks import Seen, leaks
from edgeseg.runtime.dataset_spec import DESCRIPTION, TRAIN, VAL
from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.image_files import read_label_pixels, read_samples, to_8_bits, white_level_for
from edgeseg.runtime.threads import mapped


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """What was checked and what was found."""

    stems: dict[str, int]
    """Number of stems per split, sound or not."""
    files: int
    """Files that were decoded, each once."""
    findings: list[Finding] = field(default_factory=list)
    """Errors first, each kind in the order of the files' names."""

    @property
    def errors(self) -> int:
        return sum(not finding.is_warning for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """Return the report for JSON: `splits` (stems and findings of each), `files`, `findings`."""
        counts = {s: {"stems": n, "findings": sum(s in f.splits for f in self.findings)} for s, n in self.stems.items()}
        return {"splits": counts, "files": self.files, "findings": [finding.document() for finding in self.findings]}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What one look at a stem's files gave."""

    problems: list[Problem]
    image: Fingerprint | None
    labels: str | None
    """Digest of the label's indices."""
    pixels: npt.NDArray[np.int64] | None
    """Pixels of every label value, (256,)."""
    peak: int | None
    """Largest sample of an image of more than 8 bits."""


def distinct_entries(dataset: Dataset, splits: Sequence[str]) -> dict[Entry, list[str]]:
    """Return what lies in `splits` with the splits that it is in, so that shared files need only one look.

    Raises `DatasetError` if a split is unknown or empty.
    """
    found: dict[Entry, list[str]] = {}
    for split in splits:
        for entry in dataset.entries(split):
            found.setdefault(entry, []).append(split)
    return found


def check_dataset(
    dataset: Dataset, entries: dict[Entry, list[str]], advance: Callable[[], object] = lambda: None
) -> CheckReport:
    """Decode every file of `entries` (from `distinct_entries`), compare all images, and report every problem.

    `advance` is called in the caller's thread after each stem.
    """
    findings, seen, peaks = [], [], []
    splits_found = list(dict.fromkeys(split for splits in entries.values() for split in splits))
    stems = dict.fromkeys(splits_found, 0)
    pixels = {split: np.zeros(256, np.int64) for split in splits_found}
    for (entry, splits), look in zip(
        entries.items(), mapped(lambda entry: _look(dataset, entry), entries), strict=True
    ):
        findings += [Finding(splits=tuple(splits), stem=entry.stem, problem=problem) for problem in look.problems]
        if look.image is not None:
            file = _relative(dataset, entry.images[0])
            seen.append(Seen(stem=entry.stem, file=file, splits=tuple(splits), image=look.image, labels=look.labels))
        if look.peak is not None:
            peaks.append(look.peak)
        for split in splits:
            stems[split] += 1
            if look.pixels is not None:
                pixels[split] += look.pixels
        advance()
    files = {file for entry in entries for side in (entry.images, entry.masks) if len(side) == 1 for file in side}
    findings += leaks(seen, entries)
    findings += _of_the_whole(dataset, pixels, peaks)
    findings.sort(key=lambda finding: (finding.is_warning, finding.problem.file, finding.problem.rule))
    return CheckReport(stems=stems, files=len(files), findings=findings)


def _look(dataset: Dataset, entry: Entry) -> _Look:
    problems = list(_unpaired(dataset, entry))
    image = labels = pixels = peak = None
    shapes = []
    if len(entry.images) == 1:
        try:
            samples = read_samples(entry.images[0])
        except DatasetError as error:
            problems.append(_of_error("undecodable-image", dataset, entry.images[0], error))
        else:
            shapes.append(samples.shape[:2])
            peak = int(samples.max()) if samples.dtype == np.uint16 else None
            image = fingerprint(to_8_bits(samples, dataset.spec.white_level))
    if len(entry.masks) == 1:
        path = entry.masks[0]
        try:
            label = read_label_pixels(path)
        except DatasetError as error:
            problems.append(_of_error("undecodable-mask", dataset, path, error))
            return _Look(problems=problems, image=image, labels=None, pixels=None, peak=peak)
        shapes.append(label.pixels.shape[:2])
        if len(shapes) == 2 and shapes[0] != shapes[1]:
            problems.append(_size_mismatch(dataset, path, shapes[0], shapes[1]))
        try:
            mask = dataset.labels(path, label)
        except DatasetError as error:
            problems.append(_of_error("label-outside-classes", dataset, path, error))
        else:
            labels = hashlib.blake2b(mask.tobytes(), digest_size=16).hexdigest()
            pixels = np.bincount(mask.ravel(), minlength=256)
            if pixels[dataset.ignore_index] == mask.size:
                problems.append(_only_void(dataset, path))
    return _Look(problems=problems, image=image, labels=labels, pixels=pixels, peak=peak)


def _unpaired(dataset: Dataset, entry: Entry) -> Iterator[Problem]:
    if not entry.masks:
        yield _lone("missing-mask", dataset, entry.images[0], "no mask", "a mask")
    if not entry.images:
        yield _lone("missing-image", dataset, entry.masks[0], "no image", "an image")
    for side in (entry.images, entry.masks):
        if len(side) > 1:
            yield Problem(
                rule="several-files",
                file=_relative(dataset, side[0]),
                found=", ".join(path.name for path in side),
                expected="one file per stem",
                fix="keep one of them",
            )


def _of_the_whole(dataset: Dataset, pixels: dict[str, npt.NDArray[np.int64]], peaks: list[int]) -> Iterator[Finding]:
    """Yield what no single pair is to blame for."""
    if TRAIN in pixels and VAL not in dataset.splits:
        problem = Problem(
            rule="no-val",
            file=DESCRIPTION,
            found="no split to choose a network on",
            expected=f"a split {VAL!r}",
            fix=f"add `val_share = 0.2` above the splits: that share of {TRAIN!r} is then held out",
        )
        yield Finding(splits=(TRAIN,), stem="", problem=problem)
    for split, counts in pixels.items():
        absent = [name for name, count in zip(dataset.classes, counts, strict=False) if not count]
        if absent and counts.any():
            fix = "move images between the splits; else it cannot be learned or scored there"
            if counts[dataset.ignore_index] and dataset.ignore_index == 255 and len(dataset.classes) == 2:
                fix = f"if 255 in the masks is {absent[-1]}, set ignore_index = 254 and its colour [255, 255, 255]"
            problem = Problem(
                rule="absent-class",
                file=dataset.splits[split].masks,
                found=f"no pixel of {', '.join(absent)} in split {split!r}",
                expected="some of every class",
                fix=fix,
            )
            yield Finding(splits=(split,), stem="", problem=problem)
    white = dataset.spec.white_level
    if peaks and max(peaks) < white // 2:
        problem = Problem(
            rule="dark",
            file=DESCRIPTION,
            found=f"no sample of the 16-bit images is above {max(peaks)}, and {white} is white",
            expected="images that use the range",
            fix=f"add `white_level = {white_level_for(max(peaks))}` above the splits",
        )
        yield Finding(splits=tuple(pixels), stem="", problem=problem)


def _relative(dataset: Dataset, path: Path) -> str:
    return path.relative_to(dataset.folder).as_posix()


def _lone(rule: Rule, dataset: Dataset, path: Path, found: str, mate: str) -> Problem:
    expected = f"{mate} named {path.stem}"
    return Problem(
        rule=rule, file=_relative(dataset, path), found=found, expected=expected, fix="add it or remove this"
    )


def _of_error(rule: Rule, dataset: Dataset, path: Path, error: DatasetError) -> Problem:
    found = error.found.removeprefix(f"{path}: ")
    return Problem(rule=rule, file=_relative(dataset, path), found=found, expected=error.expected, fix=error.fix)


def _only_void(dataset: Dataset, path: Path) -> Problem:
    return Problem(
        rule="only-void",
        file=_relative(dataset, path),
        found="nothing but void",
        expected="at least one labelled pixel",
        fix="label it or remove the pair",
    )


def _size_mismatch(dataset: Dataset, mask: Path, image_hw: tuple[int, ...], mask_hw: tuple[int, ...]) -> Problem:
    # A photo's EXIF turn is not applied here, but the tool that drew the label may have applied it.
    turned = image_hw == mask_hw[::-1]
    return Problem(
        rule="size-mismatch",
        file=_relative(dataset, mask),
        found=f"mask {mask_hw[1]}×{mask_hw[0]}",
        expected=f"{image_hw[1]}×{image_hw[0]} as its image",
        fix="turn the stored image by its EXIF orientation, as `edgeseg data import --from masks` does, or label anew"
        if turned
        else "resize by nearest or label anew",
    )
