"""`edgeseg data`: look after datasets."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.dataset_check import Finding, check_dataset, distinct_entries


@click.group(epilog="Example: edgeseg data check my-dataset")
def data() -> None:
    """Look after datasets."""


@data.command(epilog="Example: edgeseg data check my-dataset --split train --split val")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", "splits", multiple=True, metavar="S", help="Check this split only; repeatable. Default: all.")
@json_option
@click.pass_context
def check(context: click.Context, dataset: Path, splits: tuple[str, ...], json_path: Path | None) -> None:
    """Decode every file of DATASET (a folder with a dataset.toml) and name every bad pair.

    Exit status 1 if there is any.
    """
    loaded = load_dataset(dataset)
    entries = distinct_entries(loaded, splits or tuple(loaded.splits))
    with progress("checking", len(entries)) as advance:
        report = check_dataset(loaded, entries, advance)
    write_document(json_path, "data-check", dataset={"name": loaded.name}, **report.document())
    counts = ", ".join(f"{split} {count}" for split, count in report.stems.items())
    if report.findings:
        console.print(_table(report.findings))
        console.print(
            f"{len(report.findings)} findings in {loaded.name} ({counts}; {report.files} files)", soft_wrap=True
        )
        context.exit(1)
    console.print(f"{loaded.name}: {report.files} files, each decoded, no findings ({counts})", soft_wrap=True)


def _table(findings: list[Finding]) -> Table:
    table = Table("file", "problem", "found", "expected, fix")
    for column in table.columns:
        column.overflow = "fold"
    for problem in (finding.problem for finding in findings):
        advice = "; ".join(part for part in (problem.expected, problem.fix) if part)
        table.add_row(*(Text(cell) for cell in (problem.file, problem.rule, problem.found, advice)))
    return table
