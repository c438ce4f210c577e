"""What a person sees of a run: one line while it goes on, and the closing summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgeseg.runtime.commands.common import console
from edgeseg.runtime.frame import Result
from edgeseg.runtime.health.monitor import Health
from edgeseg.runtime.summary import RunRecorder, RunSummary


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
        kinds = summary.fault_counts or Counter(fault.kind for fault in summary.faults)
        worst_ms = max((fault.recovery_ms or 0.0 for fault in summary.faults), default=0.0)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        console.print(f"faults survived: {told}, the longest for {worst_ms / 1000:.1f} s")
    for sink in summary.sinks:
        if sink.dropped or sink.error:
            why = f": {sink.error}" if sink.error else ""
            console.print(f"{sink.sink} took {sink.frames} and dropped {sink.dropped}{why}", markup=False)
    if summary.confusion and summary.confusion.miou is not None:
        console.print(f"mIoU {summary.confusion.miou:.1f} % against the source's own truth")
    if len(summary.cameras) > 1:
        console.print(_camera_table(summary.cameras))
    elif summary.health is not None:
        console.print(health_text(summary.health))


def health_text(health: Health) -> str:
    """Return one line: how much the masks changed and flickered of late, and how far their areas are from usual."""
    parts = []
    if health.changed is not None:
        parts.append(f"{health.changed:.2f} % of pixels change class from mask to mask")
    if health.flicker is not None:
        parts.append(f"{health.flicker:.2f} % flicker")
    if health.unsure is not None:
        parts.append(f"{health.unsure:.2f} % are unsure")
    if health.area_drift is not None:
        parts.append(f"class areas {health.area_drift:.3f} bits from the {health.area_reference}")
    return ", ".join(parts) if parts else "too few masks to tell how they are"


def _camera_table(cameras: Sequence[RunSummary]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("", "frames", "dropped", "fps", "age p50", "p99", "faults", "flicker", "drift"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for one in cameras:
        ages = one.frame_age_ms or {}
        health = one.health
        table.add_row(
            one.camera,
            str(one.frames),
            str(one.dropped),
            _figure(one.fps, ".1f"),
            _figure(ages.get("p50"), ".1f"),
            _figure(ages.get("p99"), ".1f"),
            str(sum((one.fault_counts or {}).values())),
            _figure(None if health is None else health.flicker, ".2f"),
            _figure(None if health is None else health.area_drift, ".3f"),
        )
    return table


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
