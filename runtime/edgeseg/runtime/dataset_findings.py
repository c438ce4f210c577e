"""One thing that is wrong with a dataset, or worth a look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Rule = Literal[
    "missing-image",
    "missing-mask",
    "several-files",
    "undecodable-image",
    "undecodable-mask",
    "size-mismatch",
    "label-outside-classes",
    "only-void",
    "shared-by-splits",
    "duplicate-across-splits",
    "conflicting-labels",
    "changed",
    "part-of-split",
    "duplicate",
    "absent-class",
    "no-val",
    "dark",
]

WARNINGS: frozenset[Rule] = frozenset(("part-of-split", "duplicate", "absent-class", "no-val", "dark"))
"""Rules that a dataset may break and be sound; all others are errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is wrong with one stem, or with the whole."""

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
    """Empty where it is no single stem's problem."""
    problem: Problem

    @property
    def is_warning(self) -> bool:
        return self.problem.rule in WARNINGS

    def document(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        fields = {name: getattr(self.problem, name) for name in ("rule", "file", "found", "expected", "fix")}
        severity = "warning" if self.is_warning else "error"
        return {"severity": severity, "splits": list(self.splits), "stem": self.stem, **fields}
