"""`edgeseg run`: a bundle on a camera, a stream or a file, with a live line and a closing summary."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click

from edgeseg.runtime.awaited import any_present
from edgeseg.runtime.backends import Backend, open_backend
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.commands.common import json_option, write_document
from edgeseg.runtime.commands.open_cameras import open_cameras, open_sources, open_supervised
from edgeseg.runtime.commands.options import backend_option, objectives_option, threads_option
from edgeseg.runtime.commands.show import LiveLine, print_summary
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import SinkError, SourceError
from edgeseg.runtime.frame import Result
from edgeseg.runtime.health.hard_frames import HardFrames
from edgeseg.runtime.health.reference import find_reference
from edgeseg.runtime.health.store import FrameStore
from edgeseg.runtime.liveness import open_liveness
from edgeseg.runtime.objective import Objective, require
from edgeseg.runtime.pipeline import Stop, run_cameras
from edgeseg.runtime.profile import Profile, check_folder
from edgeseg.runtime.sources import redact
from edgeseg.runtime.summary import RunRecorder, RunSummary
from edgeseg.runtime.telemetry import Sampler

__all__ = [
    "LiveLine",
    "describe_run",
    "open_supervised",
    "print_summary",
    "raise_failed_sinks",
    "run",
    "stop_on_signals",
]


@click.command(epilog="Example: edgeseg run street --source drive.mp4 --sink video:masked.mp4")
@click.argument("bundle")
@click.option(
    "--source",
    "sources",
    required=True,
    multiple=True,
    metavar="S",
    help="A file, an image folder, a camera number, /dev/videoN, csi://0?size=1280x720&fps=30, an rtsp://, http:// or "
    "udp:// URL, gst:PIPELINE that ends in an appsink, or synthetic://street?size=640x480&fps=25&seed=0. "
    "May be repeated: cameras take turns.",
)
@click.option(
    "--sink",
    "sinks",
    multiple=True,
    default=("null",),
    show_default=True,
    metavar="K",
    help="video:FILE or images:DIR (overlays), masks:DIR (class indices), jsonl:FILE (records), window or null. "
    "May be repeated. Of several cameras each has its own, {camera} standing for its name.",
)
@click.option(
    "--fault", metavar="F", help="Faults for the first source, a live one: stall:5@10,freeze:2@20,resize@30,..."
)
@objectives_option("What the run must meet, else exit status 1")
@click.option(
    "--hard-frames",
    "hard_folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep frames on which the masks behave unusually, as a dataset to label.",
)
@click.option(
    "--hard-frames-max",
    "hard_bytes",
    default="200MB",
    show_default=True,
    metavar="SIZE",
    callback=lambda _context, _option, text: parse_bytes(text),
    help="Bytes that DIR may have; the oldest go.",
)
@click.option("--max-frames", type=click.IntRange(min=1), metavar="N", help="End when N frames reached the sinks.")
@click.option("--precision", default="auto", show_default=True, help="Which of the bundle's graphs to run.")
@backend_option
@threads_option
@click.option(
    "--profile",
    "profile_path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also tell where the time goes, by stage and by operator or layer, and write a Perfetto trace to DIR.",
)
@json_option
def run(
    bundle: str,
    sources: tuple[str, ...],
    sinks: tuple[str, ...],
    fault: str | None,
    objectives: tuple[Objective, ...],
    hard_folder: Path | None,
    hard_bytes: int,
    max_frames: int | None,
    precision: str,
    backend: str,
    threads: int | None,
    profile_path: Path | None,
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
        profile = None
        if profile_path is not None:
            check_folder(profile_path)
            profile = Profile(opened, engine, threads=threads)
            engine = profile.backend
            stack.callback(engine.close)
        liveness = open_liveness(opened, engine, partial(any_present, sources))
        white_level = opened.contract.white_level
        opened_sources = open_sources(sources, fault, patient=liveness is not None, white_level=white_level)
        for source in opened_sources:
            stack.callback(source.close)
        cameras, shared = open_cameras(sources, opened_sources, sinks, opened.contract, stack)
        hard = open_hard_frames(hard_folder, hard_bytes, opened, engine) if hard_folder is not None else None
        mark = None
        if profile is not None:
            cameras = [replace(camera, sinks=profile.watch(camera.sinks)) for camera in cameras]
            mark = profile.trace.mark
        with stop_on_signals(stop), LiveLine() as live, Sampler() as sampler:

            def observe(result: Result, recorder: RunRecorder) -> None:
                live(result, recorder)
                if hard is not None:
                    camera = recorder.cameras[result.camera]
                    hard.consider(result, camera.health.latest, camera.name)

            summary = run_cameras(
                cameras,
                engine,
                opened.contract,
                shared,
                reference=find_reference(opened),
                max_frames=max_frames,
                stop=stop,
                on_frame=observe,
                on_pulse=liveness,
                mark=mark,
            )
        print_summary(summary, title=f"{opened.name} {engine.precision} on {', '.join(map(redact, sources))}")
        if told := sampler.describe(frames=summary.frames):
            click.echo(told)
        write_document(
            json_path,
            "run",
            **describe_run(summary, opened, engine, *sources),
            **sampler.document(frames=summary.frames),
            **({} if hard is None else {"hard_frames": hard.document()}),
        )
        if profile is not None and profile_path is not None:
            profile.write(profile_path)
        raise_failed_sinks(summary)
        require(objectives, summary)


def open_hard_frames(folder: Path, max_bytes: int, bundle: Bundle, engine: Backend) -> HardFrames:
    """Return what keeps hard frames in `folder`. Raises `SinkError` if it cannot be used."""
    store = FrameStore(folder, max_bytes=max_bytes, contract=bundle.contract)
    facts = {"bundle": bundle.name, "manifest_sha256": bundle.manifest_sha256, "precision": engine.precision}
    return HardFrames(store, facts)


def parse_bytes(text: str) -> int:
    """Read `200MB`, `500kB` or `1.5GB` (decimal) into bytes. Raises `click.BadParameter` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG])B", text.strip())
    if not match or float(match[1]) <= 0:
        raise click.BadParameter(f"{text!r}: expected a size such as 200MB, 500kB or 1.5GB")
    return int(float(match[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[match[2]])


def describe_run(summary: RunSummary, bundle: Bundle, engine: Backend, *sources: str) -> dict[str, Any]:
    """Return the fields of a run's document: its figures, and what gave them on which machine. No credentials."""
    return {
        **summary.document(),
        "environment": environment(),
        "bundle": {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256},
        "precision": engine.precision,
        "backend": engine.name,
        "source": ", ".join(map(redact, sources)),
    }


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


def raise_failed_sinks(summary: RunSummary) -> None:
    """Raise `SinkError` or `SourceError` if a sink or a camera failed on the way: a live run went on without it, but
    its output is not whole.
    """
    failed = [f"{sink.sink} ({sink.error})" for sink in summary.sinks if sink.error]
    if failed:
        raise SinkError(
            f"the run went on without {', '.join(failed)}", fix="see that they can be written, and run again"
        )
    gone = [f"{camera.camera} ({camera.error})" for camera in summary.cameras if camera.error]
    if gone:
        raise SourceError(f"the run went on without {', '.join(gone)}", fix="see to the camera, and run again")
