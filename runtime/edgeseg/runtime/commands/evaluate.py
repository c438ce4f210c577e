"""`edgeseg evaluate`: score a network on a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from edgeseg.runtime import evaluate as scoring
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.commands.options import backend_option
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.dataset_bad_pairs import BadPairs
from edgeseg.runtime.environment import environment
from edgeseg.runtime.evaluation.flicker import measure_flicker
from edgeseg.runtime.evaluation.report import NO_CONFIDENCE, Report
from edgeseg.runtime.files import sha256_file


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenNetwork:
    """A network that is ready to be scored."""

    predictor: scoring.Predictor
    origin: dict[str, Any]
    """What a document says of it."""


@click.command(epilog="Example: edgeseg evaluate street my-dataset --split test --json scores.json")
@click.argument("network", metavar="BUNDLE|RUN")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", required=True, metavar="S", help="The split to score, as named in dataset.toml.")
@click.option("--precision", default="auto", show_default=True, help="Which of a bundle's graphs to score.")
@backend_option
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads for a bundle's inference.")
@click.option(
    "--video",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Measure flicker on this video too.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Draw the confusion matrix, the reliability diagram and the worst images into FOLDER.",
)
@json_option
def evaluate(
    network: str,
    dataset: Path,
    split: str,
    video: Path | None,
    out: Path | None,
    json_path: Path | None,
    **engine: Any,
) -> None:
    """Score a bundle, a shipped model or a training run on DATASET, at the labels' own resolution.

    IoU, boundary F-score, calibration, the worst images and, on a video, flicker: docs/evaluate.md says what each is.
    """
    loaded = load_dataset(dataset)
    pairs = loaded.pairs(split)
    with open_network(network, **engine) as opened:
        predictor = opened.predictor
        scoring.check_classes(predictor.contract, loaded)
        report = Report(predictor.contract, loaded)
        bad = BadPairs(len(pairs), report=lambda line: console.print(line, markup=False, soft_wrap=True))
        with progress(f"evaluating on {split}", len(pairs)) as advance:
            seen = scoring.predict_pairs(predictor, loaded, pairs, with_certainty=True, on_unreadable=bad.add)
            for prediction in seen:
                report.add(prediction)
                advance()
        flicker = None
        if video is not None:
            with progress(f"watching {video.name}") as advance:
                flicker = measure_flicker(predictor, video, advance=advance)
        title = f"{network} on {loaded.name}, {split}"
        _print_scores(report, flicker, title)
        write_document(
            json_path,
            "evaluate",
            **report.document(),
            **bad.document(),
            **({} if flicker is None else {"flicker": flicker}),
            split=split,
            dataset={"name": loaded.name, "digest": loaded.digest(split)},
            **opened.origin,
            environment=environment(),
        )
        if out is not None:
            named = report.draw(out, f"{Path(network).name} {opened.origin['precision']} on {loaded.name}, {split}")
            console.print(f"wrote {', '.join(map(str, named))}", markup=False, soft_wrap=True)


@contextmanager
def open_network(
    network: str, *, precision: str = "auto", threads: int | None = None, backend: str = "auto"
) -> Iterator[OpenNetwork]:
    """Open a run's folder or a bundle, and close it at the end. Raises what opening either raises."""
    run = Path(network)
    if scoring.is_run(run):
        if (precision, backend, threads) != ("auto", "auto", None):
            raise click.UsageError("--precision, --backend and --threads are for bundles; a training run has none")
        with closing(scoring.open_run(run)) as trained:
            checkpoint = sha256_file(run / scoring.CHECKPOINT)
            origin = {
                "run": {"name": run.resolve().name, "checkpoint_sha256": checkpoint},
                "precision": "fp32",
                "backend": "torch",
            }
            yield OpenNetwork(predictor=trained, origin=origin)
        return
    with (
        open_bundle(network) as bundle,
        scoring.open_bundle_predictor(bundle, precision=precision, threads=threads, backend=backend) as predictor,
    ):
        origin = {
            "bundle": {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256},
            "precision": predictor.backend.precision,
            "backend": predictor.backend.name,
        }
        yield OpenNetwork(predictor=predictor, origin=origin)


def _print_scores(report: Report, flicker: dict[str, Any] | None, title: str) -> None:
    matrix, outlines = report.matrix, report.boundary.per_class
    table = Table("class", "IoU %", "boundary F %", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, iou in matrix.per_class_iou.items():
        table.add_row(name, f"{iou:.1f}", f"{outlines[name]:.1f}" if name in outlines else "")
    console.print(table)
    if matrix.miou is None:
        console.print(f"no labelled pixel in {matrix.images} images: nothing to score")
    else:
        console.print(f"mIoU {matrix.miou:.2f} %, pixel accuracy {matrix.pixel_accuracy:.2f} %, {matrix.images} images")
    if report.boundary.mean is not None:
        reach = f"within {100 * report.boundary.tolerance:.2f} % of the diagonal"
        console.print(f"boundary F {report.boundary.mean:.2f} %, {reach}")
    if report.calibration is None:
        console.print(f"no calibration: {NO_CONFIDENCE}")
    elif report.calibration.error is not None:
        console.print(f"expected calibration error {report.calibration.error:.2f} %")
    if flicker is not None and "flicker" in flicker:
        console.print(f"flicker {flicker['flicker']:.3f} % of the pixels over {flicker['frames']} frames")
