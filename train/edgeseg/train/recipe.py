"""What each part of the recipe is worth: trainings that differ in one setting, with the same seeds, one after another.

`python -m edgeseg.train.recipe camvid --split fit --select select --out recipe` leaves in `recipe` one run for each row
and seed, and after each of them `recipe.json` and `recipe.md`. Started again, it goes on where it was stopped. All rows
of one seed come before the next seed, so that the table is whole early.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from edgeseg.runtime.commands.common import console
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.errors import EdgesegError, TrainError
from edgeseg.runtime.files import write_bytes, write_json
from edgeseg.train.run import CHECKPOINT_NAME, load_run

BASELINE = "baseline"
ROWS: Mapping[str, tuple[str, ...]] = {
    BASELINE: (),
    "no Lovász loss": ("--lovasz", "0"),
    "no auxiliary loss": ("--auxiliary", "0"),
    "no class weights": ("--balance", "0"),
    "no crops over rare classes": ("--rare", "0"),
    "nothing pasted": ("--paste", "0"),
    "batches of 8": ("--batch", "8"),
    "batches of 2": ("--batch", "2"),
    "no averaged weights": ("--ema", "0"),
    "no colour changes": ("--colour", "0"),
    "no change of scale": ("--scale-min", "1", "--scale-max", "1"),
    "less enlarged": ("--scale-max", "1.6"),
    "whole pictures": ("--crop", "1"),
    "no offsets at the end": ("--no-offsets",),
    "half the crops degraded": ("--robust", "0.5"),
    "half the rate": ("--learning-rate", "2.5e-3"),
    "twice the rate": ("--learning-rate", "1e-2"),
    "twice the epochs": ("--epochs", "16", "--score-every", "16"),
    "no pretrained weights": ("--from-scratch",),
    "smaller input": ("--size", "384x288"),
    "larger input": ("--size", "640x480"),
}
"""Rows by name, with the flags in which each differs from the baseline."""


@click.command(
    epilog="Example: python -m edgeseg.train.recipe camvid --split fit --select select --out recipe --seed 0"
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the rows' runs."
)
@click.option("--split", "splits", multiple=True, default=("train",), show_default=True, help="Learn from it.")
@click.option("--select", default="val", show_default=True, help="Split to score on.")
@click.option("--epochs", type=click.IntRange(min=1), default=8, show_default=True, help="Of each row.")
@click.option("--network", default="nano", show_default=True, help="Its name or its file.")
@click.option(
    "--seed", "seeds", type=int, multiple=True, default=(0, 1), show_default=True, help="One run of each row."
)
@click.option("--row", "names", multiple=True, help="Only this row, beside the baseline; else all.  [repeatable]")
@click.option(
    "--teacher",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="RUN",
    help="A larger network that learned from the same splits: one more row.",
)
def recipe(
    dataset: Path,
    out: Path,
    splits: tuple[str, ...],
    select: str,
    epochs: int,
    network: str,
    seeds: tuple[int, ...],
    names: tuple[str, ...],
    teacher: Path | None,
) -> None:
    """Train DATASET once for each row and seed, and tell in OUT/recipe.md what each setting changes.

    Every row is scored on --select at its last epoch. A row is one `edgeseg train`, whose flags the table names.
    """
    rows = _choose_rows(names, _teach(dataset, splits, teacher))
    common = [
        *(word for split in splits for word in ("--split", split)),
        *("--select", select, "--epochs", str(epochs), "--score-every", str(epochs), "--network", network),
    ]
    _refuse_other(out, common)
    _stop_on_sigterm()
    for seed in seeds:
        for name, flags in rows.items():
            folder = out / "runs" / f"{name.replace(' ', '-')}-{seed}"
            if not (folder / "metrics.json").exists():
                _train(dataset, folder, [*common, *flags, "--seed", str(seed)])
            _write_table(out, common, rows, seeds)
            console.print(f"{name}, seed {seed}: {_read(folder)['miou']:.2f} mIoU")
    console.print(f"wrote {out / 'recipe.md'}")


def _choose_rows(names: Sequence[str], teaching: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    rows = dict(ROWS) | ({"a teacher": teaching} if teaching else {})
    if unknown := [name for name in names if name not in rows]:
        raise TrainError(f"no row {unknown[0]!r}", expected=f"one of {', '.join(rows)}", fix="choose another --row")
    return {name: flags for name, flags in rows.items() if not names or name in (BASELINE, *names)}


def _teach(dataset: Path, splits: tuple[str, ...], teacher: Path | None) -> tuple[str, ...]:
    """Return the teacher's flags. Raises `TrainError` where it saw other data: what it saw of --select would count."""
    if teacher is None:
        return ()
    data = load_dataset(dataset)
    seen = set(load_run(teacher).metadata["digests"].values())
    if not seen <= {data.digest(split) for split in splits}:
        raise TrainError(
            f"{teacher} learned from other pictures",
            expected=f"a teacher that learned from {', '.join(splits)} alone",
            fix=f"train one with `edgeseg train {dataset} --network medium "
            + " ".join(f"--split {split}" for split in splits)
            + " --out RUN`",
        )
    return ("--teacher", str(teacher))


def _refuse_other(out: Path, common: Sequence[str]) -> None:
    """Raise `TrainError` where `out` holds rows of other settings."""
    path = out / "recipe.json"
    if path.exists() and (found := json.loads(path.read_bytes())["common"]) != list(common):
        raise TrainError(
            f"{out} holds rows of {' '.join(found)}", expected=" ".join(common), fix="choose another --out"
        )


def _train(dataset: Path, folder: Path, flags: Sequence[str]) -> None:
    """Train to the end, from the checkpoint that a stopped run left, if any. Raises `TrainError` where that fails."""
    resume = ["--resume"] if (folder / CHECKPOINT_NAME).exists() else []
    command = [sys.executable, "-m", "edgeseg.runtime", "train", str(dataset), "--out", str(folder), *flags, *resume]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, errors = process.communicate()
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        lines = errors.strip().splitlines() or [f"exit status {process.returncode}"]
        raise TrainError(f"{folder.name}: {lines[-1].removeprefix('error: ')}", fix="mend that, and start again")


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_bytes())
    return found


def _write_table(out: Path, common: Sequence[str], rows: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> None:
    """Write `recipe.json` and `recipe.md` of the runs that are done."""
    done: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in rows}
    for name in rows:
        for seed in seeds:
            folder = out / "runs" / f"{name.replace(' ', '-')}-{seed}"
            if (folder / "metrics.json").exists():
                done[name][seed] = _read(folder)
    base = {seed: run["miou"] for seed, run in done[BASELINE].items()}
    lines = ["| row | flags | mIoU of each seed | against the baseline | seconds a run |", "|---|---|---|---|---|"]
    document = []
    for name, runs in done.items():
        if not runs:
            continue
        gains = [run["miou"] - base[seed] for seed, run in runs.items() if seed in base]
        gain = f"{sum(gains) / len(gains):+.2f}" if gains and name != BASELINE else ""
        seconds = sum(run["seconds"] for run in runs.values()) / len(runs)
        scores = ", ".join(f"{run['miou']:.2f}" for run in runs.values())
        flags = " ".join("RUN" if Path(word).is_dir() else word for word in rows[name])
        lines.append(f"| {name} | {f'`{flags}`' if flags else ''} | {scores} | {gain} | {seconds:.0f} |")
        kept = ("miou", "per_class_iou", "pixel_accuracy", "seconds")
        scored = {str(seed): {key: run[key] for key in kept if key in run} for seed, run in runs.items()}
        document.append({"row": name, "flags": flags, "seeds": scored})
    write_bytes(out / "recipe.md", "\n".join([*lines, ""]).encode())
    write_json(out / "recipe.json", {"schema": "edgeseg/recipe/1", "common": list(common), "rows": document})


def _stop_on_sigterm() -> None:
    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


if __name__ == "__main__":
    try:
        recipe()
    except EdgesegError as error:
        raise SystemExit(f"error: {error}") from error
