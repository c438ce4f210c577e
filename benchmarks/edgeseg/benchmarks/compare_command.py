"""`edgeseg compare`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from edgeseg.benchmarks.comparison import (
    Figure,
    LineComparison,
    compare_figures,
    compare_lines,
    comparison_document,
    find_differences,
    find_remarks,
)
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.reading import read_document
from edgeseg.benchmarks.roof import Roof, find_roof
from edgeseg.runtime.commands.common import console, json_option, write_document


@click.command(epilog="Example: edgeseg compare desktop.json jetson.json --html report.html")
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@click.option(
    "--html",
    "html_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the comparison as one self-contained page.",
)
@click.option("--base-device", metavar="D", help="Where BASE ran, as `edgeseg predict` names it, for its roofline.")
@click.option("--other-device", metavar="D", help="Where OTHER ran.")
@click.option(
    "--bundle", metavar="B", help="What was measured, for the roofline; default the one shipped by that name."
)
@click.option("--force", is_flag=True, help="Compare what is not comparable; the report is watermarked.")
@json_option
def compare(
    base: Path,
    other: Path,
    html_path: Path | None,
    base_device: str | None,
    other_device: str | None,
    bundle: str | None,
    force: bool,
    json_path: Path | None,
) -> None:
    """Compare two runs that `edgeseg bench --json` wrote.

    Refuses, and names the field, if bundle, input size, scenario or timing policy differ.
    """
    mine, theirs = read_document(base), read_document(other)
    differences = find_differences(mine, theirs)
    if differences and not force:
        raise BenchmarkError(
            "the runs differ in " + ", ".join(map(str, differences)),
            fix="measure both alike, or compare them with --force and a watermark",
        )
    lines = compare_lines(mine, theirs)
    if not lines:
        raise BenchmarkError("the runs have no line in common", fix="measure both with the same --scenario")
    names = (base.stem, other.stem) if base.stem != other.stem else (f"{base.stem} (base)", f"{other.stem} (other)")
    figures = compare_figures(mine, theirs)
    roofs = [
        find_roof(name, run, bundle or run.bundle.name, device)
        for name, run, device in zip(names, (mine, theirs), (base_device, other_device), strict=True)
        if device is not None
    ]
    for difference in differences:
        console.print(f"NOT COMPARABLE, forced: {difference}", style="bold red", markup=False)
    _print_comparison(lines, figures, roofs, names)
    for name, run in zip(names, (mine, theirs), strict=True):
        for remark in find_remarks(run):
            console.print(f"{name}: {remark}", markup=False)
    if html_path is not None:
        from edgeseg.benchmarks.report import write_report

        write_report(html_path, mine, theirs, lines, figures, roofs, differences, names=names)
        console.print(f"report: {html_path}", markup=False, soft_wrap=True)
    write_document(json_path, "compare", **comparison_document(mine, theirs, lines, figures, roofs, differences))


def _print_comparison(
    lines: list[LineComparison], figures: list[Figure], roofs: list[Roof], names: tuple[str, str]
) -> None:
    table = Table(title=Text(f"{names[1]} over {names[0]}"), title_justify="left")
    for column in ("line", *names, "ratio of medians", "95 % interval"):
        table.add_column(column, justify="left" if column == "line" else "right")
    for line in lines:
        ratio = line.ratio
        table.add_row(
            line.name,
            f"{line.base['p50']:.3f} ms",
            f"{line.other['p50']:.3f} ms",
            f"{ratio.value:.3f}" if ratio else "too few samples",
            f"{ratio.low:.3f} to {ratio.high:.3f}" if ratio else "",
        )
    console.print(table)
    for figure in figures:
        times = "" if figure.ratio is None else f", {figure.ratio:.2f}x"
        console.print(f"{figure.what}: {figure.base:.4g} and {figure.other:.4g}{times}", markup=False)
    for roof in roofs:
        console.print(f"{roof.run}: {roof.told()}", markup=False, soft_wrap=True)
