"""`edgeseg data`: look after datasets."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

import click
from rich.table import Table
from rich.text import Text

from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.commands.data_stats import stats
from edgeseg.runtime.commands.evaluate import open_network
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.dataset_against import compare, recorded_splits
from edgeseg.runtime.dataset_check import CheckReport, check_dataset, distinct_entries
from edgeseg.runtime.dataset_findings import Finding
from edgeseg.runtime.dataset_suspects import Suspect, draw_suspects, find_suspects

_ROWS_A_RULE = 12


class _Group(click.Group):
    """`import` comes from the training side, by name: the runtime is whole without it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "import"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "import":
            return super().get_command(ctx, cmd_name)
        return cast(click.Command, importlib.import_module("edgeseg.train.data_import.command").import_)


@click.group(cls=_Group, epilog="Example: edgeseg data check my-dataset")
def data() -> None:
    """Look after datasets."""


data.add_command(stats)


@data.command(epilog="Example: edgeseg data check my-dataset --split train --split val")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", "splits", multiple=True, metavar="S", help="Check this split only; repeatable. Default: all.")
@click.option("--against", metavar="BUNDLE|RUN", help="Tell which splits are not what this was trained and scored on.")
@click.option(
    "--run", "network", metavar="BUNDLE|RUN", help="Also rank the labels by how far this network disagrees with them."
)
@click.option("--worst", type=click.IntRange(min=1), default=12, show_default=True, help="How many of those to show.")
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="With --run: draw the worst, network and label side by side.",
)
@json_option
@click.pass_context
def check(
    context: click.Context,
    dataset: Path,
    splits: tuple[str, ...],
    against: str | None,
    network: str | None,
    worst: int,
    sheet: Path | None,
    json_path: Path | None,
) -> None:
    """Decode every file of DATASET (a folder with a dataset.toml), compare its images, and name every bad pair.

    Exit status 1 if there is an error; warnings leave it 0.
    """
    if sheet is not None and network is None:
        raise click.UsageError("--sheet shows what --run finds; give both")
    loaded = load_dataset(dataset)
    chosen = splits or tuple(loaded.splits)
    entries = distinct_entries(loaded, chosen)
    with progress("checking", len(entries)) as advance:
        report = check_dataset(loaded, entries, advance)
    fields: dict[str, Any] = {}
    if against is not None:
        recorded = recorded_splits(against)
        with progress("comparing", len(recorded)) as advance:
            changed = list(compare(loaded, recorded, against, advance))
        report.findings[:0] = changed
        if not changed:
            console.print(f"{', '.join(recorded)}: as {against} was trained and scored on", soft_wrap=True)
        fields["against"] = {"network": against, "splits": sorted(recorded)}
    suspects: list[Suspect] = []
    if network is not None:
        pairs = {entry: of for entry, of in entries.items() if len(entry.images) == len(entry.masks) == 1}
        with open_network(network) as opened, progress("looking with the network", len(pairs)) as advance:
            suspects = find_suspects(opened.predictor, loaded, pairs, count=worst, advance=advance)
            if sheet is not None:
                draw_suspects(sheet, opened.predictor, loaded, suspects, f"{Path(network).name} on {loaded.name}")
        fields["suspicious"] = [suspect.document() for suspect in suspects]
    write_document(json_path, "data-check", dataset={"name": loaded.name}, **report.document(), **fields)
    if network is not None:
        console.print(_suspects_table(suspects, network))
    _print(loaded.name, report)
    if report.errors:
        context.exit(1)


def _print(name: str, report: CheckReport) -> None:
    counts = ", ".join(f"{split} {count}" for split, count in report.stems.items())
    if not report.findings:
        console.print(f"{name}: {report.files} files, each decoded, no findings ({counts})", soft_wrap=True)
        return
    console.print(_table(report.findings))
    warnings = len(report.findings) - report.errors
    console.print(
        f"{report.errors} errors and {warnings} warnings in {name} ({counts}; {report.files} files)", soft_wrap=True
    )


def _table(findings: list[Finding]) -> Table:
    table = Table("file", "problem", "found", "expected, fix")
    for column in table.columns:
        column.overflow = "fold"
    shown: dict[str, int] = {}
    for finding in findings:
        problem = finding.problem
        shown[problem.rule] = shown.get(problem.rule, 0) + 1
        if shown[problem.rule] > _ROWS_A_RULE:
            continue
        advice = "; ".join(part for part in (problem.expected, problem.fix) if part)
        rule = f"{problem.rule} (warning)" if finding.is_warning else problem.rule
        table.add_row(*(Text(cell) for cell in (problem.file, rule, problem.found, advice)))
    for rule, count in shown.items():
        if count > _ROWS_A_RULE:
            table.add_row("…", rule, f"{count - _ROWS_A_RULE} more", "all of them: --json FILE")
    return table


def _suspects_table(suspects: list[Suspect], network: str) -> Table:
    table = Table("file", "disagrees on", "oddest place", "labelled", "seen", title=f"labels to look at, by {network}")
    table.columns[0].overflow = "fold"
    for name in ("disagrees on", "oddest place"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for suspect in suspects:
        shares = (f"{share:.1f} %" for share in (suspect.disagreement, suspect.percent))
        table.add_row(*(Text(cell) for cell in (suspect.file, *shares, suspect.labelled, suspect.seen)))
    return table
