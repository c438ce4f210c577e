"""`edgeseg run`: a bundle on a camera, a stream or a file, with a live line and a closing summary."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgeseg.runtime.backends import BACKENDS, open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.environment import environment
from edgeseg.runtime.frame import Result
from edgeseg.runtime.pipeline import Stop, run_pipeline
from edgeseg.runtime.sinks import open_sink
from edgeseg.runtime.sources import open_source, redact
from edgeseg.runtime.summary import RunRecorder, RunSummary


@click.command(epilog="Example: edgeseg run street --source drive.mp4 --sink video:masked.mp4")
@click.argument("bundle")
@click.option(
    "--source",
    required=True,
    metavar="S",
    help="A file, an image folder, a camera number, /dev/videoN, an rtsp://, http:// or udp:// URL, or "
    "synthetic://street?size=640x480&fps=25&seed=0.",
)
@click.option(
    "--sink",
    "sinks",
    multiple=True,
    default=("null",),
    show_default=True,
    metavar="K",
    help="video:FILE, images:DIR (overlays), masks:DIR (class indices) or null. May be repeated.",
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
        camera = open_source(source)
        stack.callback(camera.close)
        outlets = []
        for spec in sinks:
            outlets.append(open_sink(spec, contract=opened.contract, fps=camera.fps))
            stack.callback(outlets[-1].close)
        with stop_on_signals(stop), LiveLine() as live:
            summary = run_pipeline(
                camera, engine, opened.contract, outlets, max_frames=max_frames, stop=stop, on_frame=live
            )
        print_summary(summary, title=f"{opened.name} {engine.precision} on {redact(source)}")
        write_document(
            json_path,
            "run",
            **summary.document(),
            environment=environment(),
            bundle={"name": opened.name, "manifest_sha256": opened.manifest_sha256},
            precision=engine.precision,
            backend=engine.name,
            source=redact(source),
            sinks=list(sinks),
        )


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
    if summary.confusion and summary.confusion.miou is not None:
        console.print(f"mIoU {summary.confusion.miou:.1f} % against the source's own truth")
