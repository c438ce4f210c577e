"""`edgeseg bench`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click
from rich.table import Table
from rich.text import Text

from edgeseg.benchmarks.comparison import find_remarks
from edgeseg.benchmarks.document import SCENARIOS, Document, Line, Scenario
from edgeseg.benchmarks.loadgen_rules import Arrivals
from edgeseg.benchmarks.measure import measure
from edgeseg.benchmarks.profile import profile_source
from edgeseg.benchmarks.trtexec import choose_precision, import_times, trtexec_lines
from edgeseg.benchmarks.versus import Contender, Side, Versus, measure_versus, verdict
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.commands.options import backend_option, threads_option
from edgeseg.runtime.manifest import PRECISIONS
from edgeseg.runtime.profile import check_folder

_PRECISION = click.Choice(["auto", *PRECISIONS])


@click.command(epilog="Example: edgeseg bench street --scenario live --json run.json")
@click.argument("bundle")
@click.option(
    "--scenario",
    type=click.Choice(SCENARIOS),
    default="single-stream",
    show_default=True,
    help="MLPerf's single-stream, multi-stream, offline and server, by LoadGen; live (a paced camera, frame age); cold "
    "(fresh processes).",
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
@backend_option
@threads_option
@click.option(
    "--source",
    default="synthetic://street",
    show_default=True,
    metavar="S",
    help="Where frames come from: all of them live, else the first sixteen, held in memory.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="FPS",
    help=f"Of server: how many frames arrive a second, at random moments; default {Arrivals.rate:g}.",
)
@click.option(
    "--bound",
    "bound_ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help=f"Of server: what 99 of 100 responses should not exceed; default {Arrivals.bound_ms:g}.",
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
@click.option(
    "--profile",
    "profile_path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Then also tell where the time goes, by stage and by operator or layer, and write a Perfetto trace to DIR.",
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
    rate: float | None,
    bound_ms: float | None,
    against: str | None,
    against_precision: str | None,
    print_trtexec: bool,
    times_path: Path | None,
    profile_path: Path | None,
    json_path: Path | None,
) -> None:
    """Measure BUNDLE (a path or a shipped model's name), with an interval for every figure.

    `backend_ms`, `inference_ms` and `whole_path_ms` are separate lines: the network by the engine's own clock, where it
    has one; from the fitted frame to its mask, copies included; with fitting and unfitting.
    """
    if scenario != "server" and (rate is not None or bound_ms is not None):
        raise click.UsageError("--rate and --bound are for --scenario server")
    if profile_path is not None and (against is not None or print_trtexec or times_path is not None):
        raise click.UsageError("--profile looks into one bundle that is measured here")
    if print_trtexec or times_path is not None:
        if scenario != "single-stream" or against is not None:
            raise click.UsageError("trtexec measures --scenario single-stream, one bundle at a time")
        _bridge_trtexec(bundle, precision, duration_s, times_path, json_path)
        return
    if profile_path is not None:
        check_folder(profile_path)
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
                arrivals=Arrivals(rate=rate or Arrivals.rate, bound_ms=bound_ms or Arrivals.bound_ms),
            )
        _print_run(found)
        _write(json_path, found)
        if profile_path is not None:
            profile_source(
                bundle, profile_path, backend=found.backend, precision=found.precision, threads=threads, source=source
            )
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
