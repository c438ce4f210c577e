"""`edgeseg run`: a bundle on a camera, a stream or a file, with a live line and a closing summary."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgeseg.runtime.backends import BACKENDS, Backend, open_backend
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import SinkError, SourceError
from edgeseg.runtime.frame import Result
from edgeseg.runtime.objective import Objective, parse_objective, require
from edgeseg.runtime.pipeline import Stop, run_pipeline
from edgeseg.runtime.sinks import open_sink
from edgeseg.runtime.sources import Source, open_source, redact
from edgeseg.runtime.sources.inject import FaultInjector, parse_faults
from edgeseg.runtime.sources.supervised import supervise
from edgeseg.runtime.summary import RunRecorder, RunSummary
from edgeseg.runtime.telemetry import Sampler


@click.command(epilog="Example: edgeseg run street --source drive.mp4 --sink video:masked.mp4")
@click.argument("bundle")
@click.option(
    "--source",
    required=True,
    metavar="S",
    help="A file, an image folder, a camera number, /dev/videoN, csi://0?size=1280x720&fps=30, an rtsp://, http:// or "
    "udp:// URL, gst:PIPELINE that ends in an appsink, or synthetic://street?size=640x480&fps=25&seed=0.",
)
@click.option(
    "--sink",
    "sinks",
    multiple=True,
    default=("null",),
    show_default=True,
    metavar="K",
    help="video:FILE or images:DIR (overlays), masks:DIR (class indices), jsonl:FILE (records), window or null. "
    "May be repeated.",
)
@click.option("--fault", metavar="F", help="Faults to inject into a live source: stall:5@10,freeze:2@20,resize@30, ...")
@click.option(
    "--slo",
    "objectives",
    multiple=True,
    metavar="O",
    callback=lambda _context, _option, texts: tuple(parse_objective(text) for text in texts),
    help="What the run must meet, else exit status 1: age_p99=100ms, fps>=20 or dropped<=5%. May be repeated.",
)
@click.option("--max-frames", type=click.IntRange(min=1), metavar="N", help="End when N frames reached the sinks.")
@click.option("--precision", default="auto", show_default=True, help="Which of the bundle's graphs to run.")
@click.option(
    "--backend", type=click.Choice(["auto", *BACKENDS]), default="auto", show_default=True, help="What runs it."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads for inference; default one per core.")
@json_option
def run(
    bundle: str,
    source: str,
    sinks: tuple[str, ...],
    fault: str | None,
    objectives: tuple[Objective, ...],
    max_frames: int | None,
    precision: str,
    backend: str,
    threads: int | None,
    json_path: Path | None,
) -> None:
    """Run BUNDLE (a path or a shipped model's name) on a source and write masks or overlays.

    Ends with the source, after --max-frames, or on Ctrl-C or SIGTERM, always with a summary and with sinks finished.
    A second Ctrl-C ends it at once.
    """
    stop = Stop()
    with open_bundle(bundle) as opened, ExitStack() as stack:
        engine = open_backend(opened, backend=backend, precision=precision, threads=threads)
        stack.callback(engine.close)
        camera = open_supervised(source, fault)
        stack.callback(camera.close)
        outlets = []
        for spec in sinks:
            outlets.append(open_sink(spec, contract=opened.contract, fps=camera.fps, live=camera.live))
            stack.callback(outlets[-1].close)
        with stop_on_signals(stop), LiveLine() as live, Sampler() as sampler:
            summary = run_pipeline(
                camera, engine, opened.contract, outlets, max_frames=max_frames, stop=stop, on_frame=live
            )
        print_summary(summary, title=f"{opened.name} {engine.precision} on {redact(source)}")
        write_document(
            json_path,
            "run",
            **describe_run(summary, opened, engine, source),
            **sampler.document(frames=summary.frames),
        )
        raise_failed_sinks(summary)
        require(objectives, summary)


def describe_run(summary: RunSummary, bundle: Bundle, engine: Backend, source: str) -> dict[str, Any]:
    """Return the fields of a run's document: its figures, and what gave them on which machine. No credentials."""
    return {
        **summary.document(),
        "environment": environment(),
        "bundle": {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256},
        "precision": engine.precision,
        "backend": engine.name,
        "source": redact(source),
    }


def open_supervised(url: str, fault: str | None = None) -> Source:
    """Open `url` so that a live source's faults are survived, those that `fault` orders among them."""
    opener: Callable[[], Source] = partial(open_source, url)
    if fault is not None:
        opener = FaultInjector(opener, parse_faults(fault)).open
    camera = opener()
    if fault is not None and not camera.live:
        camera.close()
        raise SourceError(f"--fault on {redact(url)}, which is not live", fix="use a camera, a stream or synthetic://")
    return supervise(camera, opener, name=redact(url))


@contextmanager
def stop_on_signals(stop: Stop, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM set `stop`, and the next end the process at once. For the main thread."""

    def first(_signal: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    before = {number: signal.signal(number, first) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LiveLine:
    """One line on standard error that follows a run, and nothing where that is not a terminal."""

    REFRESH_S = 0.25

    def __init__(self) -> None:
        self._terminal = Console(stderr=True, highlight=False)
        self._live = Live(console=self._terminal, auto_refresh=False, transient=True)
        self._shown_s, self._shown_frames = time.monotonic(), 0

    def __enter__(self) -> LiveLine:
        if self._terminal.is_terminal:
            self._live.start()
            # A second signal ends the process at once: the cursor must be there already.
            self._terminal.show_cursor(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, result: Result, recorder: RunRecorder) -> None:
        """Show where the run stands, a few times a second."""
        now_s = time.monotonic()
        if not self._terminal.is_terminal or now_s - self._shown_s < self.REFRESH_S:
            return
        fps = (recorder.frames - self._shown_frames) / (now_s - self._shown_s)
        self._shown_s, self._shown_frames = now_s, recorder.frames
        self._live.update(Text(live_text(recorder.summary(), fps=fps), no_wrap=True, overflow="ellipsis"), refresh=True)


def live_text(summary: RunSummary, *, fps: float) -> str:
    """Return one line: the rate of late, frame age, inference, drops, mIoU where known, and frames."""
    parts = [f"{fps:.1f} fps"]
    if summary.frame_age_ms and summary.inference_ms:
        parts.append(f"age {summary.frame_age_ms['p50']:.3g} ms")
        parts.append(f"inference {summary.inference_ms['p50']:.3g} ms")
    parts.append(f"{summary.dropped} dropped")
    if summary.confusion and summary.confusion.miou is not None:
        parts.append(f"mIoU {summary.confusion.miou:.1f} %")
    parts.append(f"{summary.frames} frames")
    return "  ".join(parts)


def print_summary(summary: RunSummary, *, title: str) -> None:
    """Print the closing summary for a person."""
    rows = {
        "inference": summary.inference_ms,
        "frame age": summary.frame_age_ms,
        "overhead": summary.overhead_ms,
    }
    table = Table(title=Text(title), title_justify="left")
    for column in ("ms", "p50", "p90", "p95", "p99", "max"):
        table.add_column(column, justify="left" if column == "ms" else "right")
    for name, figures in rows.items():
        if figures:
            table.add_row(name, *(f"{value:.2f}" for value in figures.values()))
    if table.row_count:
        console.print(table)
    rate = f" at {summary.fps:.1f} fps" if summary.fps is not None else ""
    causes = ", ".join(f"{count} at {stage}" for stage, count in summary.drops.items() if count)
    console.print(
        f"{summary.frames} frames{rate}, {summary.dropped} dropped{f' ({causes})' if causes else ''}, "
        f"capture time: {summary.clock}"
    )
    if summary.faults:
        kinds = Counter(fault.kind for fault in summary.faults)
        worst_ms = max((fault.recovery_ms or 0.0 for fault in summary.faults), default=0.0)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        console.print(f"faults survived: {told}, the longest for {worst_ms / 1000:.1f} s")
    for sink in summary.sinks:
        if sink.dropped or sink.error:
            why = f": {sink.error}" if sink.error else ""
            console.print(f"{sink.sink} took {sink.frames} and dropped {sink.dropped}{why}", markup=False)
    if summary.confusion and summary.confusion.miou is not None:
        console.print(f"mIoU {summary.confusion.miou:.1f} % against the source's own truth")


def raise_failed_sinks(summary: RunSummary) -> None:
    """Raise `SinkError` if a sink failed on the way: a live run went on without it, but its output is not whole."""
    failed = [f"{sink.sink} ({sink.error})" for sink in summary.sinks if sink.error]
    if failed:
        raise SinkError(
            f"the run went on without {', '.join(failed)}", fix="see that they can be written, and run again"
        )
