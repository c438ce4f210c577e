"""`edgeseg demo`: a shipped network at work, with nothing to fetch, plug in or configure."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.commands.run import LiveLine, describe_run, open_supervised, print_summary, stop_on_signals
from edgeseg.runtime.contact_sheet import ContactSheet
from edgeseg.runtime.frame import Result
from edgeseg.runtime.pipeline import Stop, run_pipeline
from edgeseg.runtime.sources import redact
from edgeseg.runtime.summary import RunRecorder, RunSummary
from edgeseg.runtime.telemetry import Sampler

SHEET_NAME = "edgeseg-demo.png"

_SELF_TEST = (
    "This is a self-test: the shipped networks were trained on frames of this camera too, so the figure says that "
    "every part works together, not how well the network reads a real street."
)


@click.command(epilog="Example: edgeseg demo --source drive.mp4 --seconds 20")
@click.option("--bundle", default="street", show_default=True, help="A path or a shipped model's name.")
@click.option(
    "--source",
    default="synthetic://street?fps=10",  # drawing a frame shares the cores with the network
    show_default=True,
    metavar="S",
    help="Any source that `edgeseg run` takes: a clip, a camera number, a URL.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=8.0,
    show_default=True,
    help="How long, unless the source ends first.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help=f"Where {SHEET_NAME} goes.  [default: the current folder]",
)
@json_option
def demo(bundle: str, source: str, seconds: float, folder: Path, json_path: Path | None) -> None:
    """Run a shipped network for a few seconds on the built-in street camera, or on yours.

    Shows a live line, closes with a summary, and writes a picture of what the network saw.
    """
    stop = Stop()
    with open_bundle(bundle) as opened, ExitStack() as stack:
        engine = open_backend(opened)
        stack.callback(engine.close)
        camera = open_supervised(source)
        stack.callback(camera.close)
        sheet = ContactSheet(opened.contract)
        with stop_on_signals(stop), LiveLine() as live, Sampler() as sampler:
            clock = _StopAfter(seconds, stop)

            def observe(result: Result, recorder: RunRecorder) -> None:
                live(result, recorder)
                clock(result)

            summary = run_pipeline(camera, engine, opened.contract, [sheet], stop=stop, on_frame=observe)
        title = f"{opened.name} {engine.precision} on {redact(source)}"
        print_summary(summary, title=title)
        if told := sampler.describe(frames=summary.frames):
            console.print(told, soft_wrap=True)
        if summary.confusion:
            console.print(_SELF_TEST)
        sheet_path = folder / SHEET_NAME
        sheet.save(sheet_path, title=title, facts=_facts(summary))
        console.print(f"contact sheet: {sheet_path}", markup=False, soft_wrap=True)
        write_document(
            json_path,
            "demo",
            **describe_run(summary, opened, engine, source),
            **sampler.document(frames=summary.frames),
            contact_sheet=str(sheet_path),
        )


class _StopAfter:
    """Sets `stop` once results span `seconds`, so that neither loading nor warming up counts."""

    def __init__(self, seconds: float, stop: Stop) -> None:
        self._seconds, self._stop = seconds, stop
        self._first_ns: int | None = None

    def __call__(self, result: Result) -> None:
        if self._first_ns is None:
            self._first_ns = result.masked_ns
        if result.masked_ns - self._first_ns >= self._seconds * 1e9:
            self._stop.set()


def _facts(summary: RunSummary) -> list[str]:
    """The sheet's line of figures; those that are not known are left out."""
    facts = [f"{summary.frames} frames"]
    if summary.fps is not None:
        facts.append(f"{summary.fps:.1f} fps")
    if summary.frame_age_ms and summary.inference_ms:
        facts.append(f"frame age {summary.frame_age_ms['p50']:.0f} ms")
        facts.append(f"inference {summary.inference_ms['p50']:.0f} ms")
    if summary.confusion and summary.confusion.miou is not None:
        facts.append(f"mIoU {summary.confusion.miou:.1f}% (self-test: trained on such frames too)")
    return facts
