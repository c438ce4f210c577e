"""`edgeseg train`."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import TrainError
from edgeseg.runtime.files import write_json
from edgeseg.train.config import TrainConfig
from edgeseg.train.loop import steps_of, train_run
from edgeseg.train.network import SIZES
from edgeseg.train.predict import open_run_predictor
from edgeseg.train.report import draw_curves, draw_predictions
from edgeseg.train.run import CHECKPOINT_NAME, Checkpoint, load_run

_DEFAULTS = TrainConfig()


@click.command(epilog="Example: edgeseg train camvid --out runs/street --epochs 30")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the run.")
@click.option("--split", "splits", multiple=True, default=_DEFAULTS.splits, show_default=True, help="Learn from it.")
@click.option("--select", default=_DEFAULTS.select, show_default=True, help="Split to score on; `none` for none.")
@click.option("--epochs", type=int, default=_DEFAULTS.epochs, show_default=True, help="Passes over the data.")
@click.option("--batch", type=int, default=_DEFAULTS.batch, show_default=True, help="Images a step.")
@click.option(
    "--network",
    type=click.Choice(list(SIZES)),
    default=_DEFAULTS.network,
    show_default=True,
    help="How large a network.",
)
@click.option("--size", default=f"{_DEFAULTS.width}x{_DEFAULTS.height}", show_default=True, help="Input, WIDTHxHEIGHT.")
@click.option(
    "--fit",
    type=click.Choice(["stretch", "letterbox", "crop"]),
    default=_DEFAULTS.fit,
    show_default=True,
    help="How frames of another shape are brought to the input.",
)
@click.option("--learning-rate", type=float, default=_DEFAULTS.learning_rate, show_default=True, help="At its peak.")
@click.option("--lovasz", type=float, default=_DEFAULTS.lovasz, show_default=True, help="Weight of the Lovász loss.")
@click.option(
    "--teacher",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="RUN",
    help="Learn from this larger network's chances too.",
)
@click.option(
    "--distillation", type=float, default=_DEFAULTS.distillation, show_default=True, help="How much of --teacher."
)
@click.option("--auxiliary", type=float, default=_DEFAULTS.auxiliary, show_default=True, help="Weight of its loss.")
@click.option("--rare", type=float, default=_DEFAULTS.rare, show_default=True, help="Share of crops over rare classes.")
@click.option("--ema", type=float, default=_DEFAULTS.ema, show_default=True, help="Decay of the averaged weights.")
@click.option("--seed", type=int, default=_DEFAULTS.seed, show_default=True, help="Of weights, order, augmentation.")
@click.option(
    "--synthetic", type=float, default=_DEFAULTS.synthetic, show_default=True, help="Street camera frames per image."
)
@click.option("--score-every", type=int, default=_DEFAULTS.score_every, show_default=True, help="In epochs.")
@click.option(
    "--pretrained/--from-scratch", default=_DEFAULTS.pretrained, show_default=True, help="Begin with ImageNet weights."
)
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@json_option
def train(
    dataset: Path,
    out: Path,
    resume: bool,
    json_path: Path | None,
    size: str,
    select: str,
    teacher: Path | None,
    **flags: Any,
) -> None:
    """Train a network on DATASET, a folder with a dataset.toml.

    Leaves in --out: checkpoint.pt (after every epoch, whole or not at all), metrics.json, curves.png and
    predictions.png. `edgeseg export` makes a bundle of it.
    """
    height, width = _parse_size(size)
    teaching = load_run(teacher) if teacher else None
    config = TrainConfig.of(
        height=height,
        width=width,
        select=None if select == "none" else select,
        teacher=teaching.weights if teaching else None,
        **flags,
    )
    if (out / CHECKPOINT_NAME).exists() and not resume:
        raise TrainError(f"{out} holds a run", expected="a new folder", fix="add --resume, or choose another --out")
    loaded = load_dataset(dataset)
    images = sum(len(loaded.pairs(split)) for split in config.splits)
    samples = images + round(images * config.synthetic)
    console.print(f"{loaded.name}: {samples} samples ({samples - images} synthetic), {config.epochs} epochs")
    started = time.monotonic()

    def on_epoch(row: dict[str, Any]) -> None:
        score = f"  mIoU {row['miou']:.2f} on {config.select}" if row.get("miou") is not None else ""
        console.print(f"epoch {row['epoch']:>3}/{config.epochs}  loss {row['loss']:.4f}{score}  {row['seconds']:.0f} s")

    try:
        with progress("training", steps_of(loaded, config)) as advance, _stoppable() as stop_if_asked:

            def on_batch() -> None:
                advance()
                stop_if_asked()

            checkpoint = train_run(
                loaded, config, out, resume=resume, teacher=teaching, on_batch=on_batch, on_epoch=on_epoch
            )
    except KeyboardInterrupt:
        whole = (out / CHECKPOINT_NAME).exists()
        raise TrainError(
            "interrupted" + (f"; the last whole epoch is in {out / CHECKPOINT_NAME}" if whole else ""),
            fix="go on with the same command and --resume" if whole else "start again",
        ) from None
    fields = _metrics(checkpoint, time.monotonic() - started)
    write_json(out / "metrics.json", {"schema": "edgeseg/train/1", **fields})
    write_document(json_path, "train", **fields)
    draw_curves(checkpoint.history, out / "curves.png")
    with open_run_predictor(out) as predictor:
        draw_predictions(
            predictor.infer, loaded, config.select or config.splits[0], checkpoint.contract, out / "predictions.png"
        )
    console.print(f"wrote {out}: {CHECKPOINT_NAME}, metrics.json, curves.png, predictions.png")


@contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """Give what raises `KeyboardInterrupt` once SIGINT or SIGTERM came; a second signal raises where it strikes.

    Raised wherever the first one strikes, it can be lost in a destructor, such as those of the data loader.
    """
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    def stop_if_asked() -> None:
        if came:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_if_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _metrics(checkpoint: Checkpoint, seconds: float) -> dict[str, Any]:
    last = checkpoint.history[-1]
    return {
        **{key: last[key] for key in ("miou", "per_class_iou", "pixel_accuracy") if key in last},
        "select": checkpoint.config.select,
        "history": checkpoint.history,
        "config": checkpoint.config.document(),
        "dataset": {"name": checkpoint.dataset, "digests": checkpoint.digests},
        "seconds": round(seconds, 1),
        "environment": environment(),
    }


def _parse_size(size: str) -> tuple[int, int]:
    """`512x384` → (384, 512)."""
    try:
        width, height = (int(part) for part in size.lower().split("x"))
    except ValueError:
        raise click.BadParameter(f"{size!r} is not WIDTHxHEIGHT, like 512x384", param_hint="--size") from None
    return height, width
