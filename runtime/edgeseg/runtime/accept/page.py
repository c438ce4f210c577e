"""The outcome for a bug report: one JSON document and one HTML file that fetches nothing and can be printed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from edgeseg.runtime.accept.line import OUTCOMES, Line
from edgeseg.runtime.accept.trial import Trial
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import EdgesegError
from edgeseg.runtime.files import write_bytes

_PARTS = ("inference_ms", "frame_age_ms", "overhead_ms")


def describe(trial: Trial, lines: Sequence[Line], *, home: Path | None = None) -> dict[str, Any]:
    """Return the fields of the document, `summary` first: what this ran on. Holds no host name, path of the user's
    (`home`, None for this user's, becomes `~`) or credential.
    """
    bundle = trial.bundle
    fields = {
        "summary": trial.subject.sentence,
        "subject": trial.subject.document(),
        "outcomes": count_outcomes(lines),
        "bundle": {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256},
        "duration_s": trial.duration_s,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "lines": [line.document() for line in lines],
        "environment": environment(),
    }
    return {name: _without(str(home or _home()), value) for name, value in fields.items()}


def count_outcomes(lines: Sequence[Line]) -> dict[str, int]:
    """Return how many lines passed, failed and were not run."""
    counts = Counter(line.verdict.outcome for line in lines)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def write_page(path: Path, document: Mapping[str, Any]) -> None:
    """Write `document`, as `describe` gives it, as a page: whole or not at all. Raises `EdgesegError` if it cannot."""
    template = Template((resources.files(__package__) / "page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(f"edgeseg accept: {document['bundle']['name']}"),
        summary=escape(document["summary"]),
        outcomes=escape(", ".join(f"{count} {outcome}" for outcome, count in document["outcomes"].items())),
        lines="\n".join(map(_row, document["lines"])),
        times="\n".join(_time_rows(document["lines"])),
        facts="\n".join(f"<tr><th>{escape(n)}</th><td>{escape(v)}</td></tr>" for n, v in _facts(document).items()),
        document=escape(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)),
    )
    try:
        write_bytes(path, page.encode())
    except OSError as error:
        raise EdgesegError(
            f"cannot write {path}: {error.strerror}", fix="give --html a file in a folder that can be written"
        ) from error


def _row(line: Mapping[str, Any]) -> str:
    fix = f'<div class="fix">fix: {escape(line["fix"])}</div>' if "fix" in line else ""
    outcome = line["outcome"]
    return (
        f'<tr class="{outcome.replace(" ", "-")}"><td class="outcome">{outcome}</td><th>{escape(line["name"])}</th>'
        f"<td>{escape(line['found'])}{fix}</td></tr>"
    )


def _time_rows(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the live camera's percentiles as rows; a line that tells there are none if it gave none."""
    live: Mapping[str, Any] = next((line.get("figures", {}) for line in lines if line["name"] == "live camera"), {})
    rows = [
        "".join([f"<tr><th>{part.removesuffix('_ms').replace('_', ' ')}</th>"]
                + [f'<td class="figure">{value:.2f}</td>' for value in live[part].values()] + ["</tr>"])
        for part in _PARTS
        if part in live
    ]  # fmt: skip
    return rows or ['<tr><td colspan="6">none: the live camera gave no figures</td></tr>']


def _facts(document: Mapping[str, Any]) -> dict[str, str]:
    machine = dict(document["environment"])
    packages = machine.pop("packages", {})
    found = {
        "made": document["created"],
        "bundle": f"{document['bundle']['name']}, manifest {document['bundle']['manifest_sha256'][:16]}",
        "backend": document["subject"]["backend"],
        **{name.replace("_", " "): value for name, value in machine.items()},
        **packages,
    }
    return {name: _words(value) for name, value in found.items()}


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a service may have none
        return Path("/nonexistent")


def _without(home: str, value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(home, "~") if len(home) > 1 else value
    if isinstance(value, Mapping):
        return {name: _without(home, one) for name, one in value.items()}
    return [_without(home, one) for one in value] if isinstance(value, (list, tuple)) else value
