"""One line of the page: a name and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeseg.runtime.errors import EdgesegError

Outcome = Literal["pass", "fail", "not run"]
OUTCOMES: tuple[Outcome, ...] = ("pass", "fail", "not run")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found. Where nothing was run, `found` is the reason."""

    outcome: Outcome
    found: str
    fix: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """JSON's types, under the names that all documents share. A figure that is absent is left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A verdict under its name."""

    name: str
    verdict: Verdict

    def document(self) -> dict[str, Any]:
        """Return JSON's types; what is empty is left out."""
        one = self.verdict
        fields = {"name": self.name, "outcome": one.outcome, "found": one.found, "fix": one.fix}
        return {name: value for name, value in {**fields, "figures": dict(one.figures)}.items() if value}


def judge(passed: bool, found: str, *, fix: str = "", **figures: Any) -> Verdict:
    """Return a pass or a failure; `fix` is kept only of the latter, and figures that are None are left out."""
    present = {name: value for name, value in figures.items() if value is not None}
    return Verdict(outcome="pass" if passed else "fail", found=found, fix="" if passed else fix, figures=present)


def not_run(reason: str) -> Verdict:
    """Return a verdict on what could not or need not be looked at."""
    return Verdict(outcome="not run", found=reason)


def raised(error: Exception) -> Verdict:
    """Return the failure of a check that raised: one line of text, never a traceback."""
    if isinstance(error, EdgesegError):
        found = "; expected ".join(part for part in (error.found, error.expected) if part)
        return Verdict(outcome="fail", found=" ".join(found.split()), fix=error.fix)
    return Verdict(outcome="fail", found=" ".join(f"{type(error).__name__}: {error}".split()))
