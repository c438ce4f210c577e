"""Name everything in a dataset that would stop or quietly spoil a training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeseg.runtime.dataset import Dataset, Entry
from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.image_files import read_image, read_label_pixels

Rule = Literal[
    "missing-image",
    "missing-mask",
    "several-files",
    "undecodable-image",
    "undecodable-mask",
    "size-mismatch",
    "label-outside-classes",
    "only-void",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is wrong with one stem."""

    rule: Rule
    file: str
    """Relative to the dataset's folder: the file that is wrong, or that has no mate."""
    found: str
    expected: str
    fix: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A problem and the splits that it is in."""

    splits: tuple[str, ...]
    stem: str
    problem: Problem

    def document(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        fields = {name: getattr(self.problem, name) for name in ("rule", "file", "found", "expected", "fix")}
        return {"splits": list(self.splits), "stem": self.stem, **fields}


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """What was checked and what was found."""

    stems: dict[str, int]
    """Number of stems per split, sound or not."""
    files: int
    """Files that were decoded, each once."""
    findings: list[Finding] = field(default_factory=list)
    """In the order of the files' names."""

    def document(self) -> dict[str, Any]:
        """Return the report for JSON: `splits` (stems and findings of each), `files`, `findings`."""
        counts = {s: {"stems": n, "findings": sum(s in f.splits for f in self.findings)} for s, n in self.stems.items()}
        return {"splits": counts, "files": self.files, "findings": [finding.document() for finding in self.findings]}


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
    """Decode every file of `entries` (from `distinct_entries`) and report every problem of every stem.

    `advance` is called in the caller's thread after each stem.
    """
    findings, stems = [], dict.fromkeys((split for splits in entries.values() for split in splits), 0)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        problems_of = pool.map(lambda entry: list(_problems(dataset, entry)), entries)
        for (entry, splits), problems in zip(entries.items(), problems_of, strict=True):
            findings += [Finding(splits=tuple(splits), stem=entry.stem, problem=problem) for problem in problems]
            for split in splits:
                stems[split] += 1
            advance()
    files = {file for entry in entries for side in (entry.images, entry.masks) if len(side) == 1 for file in side}
    findings.sort(key=lambda finding: (finding.problem.file, finding.problem.rule))
    return CheckReport(stems=stems, files=len(files), findings=findings)


def _problems(dataset: Dataset, entry: Entry) -> Iterator[Problem]:
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
    shapes = []
    if len(entry.images) == 1:
        try:
            shapes.append(read_image(entry.images[0]).shape[:2])
        except DatasetError as error:
            yield _of_error("undecodable-image", dataset, entry.images[0], error)
    if len(entry.masks) == 1:
        path = entry.masks[0]
        try:
            label = read_label_pixels(path)
        except DatasetError as error:
            yield _of_error("undecodable-mask", dataset, path, error)
            return
        shapes.append(label.pixels.shape[:2])
        if len(shapes) == 2 and shapes[0] != shapes[1]:
            yield _size_mismatch(dataset, path, shapes[0], shapes[1])
        try:
            mask = dataset.labels(path, label)
        except DatasetError as error:
            yield _of_error("label-outside-classes", dataset, path, error)
            return
        if np.all(mask == dataset.ignore_index):
            yield Problem(
                rule="only-void",
                file=_relative(dataset, path),
                found="nothing but void",
                expected="at least one labelled pixel",
                fix="label it or remove the pair",
            )


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


def _size_mismatch(dataset: Dataset, mask: Path, image_hw: tuple[int, ...], mask_hw: tuple[int, ...]) -> Problem:
    # A photo's EXIF turn is not applied here, but the tool that drew the label may have applied it.
    turned = image_hw == mask_hw[::-1]
    return Problem(
        rule="size-mismatch",
        file=_relative(dataset, mask),
        found=f"mask {mask_hw[1]}×{mask_hw[0]}",
        expected=f"{image_hw[1]}×{image_hw[0]} as its image",
        fix="turn the stored image by its EXIF orientation, or label anew"
        if turned
        else "resize by nearest or label anew",
    )
