"""What `edgeseg check --explain` says: a table, a JSON list, and the first tensor that goes its own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
from rich.markup import escape
from rich.table import Table

from edgeseg.export.check.explain import REFERENCE, Row, explain, first_unexpected
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.commands.common import console, progress
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.frame import Image

Explained = dict[str, list[Row]]
"""Precision -> its steps, in the order in which a frame passes them."""


def explain_bundle(bundle: Bundle, frame: Path | None, run: Path | None) -> Explained:
    """Compare the precisions of `bundle` on its golden frames, or on the picture `frame`; and fp32 with `run`.

    Raises `ExportError` if there is no frame or nothing to compare, `TrainError` if `run` is not a run.
    """
    frames = choose_frames(bundle, frame)
    found: Explained = {}
    if run is not None:
        # PyTorch takes seconds to load, and only this needs it.
        from edgeseg.export.check.explain_torch import explain_torch
        from edgeseg.train.run import load_run

        found[REFERENCE] = explain_torch(bundle, load_run(run), frames)
    with progress("comparing step by step", total=len(frames) * (len(bundle.precisions) - 1)) as advance:
        return {**found, **explain(bundle, frames, advance=advance)}


def choose_frames(bundle: Bundle, frame: Path | None) -> dict[str, Image]:
    """Return the picture `frame` fitted to the contract, or the golden frames. Raises `ExportError` without any."""
    if frame is not None:
        picture = cv2.imread(str(frame), cv2.IMREAD_COLOR)
        if picture is None:
            raise ExportError(f"{frame} is not a picture", fix="give --frame a PNG or JPEG file")
        return {frame.name: _fit(picture, bundle.contract)}  # type: ignore[arg-type]
    frames = {name: golden for name, golden, _ in bundle.golden_frames()}
    if not frames:
        raise ExportError(f"bundle {bundle.name!r} has no golden frames", fix="give a picture with --frame")
    return frames


def _fit(picture: Image, contract: Contract) -> Image:
    fitted: Image = Fitter(contract, (picture.shape[0], picture.shape[1])).fit(picture)[0].copy()
    return fitted


def explain_document(found: Mapping[str, list[Row]]) -> list[dict[str, Any]]:
    """Return every step of every precision as JSON values; what does not apply is absent."""
    rows = [row for rows in found.values() for row in rows]
    return [{key: value for key, value in asdict(row).items() if value is not None} for row in rows]


def say_explained(found: Mapping[str, list[Row]]) -> None:
    """Print one line for each step of fp32, with each precision's figures, and who diverges first."""
    names = [name for name in found if name != REFERENCE]
    table = Table("step", "operator", *(f"{name}, dB alone/along" for name in names), title="beside fp32")
    cells: dict[str, dict[str, str]] = {}
    ops: dict[str, str] = {}
    for name in names:
        for row in found[name]:
            key = row.stage if row.tensor == row.stage else f"{row.stage} → {row.tensor}"
            ops.setdefault(key, row.op)
            cells.setdefault(key, {})[name] = _figures(row)
    for key, line in cells.items():
        table.add_row(escape(key), ops[key], *(line.get(name, "") for name in names))
    console.print(table)
    for name, rows in found.items():
        first = first_unexpected(rows)
        if first is None:
            console.print(f"{name}: every step within its tolerance")
        else:
            console.print(f"[red]{name}: {escape(tell(first))}[/]")


def _figures(row: Row) -> str:
    decibels = f"{row.step_db:.0f}/{row.sqnr_db:.0f}" if row.step_db is not None and row.sqnr_db is not None else ""
    text = decibels if row.agreement is None else f"{row.agreement:.2%} equal"
    return f"[red]{text}[/]" if row.unexpected else text


def tell(row: Row) -> str:
    """Say in one line what diverges, by how much and why."""
    cause = f": {row.cause}" if row.cause else ""
    base = "the run's" if row.precision == REFERENCE else "fp32's"
    if row.step_db is None and row.sqnr_db is None:
        return f"{row.tensor} ({row.op}) is the first to diverge from {base} {row.stage}{cause}"
    figure = row.sqnr_db if row.step_db is None else row.step_db
    return (
        f"{row.tensor} ({row.op}) is the first to diverge from {base} {row.stage}: "
        f"{figure:.1f} dB, at least {row.tolerance_db:.1f} expected{cause}"
    )


def refuse_divergence(found: Mapping[str, list[Row]]) -> None:
    """Raise `ExportError` on the first step of the first precision that goes its own way."""
    for name, rows in found.items():
        first = first_unexpected(rows)
        if first is not None:
            raise ExportError(f"{name}: {tell(first)}", fix="export again, or mend what the line names")
