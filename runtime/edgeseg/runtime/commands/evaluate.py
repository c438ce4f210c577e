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
from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.environment import environment
from edgeseg.runtime.files import sha256_file


@dataclass(frozen=True, kw_only=True, slots=True)
class _Network:
    predictor: scoring.Predictor
    origin: dict[str, Any]
    """What the document says of it."""


@click.command(epilog="Example: edgeseg evaluate street my-dataset --split test --json scores.json")
@click.argument("network", metavar="BUNDLE|RUN")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", required=True, metavar="S", help="The split to score, as named in dataset.toml.")
@click.option("--precision", default="auto", show_default=True, help="Which of a bundle's graphs to score.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads for a bundle's inference.")
@json_option
def evaluate(
    network: str, dataset: Path, split: str, precision: str, threads: int | None, json_path: Path | None
) -> None:
    """Score a bundle, a shipped model or a training run on DATASET, at the labels' own resolution."""
    loaded = load_dataset(dataset)
    total = len(loaded.pairs(split))
    with _open_network(network, precision, threads) as opened:
        scoring.check_classes(opened.predictor.contract, loaded)
        with progress(f"evaluating on {split}", total) as advance:
            matrix = scoring.evaluate(opened.predictor, loaded, split, advance=advance)
        _print_scores(matrix, f"{network} on {loaded.name}, {split}")
        write_document(
            json_path,
            "evaluate",
            **matrix.document(),
            split=split,
            dataset={"name": loaded.name, "digest": loaded.digest(split)},
            **opened.origin,
            environment=environment(),
        )


@contextmanager
def _open_network(network: str, precision: str, threads: int | None) -> Iterator[_Network]:
    run = Path(network)
    if scoring.is_run(run):
        if precision != "auto" or threads is not None:
            raise click.UsageError("--precision and --threads are for bundles; a training run has neither")
        with closing(scoring.open_run(run)) as trained:
            checkpoint = sha256_file(run / scoring.CHECKPOINT)
            origin = {
                "run": {"name": run.resolve().name, "checkpoint_sha256": checkpoint},
                "precision": "fp32",
                "backend": "torch",
            }
            yield _Network(predictor=trained, origin=origin)
        return
    with (
        open_bundle(network) as bundle,
        scoring.open_bundle_predictor(bundle, precision=precision, threads=threads) as predictor,
    ):
        origin = {
            "bundle": {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256},
            "precision": predictor.backend.precision,
            "backend": predictor.backend.name,
        }
        yield _Network(predictor=predictor, origin=origin)


def _print_scores(matrix: ConfusionMatrix, title: str) -> None:
    table = Table("class", "IoU %", title=title)
    table.columns[1].justify = "right"
    for name, iou in matrix.per_class_iou.items():
        table.add_row(name, f"{iou:.1f}")
    console.print(table)
    if matrix.miou is None:
        console.print(f"no labelled pixel in {matrix.images} images: nothing to score")
    else:
        console.print(f"mIoU {matrix.miou:.2f} %, pixel accuracy {matrix.pixel_accuracy:.2f} %, {matrix.images} images")
