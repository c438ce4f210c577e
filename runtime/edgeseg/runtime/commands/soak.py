"""`edgeseg soak`: hours on the synthetic camera with random faults, and whether anything leaks."""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from edgeseg.runtime.backends import Backend, open_backend
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.commands.options import backend_option, threads_option
from edgeseg.runtime.commands.run import describe_run, print_summary, raise_failed_sinks, stop_on_signals
from edgeseg.runtime.errors import EdgesegError, SourceError
from edgeseg.runtime.files import write_bytes
from edgeseg.runtime.pipeline import Stop, run_pipeline
from edgeseg.runtime.sinks import open_sink
from edgeseg.runtime.soak.gauges import Watch, read_holdings, settle
from edgeseg.runtime.soak.orders import random_faults
from edgeseg.runtime.soak.picture import draw_soak
from edgeseg.runtime.soak.report import METHOD, SETTLING_MIB, TOLERANCES, SoakReport
from edgeseg.runtime.sources import open_source, redact
from edgeseg.runtime.sources.inject import FaultInjector
from edgeseg.runtime.sources.supervised import SupervisedSource, supervise
from edgeseg.runtime.summary import RunSummary

_UNITS = {"s": 1, "m": 60, "h": 3600}
_LEAST_S = 5.0
_MOST_S = 30 * 24 * 3600.0
_SETTLE_S = 2.0
"""For threads and handles to go, beyond the longest fault: a stalled driver is deaf for as long."""


def parse_duration(text: str) -> float:
    """Read `90s`, `5m` or `1.5h` into seconds. Raises `click.BadParameter` outside 5 s to 30 days."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not _LEAST_S <= seconds <= _MOST_S:
        raise click.BadParameter(f"{text!r}: expected 5s to 720h, such as 90s, 5m or 1h")
    return seconds


@click.command(
    epilog="Example: edgeseg soak street --duration 1h --json soak.json --picture soak.svg",
    help=f"""Run BUNDLE (a path or a shipped model's name) on a camera that fails at random, and look for leaks.

    Memory, open handles and threads are sampled. Growth over the time that counts is a leak if its 95 % interval lies
    wholly above {TOLERANCES["memory_mib"]:g} MiB ({SETTLING_MIB:g} in less than five minutes: a process settles first),
    or half a handle or thread; so is a handle or thread that is left when the camera is closed. Then the exit status is
    1. {METHOD}.
    """,
)
@click.argument("bundle", default="street")
@click.option(
    "--duration",
    "seconds",
    default="5m",
    show_default=True,
    metavar="T",
    callback=lambda _context, _option, text: parse_duration(text),
    help="How long: 90s, 5m, 1h.",
)
@click.option(
    "--source",
    default="synthetic://street?size=320x240&fps=5",
    show_default=True,
    metavar="S",
    help="Any live source that `edgeseg run` takes.",
)
@click.option("--sink", "sinks", multiple=True, default=("null",), show_default=True, metavar="K", help="As of run.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the faults.")
@click.option(
    "--pause",
    "every_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two faults, on average.",
)
@click.option("--precision", default="auto", show_default=True, help="Which of the bundle's graphs to run.")
@backend_option
@threads_option
@click.option(
    "--picture",
    "picture_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.svg",
    help="Also draw the curves to FILE.svg.",
)
@json_option
def soak(
    bundle: str,
    seconds: float,
    source: str,
    sinks: tuple[str, ...],
    seed: int,
    every_s: float,
    precision: str,
    backend: str,
    threads: int | None,
    picture_path: Path | None,
    json_path: Path | None,
) -> None:
    with open_bundle(bundle) as opened, ExitStack() as stack:
        engine = open_backend(opened, backend=backend, precision=precision, threads=threads)
        stack.callback(engine.close)
        fps = _rehearse(source, engine, opened, sinks)
        orders = random_faults(seed, fps=fps, seconds=seconds, every_s=every_s)
        injector = FaultInjector(partial(open_source, source), orders)
        stop = Stop()
        gc.collect()
        before = read_holdings()
        watch = Watch(seconds)
        with progress("soaking", total=watch.planned) as advance, watch.running(advance, stop.set):
            summary, told = _run(injector, engine, opened, sinks, watch, stop, name=redact(source))
        gc.collect()
        report = SoakReport(
            series=watch.series(),
            before=before,
            after=settle(before, _SETTLE_S + max((order.seconds for order in orders), default=0.0)),
            injected=injector.truth,
            told=told,
        )
        title = f"{opened.name} {engine.precision} on {redact(source)}"
        print_summary(summary, title=title)
        _print_report(report)
        if picture_path is not None:
            fault_s = [fault.ended_ns / 1e9 - watch.began_s for fault in injector.truth]
            _write_picture(picture_path, draw_soak(report, title=f"{seconds:g} s of {title}", fault_s=fault_s))
        figures = describe_run(summary, opened, engine, source)
        write_document(json_path, "soak", **figures, seed=seed, **report.document())
        raise_failed_sinks(summary)
        report.require_clean()


def _rehearse(source: str, engine: Backend, bundle: Bundle, sinks: Sequence[str]) -> float:
    """Run three frames, so that what is loaded once for a process is there; returns the source's rate."""
    camera = open_source(source)
    fps, live = camera.fps, camera.live
    if not live or fps is None:
        camera.close()
        raise SourceError(
            f"{redact(source)} is not live, or has no rate", fix="soak a camera, a stream or synthetic://"
        )
    outlets = [open_sink(spec, contract=bundle.contract, fps=fps, live=live) for spec in sinks]
    run_pipeline(camera, engine, bundle.contract, outlets, max_frames=3)
    return fps


def _run(
    injector: FaultInjector,
    engine: Backend,
    bundle: Bundle,
    sinks: Sequence[str],
    watch: Watch,
    stop: Stop,
    *,
    name: str,
) -> tuple[RunSummary, dict[str, int]]:
    """Run until `watch` has seen enough. Returns the summary and how many faults of each kind were told."""
    camera = supervise(injector.open(), injector.open, name=name)
    assert isinstance(camera, SupervisedSource)
    outlets = [open_sink(spec, contract=bundle.contract, fps=camera.fps, live=True) for spec in sinks]
    with stop_on_signals(stop):
        summary = run_pipeline(camera, engine, bundle.contract, outlets, stop=stop, on_frame=watch.observe)
    return summary, camera.fault_counts


def _print_report(report: SoakReport) -> None:
    """Print for a person what grew, what was left, and the verdict."""
    table = Table(title=Text(f"growth an hour, over {report.measured_h * 60:.1f} min"), title_justify="left")
    for column in ("", "an hour", "at least", "at most"):
        table.add_column(column, justify="right" if column else "left")
    for name, trend in report.trends().items():
        table.add_row(name, *(f"{value:+.3g}" for value in (trend.slope, trend.low, trend.high)))
    console.print(table)
    left = report.left_behind()
    console.print(
        f"{len(report.injected)} faults injected, {sum(report.told.values())} told; left behind: "
        f"{left['handles']} handles, {left['threads']} threads"
    )
    if not report.leaks():
        console.print("no leak")


def _write_picture(path: Path, picture: str) -> None:
    try:
        write_bytes(path, picture.encode())
    except OSError as error:
        raise EdgesegError(f"cannot write {path}: {error.strerror}", fix="name a file in a writable folder") from error
