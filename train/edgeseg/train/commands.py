"""`edgeseg train`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import torch

from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.dataset import Dataset, load_dataset
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import TrainError
from edgeseg.runtime.files import write_json
from edgeseg.train.borrowed import Start, load_start, load_teacher
from edgeseg.train.config import TrainConfig
from edgeseg.train.fitted import DecodedPairs, FittedPairs, open_pairs
from edgeseg.train.loop import Host, Watcher, contract_of, steps_of, train_run
from edgeseg.train.memory import keep_freed_memory
from edgeseg.train.options import recipe_options, run_options
from edgeseg.train.predict import open_run_predictor
from edgeseg.train.ranks import Ranks, choose_device, join_ranks
from edgeseg.train.report import draw_curves, draw_predictions
from edgeseg.train.run import CHECKPOINT_NAME, Checkpoint, LoadedRun
from edgeseg.train.samples import count_samples, enough_epochs


@click.command(epilog="Example: edgeseg train camvid --out runs/street --epochs 30")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the run.")
@recipe_options
@run_options
@json_option
def train(
    dataset: Path,
    out: Path,
    resume: bool,
    json_path: Path | None,
    teacher: Path | None,
    start_from: tuple[Path, ...],
    epochs: int | None,
    device: str,
    channels_last: bool,
    workers: int,
    cache: bool,
    **settings: Any,
) -> None:
    """Train a network on DATASET, a folder with a dataset.toml.

    Leaves in --out: checkpoint.pt (after every epoch, whole or not at all), metrics.json, curves.png and
    predictions.png. `edgeseg export` makes a bundle of it. Under torchrun, several processes train it together.
    """
    teaching = load_teacher(teacher) if teacher else None
    start = load_start(*start_from) if start_from else None
    if epochs is not None:
        settings["epochs"] = epochs
    config = TrainConfig.of(
        teacher=teaching.weights if teaching else None, start=start.weights if start else None, **settings
    )
    if not config.epochs and not start:
        raise TrainError(
            "no epochs, and nothing to begin with", expected="weights to make a run of", fix="add --start-from"
        )
    if (out / CHECKPOINT_NAME).exists() and not resume:
        raise TrainError(f"{out} holds a run", expected="a new folder", fix="add --resume, or choose another --out")
    loaded = load_dataset(dataset)
    if epochs is None:
        pairs_count = sum(len(loaded.pairs(split)) for split in config.splits)
        config = config.model_copy(update={"epochs": enough_epochs(pairs_count, config)})
    if start and not config.epochs and (start.scale, start.classes) != (config.scale, tuple(loaded.classes)):
        raise TrainError(
            "no epochs, and what it begins with is of another size or knows other classes",
            expected=f"--network as it was trained, and {', '.join(start.classes)}",
            fix="choose that --network and such a dataset, or train for some epochs",
        )
    keep_freed_memory()
    host = Host(device=choose_device(device), channels_last=channels_last, workers=workers)
    started = time.monotonic()
    with _stoppable(out) as asked, join_ranks(host.device) as ranks:
        pairs = _open_pairs(loaded, config, ranks, asked, cache=cache)
        checkpoint = _train(
            loaded, config, out, pairs, host, ranks, asked, resume=resume, teacher=teaching, start=start
        )
    if not ranks.leads:
        return
    fields = _metrics(checkpoint, host, ranks, time.monotonic() - started)
    write_json(out / "metrics.json", {"schema": "edgeseg/train/1", **fields})
    write_document(json_path, "train", **fields)
    draw_curves(checkpoint.history, out / "curves.png")
    with open_run_predictor(out) as predictor:
        draw_predictions(
            predictor.infer, loaded, config.select or config.splits[0], checkpoint.contract, out / "predictions.png"
        )
    console.print(f"wrote {out}: {CHECKPOINT_NAME}, metrics.json, curves.png, predictions.png")


def _open_pairs(
    dataset: Dataset, config: TrainConfig, ranks: Ranks, asked: Callable[[], bool], *, cache: bool
) -> FittedPairs:
    """Open the training splits; of a machine's processes the first makes the cache, and the others wait for it."""
    contract = contract_of(dataset, config)
    if not cache:
        return DecodedPairs(dataset, contract, config.splits)
    fills = os.environ.get("LOCAL_RANK", "0") == "0"
    if not fills:
        ranks.wait()
    total = sum(len(dataset.pairs(split)) for split in config.splits)
    with progress("reading pictures", total) if fills else nullcontext(_nothing) as advance:

        def on_pair() -> None:
            advance()
            if asked():
                raise KeyboardInterrupt

        say = console.print if ranks.leads else _nothing
        pairs = open_pairs(dataset, contract, config.splits, fill=fills, advance=on_pair, say=say)
    if fills:
        ranks.wait()
    return pairs


def _train(
    dataset: Dataset,
    config: TrainConfig,
    out: Path,
    pairs: FittedPairs,
    host: Host,
    ranks: Ranks,
    asked: Callable[[], bool],
    *,
    resume: bool,
    teacher: LoadedRun | None,
    start: Start | None,
) -> Checkpoint:
    """Train with a bar and a line for each epoch, in the leading process."""
    real = len(pairs.pairs)
    samples = count_samples(real, config)

    def on_epoch(row: dict[str, Any]) -> None:
        score = f"  mIoU {row['miou']:.2f} on {config.select}" if row.get("miou") is not None else ""
        console.print(f"epoch {row['epoch']:>3}/{config.epochs}  loss {row['loss']:.4f}{score}  {row['seconds']:.0f} s")

    if ranks.leads:
        processes = f", {ranks.count} processes" if ranks.count > 1 else ""
        console.print(
            f"{dataset.name}: {samples} samples ({samples - real} synthetic), {config.epochs} epochs, "
            f"{host.device.type}{processes}"
        )
        absent = [name for name, count in zip(dataset.classes, pairs.labels.tolist(), strict=False) if not count]
        if 0 < len(absent) < len(dataset.classes):
            line = f"no pixel of {', '.join(absent)} to learn from: see `edgeseg data check {dataset.folder}`"
            console.print(line, markup=False, soft_wrap=True)
    bar = progress("training", steps_of(real, config, start)) if ranks.leads else nullcontext(_nothing)
    with bar as advance:
        watcher = Watcher(on_batch=advance, on_epoch=on_epoch, on_unreadable=console.print, should_stop=asked)
        return train_run(
            dataset,
            config,
            out,
            pairs=pairs,
            host=host,
            ranks=ranks,
            resume=resume,
            teacher=teacher,
            start=start,
            watcher=watcher,
        )


@contextmanager
def _stoppable(out: Path) -> Iterator[Callable[[], bool]]:
    """Give what tells whether SIGINT or SIGTERM came; a second signal raises `KeyboardInterrupt` where it strikes.

    Raised wherever the first one strikes, it can be lost in a destructor, such as those of the data loader. The
    interrupt becomes a `TrainError` that says how to go on, in the leading process alone.
    """
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    except (KeyboardInterrupt, TrainError, RuntimeError) as error:
        # A signal to the whole group ends the data loader's processes too, of which PyTorch makes a RuntimeError.
        if not isinstance(error, KeyboardInterrupt) and not came:
            raise
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(1) from None
        whole = (out / CHECKPOINT_NAME).exists()
        raise TrainError(
            "interrupted" + (f"; the last whole epoch is in {out / CHECKPOINT_NAME}" if whole else ""),
            fix="go on with the same command and --resume" if whole else "start again",
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _metrics(checkpoint: Checkpoint, host: Host, ranks: Ranks, seconds: float) -> dict[str, Any]:
    last = checkpoint.history[-1] if checkpoint.history else {}
    device = torch.cuda.get_device_name(host.device) if host.device.type == "cuda" else "cpu"
    return {
        **{key: last[key] for key in ("miou", "per_class_iou", "pixel_accuracy") if key in last},
        "select": checkpoint.config.select,
        "history": checkpoint.history,
        "config": checkpoint.config.document(),
        "dataset": {"name": checkpoint.dataset, "digests": checkpoint.digests},
        "host": {"device": device, "processes": ranks.count, "workers": host.workers},
        "seconds": round(seconds, 1),
        "environment": environment(),
    }


def _nothing(*ignored: object) -> None:
    pass
