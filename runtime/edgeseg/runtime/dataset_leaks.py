"""Images that are in a dataset more than once, and what that does to its splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from edgeseg.runtime.dataset_duplicates import Fingerprint, alike, groups
from edgeseg.runtime.dataset_findings import Finding, Problem
from edgeseg.runtime.dataset_spec import DESCRIPTION

_SPLIT_FIX = "keep what is alike in one split: a network is scored too well on what it was trained on"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An image that was decoded."""

    stem: str
    file: str
    """Relative to the dataset's folder."""
    splits: tuple[str, ...]
    image: Fingerprint
    labels: str | None
    """Digest of its label; None if that cannot be used."""


def leaks(seen: Sequence[Seen], entries: Mapping[Any, Sequence[str]]) -> Iterator[Finding]:
    """Yield a finding for each image that is alike one of another split (the most alike is named), for each group of
    images of one split that are alike, for equal images with unequal labels, and for splits that share files.

    `entries` are the distinct stems with the splits that each is in.
    """
    order = list(dict.fromkeys(split for splits in entries.values() for split in splits))
    nested, shared = _relations(entries)
    yield from shared
    closest: dict[int, tuple[float, int, tuple[str, str]]] = {}
    within: list[tuple[int, int]] = []
    for one, other, likeness in alike([item.image for item in seen]):
        if likeness == 1 and _conflict(seen[one], seen[other]):
            yield _conflicting(seen[one], seen[other])
        across = _across(seen[one].splits, seen[other].splits, nested)
        if across is None:
            within.append((one, other))
            continue
        # The split that is listed later is the one to mend: train usually comes first.
        in_order = order.index(across[0]) < order.index(across[1])
        late, early, splits = (other, one, across) if in_order else (one, other, across[::-1])
        if late not in closest or likeness > closest[late][0]:
            closest[late] = (likeness, early, splits)
    for index, (likeness, other, splits) in closest.items():
        yield _duplicate_across(seen[index], seen[other], likeness, splits)
    for group in groups(len(seen), within):
        if len(group) > 1:
            yield _duplicates([seen[index] for index in group])


def _relations(entries: Mapping[Any, Sequence[str]]) -> tuple[set[frozenset[str]], list[Finding]]:
    """Return the pairs of splits of which one is a part of the other, and what is to be said of shared files."""
    members: dict[str, set[Any]] = {}
    for entry, splits in entries.items():
        for split in splits:
            members.setdefault(split, set()).add(entry)
    nested, findings = set(), []
    for one, other in combinations(members, 2):
        common = members[one] & members[other]
        if not common:
            continue
        if members[one] != members[other] and common in (members[one], members[other]):
            part, whole = (one, other) if common == members[one] else (other, one)
            nested.add(frozenset((one, other)))
            problem = Problem(
                rule="part-of-split",
                file=DESCRIPTION,
                found=f"split {part!r} is a part of {whole!r}",
                expected="",
                fix="never train on one and score on the other",
            )
        else:
            problem = Problem(
                rule="shared-by-splits",
                file=DESCRIPTION,
                found=f"splits {one!r} and {other!r} share {len(common)} images",
                expected="splits that share none",
                fix="exclude them from one of the two",
            )
        findings.append(Finding(splits=(one, other), stem="", problem=problem))
    return nested, findings


def _across(ours: Sequence[str], theirs: Sequence[str], nested: set[frozenset[str]]) -> tuple[str, str] | None:
    """Return a split of each that has nothing to do with the other; None if there are none."""
    for one in ours:
        for other in theirs:
            if one != other and frozenset((one, other)) not in nested:
                return one, other
    return None


def _conflict(one: Seen, other: Seen) -> bool:
    return None not in (one.labels, other.labels) and one.labels != other.labels


def _conflicting(one: Seen, other: Seen) -> Finding:
    problem = Problem(
        rule="conflicting-labels",
        file=other.file,
        found=f"the same pixels as {one.file}, labelled otherwise",
        expected="one label for one image",
        fix="keep the better pair",
    )
    return Finding(splits=_splits(one, other), stem=other.stem, problem=problem)


def _duplicate_across(one: Seen, other: Seen, likeness: float, splits: tuple[str, str]) -> Finding:
    how = "the same pixels as" if likeness == 1 else f"nearly ({likeness:.2f})"
    problem = Problem(
        rule="duplicate-across-splits",
        file=one.file,
        found=f"{how} {other.file} of split {splits[0]!r}",
        expected="no image of one split in another",
        fix=_SPLIT_FIX,
    )
    return Finding(splits=splits[::-1], stem=one.stem, problem=problem)


def _duplicates(group: Sequence[Seen]) -> Finding:
    equal = len({item.image.pixels for item in group}) == 1
    names = ", ".join(item.file for item in group[1:4]) + (f" and {len(group) - 4} more" if len(group) > 4 else "")
    problem = Problem(
        rule="duplicate",
        file=group[0].file,
        found=f"{'the same pixels as' if equal else 'nearly the same as'} {names}",
        expected="",
        fix="keep one, unless their weight is meant",
    )
    return Finding(splits=_splits(*group), stem=group[0].stem, problem=problem)


def _splits(*items: Seen) -> tuple[str, ...]:
    return tuple(dict.fromkeys(split for item in items for split in item.splits))
