"""`edgeseg accept`: one page that tells whether a bundle works on this device, line by line."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from edgeseg.runtime.accept.checks import plan_steps, run_steps
from edgeseg.runtime.accept.line import Line
from edgeseg.runtime.accept.page import count_outcomes, describe, write_page
from edgeseg.runtime.accept.subject import find_subject
from edgeseg.runtime.accept.trial import Scored, Trial
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.commands.options import objectives_option
from edgeseg.runtime.commands.show import LiveLine
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.errors import EdgesegError
from edgeseg.runtime.evaluate import check_classes
from edgeseg.runtime.objective import Objective

_COLOURS = {"pass": "green", "fail": "red", "not run": "cyan"}


@click.command(epilog="Example: edgeseg accept street --html accept.html --json accept.json")
@click.argument("bundle")
@click.option("--data", type=click.Path(path_type=Path), metavar="DATASET", help="Labelled images to score.")
@click.option("--split", metavar="S", help="The split of --data, as named in dataset.toml.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="PAGE", help="Where the page goes.")
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the live camera runs.",
)
@objectives_option("What the live camera must meet")
@click.option(
    "--backend",
    type=click.Choice(["auto", "ort", "tensorrt"]),
    default="auto",
    show_default=True,
    help="What to look at: TensorRT where it is installed.",
)
@json_option
def accept(
    bundle: str,
    data: Path | None,
    split: str | None,
    html: Path | None,
    duration_s: float,
    objectives: tuple[Objective, ...],
    backend: str,
    json_path: Path | None,
) -> None:
    """Look at everything that BUNDLE needs of this device, and write one page for a bug report.

    Exit status 0 when every line that could be run passed, 1 when one failed. What is there of the page is written
    after every line, in case the device does not live to the end.
    """
    if (data is None) != (split is None):
        raise click.UsageError("--data and --split go together")
    with open_bundle(bundle) as opened, ExitStack() as stack:
        scored, images = None, 0
        if data is not None and split is not None:
            scored = Scored(dataset=load_dataset(data), split=split)
            check_classes(opened.contract, scored.dataset)
            images = len(scored.dataset.pairs(split))
        subject = find_subject(backend)
        console.print(subject.sentence, soft_wrap=True, markup=False)
        live = stack.enter_context(LiveLine())
        trial = Trial(
            subject=subject,
            bundle=opened,
            duration_s=duration_s,
            objectives=objectives,
            scored=scored,
            on_frame=live,
            progress=lambda: progress("scoring", images),
        )
        teller = _Teller(trial, html, json_path)
        lines = run_steps(plan_steps(trial, stack), tell=teller)
    _conclude(lines, html)


class _Teller:
    """Shows each line as it comes, and writes what there is so far."""

    def __init__(self, trial: Trial, html: Path | None, json_path: Path | None) -> None:
        self._trial, self._html, self._json_path = trial, html, json_path
        self._shown = 0

    def __call__(self, lines: list[Line], done: int) -> None:
        for line in lines[self._shown : done]:
            _show(line)
        self._shown = done
        document: dict[str, Any] = describe(self._trial, lines)
        write_document(self._json_path, "accept", **document)
        if self._html is not None:
            write_page(self._html, document)


def _show(line: Line) -> None:
    verdict = line.verdict
    text = Text.assemble((f"{verdict.outcome:8}", _COLOURS[verdict.outcome]), (line.name, "bold"), f": {verdict.found}")
    if verdict.fix:
        text.append(f"; fix: {verdict.fix}")
    console.print(text, soft_wrap=True)


def _conclude(lines: list[Line], html: Path | None) -> None:
    outcomes = count_outcomes(lines)
    console.print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    broken = [line.name for line in lines if line.verdict.outcome == "fail"]
    if broken:
        fix = f"attach {html} to a bug report" if html is not None else "--html PAGE gives a page for a bug report"
        raise EdgesegError(f"{len(broken)} of {len(lines)} lines failed: {', '.join(broken)}", fix=fix)
