"""What the commands that hold a contest share."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from edgeseg.benchmarks.contest import Contest
from edgeseg.runtime.commands.common import console, write_document
from edgeseg.runtime.errors import EdgesegError

threads_option = click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Threads for inference."
)

duration_option = click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to measure, after the warm-up; twenty rounds at least.",
)


def print_contest(found: Contest) -> None:
    """Show each side's times, and the ratios with their intervals."""
    judged = any(side.agreement is not None for side in found.sides.values())
    table = Table("side", "p50 ms", "p90 ms", *(["same pixels"] if judged else []))
    for name, side in found.sides.items():
        agreement = [] if side.agreement is None else [f"{side.agreement:.3f} %"]
        table.add_row(name, f"{side.frame_ms.p50:.2f}", f"{side.frame_ms.p90:.2f}", *agreement)
    console.print(table)
    for ratio in found.ratios:
        interval = f"[{ratio.time.low:.3f}, {ratio.time.high:.3f}]"
        console.print(f"{ratio.of} over {ratio.over}: {ratio.time.value:.3f} {interval}", markup=False, soft_wrap=True)


def write_contest(path: Path | None, found: Contest) -> None:
    """Write the document, whole or not at all; do nothing for None."""
    fields = found.document()
    fields.pop("schema")
    write_document(path, "contest", **fields)


def run_standalone(command: click.Command) -> None:
    """Run a command that is not one of `edgeseg`'s own with its manners: a user's problem is one line and status 1."""
    try:
        command(standalone_mode=True)
    except EdgesegError as error:
        raise SystemExit(f"error: {error}") from error
