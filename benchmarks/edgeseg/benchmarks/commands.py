"""`edgeseg bench` and `edgeseg compare`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click
from rich.table import Table
from rich.text import Text

from edgeseg.benchmarks.comparison import (
    LineComparison,
    compare_lines,
    comparison_document,
    find_differences,
    find_remarks,
)
from edgeseg.benchmarks.document import SCENARIOS, Document, Line, Scenario, read_document
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.measure import measure
from edgeseg.benchmarks.trtexec import choose_precision, import_times, trtexec_lines
from edgeseg.benchmarks.versus import Contender, Side, Versus, measure_versus, verdict
from edgeseg.runtime.backends import BACKENDS
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.manifest import PRECISIONS

_PRECISION = click.Choice(["auto", *PRECISIONS])


@click.command(epilog="Example: edgeseg bench street --scenario live --json run.json")
@click.argument("bundle")
@click.option(
    "--scenario",
    type=click.Choice(SCENARIOS),
    default="single-stream",
    show_default=True,
    help="MLPerf's single-stream, multi-stream and offline, by LoadGen; live (a paced camera, frame age); cold (fresh "
    "processes).",
)
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to measure, after the warm-up.",
)
@click.option("--precision", type=_PRECISION, default="auto", show_default=True, help="Which of the bundle's graphs.")
@click.option(
    "--backend", type=click.Choice(["auto", *BACKENDS]), default="auto", show_default=True, help="What runs it."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads for inference; default one per core.")
@click.option(
    "--source",
    default="synthetic://street",
    show_default=True,
    metavar="S",
    help="Where frames come from: all of them live, else the first sixteen, held in memory.",
)
@click.option("--against", metavar="B", help="Measure BUNDLE and B in turns, single-stream, and give the times' ratio.")
@click.option("--against-precision", type=_PRECISION, help="B's graph; default what --precision says.")
@click.option(
    "--print-trtexec", is_flag=True, help="Print trtexec's line for this measurement, by TensorRT's major, and end."
)
@click.option(
    "--import-trtexec",
    "times_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take the times from what trtexec --exportTimes wrote here, instead of measuring.",
)
@json_option
def bench(
    bundle: str,
    scenario: str,
    duration_s: float,
    precision: str,
    backend: str,
    threads: int | None,
    source: str,
    against: str | None,
    against_precision: str | None,
    print_trtexec: bool,
    times_path: Path | None,
    json_path: Path | None,
) -> None:
    """Measure BUNDLE (a path or a shipped model's name), with an interval for every figure.

    `inference_ms` and `whole_path_ms` are separate lines: the one from the fitted frame to its mask, copies included,
    the other with fitting and unfitting.
    """
    if print_trtexec or times_path is not None:
        if scenario != "single-stream" or against is not None:
            raise click.UsageError("trtexec measures --scenario single-stream, one bundle at a time")
        _bridge_trtexec(bundle, precision, duration_s, times_path, json_path)
        return
    if against is None:
        if against_precision is not None:
            raise click.UsageError("--against-precision needs --against")
        with progress(f"bench {scenario}"):
            found = measure(
                bundle,
                cast(Scenario, scenario),
                duration_s=duration_s,
                backend=backend,
                precision=precision,
                threads=threads,
                source=source,
            )
        _print_run(found)
        _write(json_path, found)
        return
    if scenario != "single-stream":
        raise click.UsageError("--against takes turns frame by frame, which is --scenario single-stream")
    with progress("bench in turns"):
        versus = measure_versus(
            Contender(bundle=bundle, precision=precision),
            Contender(bundle=against, precision=against_precision or precision),
            duration_s=duration_s,
            backend=backend,
            threads=threads,
            source=source,
        )
    _print_versus(versus)
    _write(json_path, versus)


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
@click.option("--force", is_flag=True, help="Compare what is not comparable; the report is watermarked.")
@json_option
def compare(base: Path, other: Path, html_path: Path | None, force: bool, json_path: Path | None) -> None:
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
    for difference in differences:
        console.print(f"NOT COMPARABLE, forced: {difference}", style="bold red", markup=False)
    _print_comparison(lines, names)
    for name, run in zip(names, (mine, theirs), strict=True):
        for remark in find_remarks(run):
            console.print(f"{name}: {remark}", markup=False)
    if html_path is not None:
        from edgeseg.benchmarks.report import write_report

        write_report(html_path, mine, theirs, lines, differences, names=names)
        console.print(f"report: {html_path}", markup=False, soft_wrap=True)
    write_document(json_path, "compare", **comparison_document(mine, theirs, lines, differences))


def _bridge_trtexec(
    given: str, precision: str, duration_s: float, times_path: Path | None, json_path: Path | None
) -> None:
    """Import times, or print the lines that make them."""
    with open_bundle(given) as bundle:
        chosen = choose_precision(bundle, precision)
        if times_path is None:
            for major, line in trtexec_lines(bundle, chosen, duration_s=duration_s).items():
                click.echo(f"# TensorRT {major}\n{line}")
            return
        found = import_times(times_path, bundle, chosen, duration_s=duration_s)
    _print_run(found)
    _write(json_path, found)


def _write(path: Path | None, found: Document | Versus) -> None:
    fields = found.document()
    kind = fields.pop("schema").split("/")[1]
    write_document(path, kind, **fields)


def _print_run(run: Document) -> None:
    title = f"{run.bundle.name} {run.precision} on {run.backend}, {run.threads} threads, {run.scenario}"
    _print_lines(title, run.lines)
    rate = "" if run.fps is None else f", {run.fps:.2f} a second"
    dropped = f", {run.dropped} dropped" if run.dropped is not None else ""
    console.print(f"{run.frames} frames{rate}{dropped}; [low, high] hold the figure with 95 % confidence", markup=False)
    if run.loadgen is not None:
        console.print(f"LoadGen {run.loadgen.version}: {run.loadgen.result} by its rules for this duration")
    for remark in find_remarks(run):
        console.print(remark, markup=False)


def _print_versus(versus: Versus) -> None:
    for name, side in (("A", versus.a), ("B", versus.b)):
        _print_lines(
            f"{name}: {_describe(side)}", {"inference_ms": side.inference_ms, "whole_path_ms": side.whole_path_ms}
        )
    console.print(f"inference: {verdict(versus.inference_ratio)}", markup=False)
    console.print(f"whole path: {verdict(versus.whole_path_ratio)}", markup=False)


def _describe(side: Side) -> str:
    return f"{side.bundle.name} {side.precision} on {side.backend}, {side.threads} threads"


def _print_lines(title: str, lines: dict[str, Line]) -> None:
    table = Table(title=Text(title), title_justify="left")
    table.add_column("ms", no_wrap=True)
    for column in ("p50", "p90", "p95", "p99", "p99.9", "max"):
        table.add_column(column, justify="right")
    for name, line in lines.items():
        cells = []
        for figure in ("p50", "p90", "p95", "p99", "p99_9", "max"):
            value, interval = getattr(line, figure), line.intervals.get(figure)  # type: ignore[call-overload]
            bounds = f"\n[{_format(interval.low)}, {_format(interval.high)}]" if interval else ""
            cells.append(Text("" if value is None else _format(value) + bounds))
        table.add_row(name, *cells)
    console.print(table)


def _format(value_ms: float) -> str:
    return f"{value_ms:.0f}" if value_ms >= 100 else f"{value_ms:.3g}"


def _print_comparison(lines: list[LineComparison], names: tuple[str, str]) -> None:
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
