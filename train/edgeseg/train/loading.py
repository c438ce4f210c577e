"""What samples cost, decoded anew and from the cache: processor time of one thread, measured in turns.

`python -m edgeseg.train.loading camvid --split fit --json loading.json`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import click
import cv2

from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import EdgesegError
from edgeseg.train.config import TrainConfig
from edgeseg.train.fitted import DecodedPairs, open_pairs
from edgeseg.train.loop import contract_of
from edgeseg.train.samples import Key, TrainingSamples

TURN = 8
"""Samples of a turn."""


@click.command(epilog="Example: python -m edgeseg.train.loading camvid --split fit --json loading.json")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", "splits", multiple=True, default=("train",), show_default=True, help="Whose samples.")
@click.option("--rounds", type=click.IntRange(min=5), default=40, show_default=True, help="Turns of each side.")
@json_option
def loading(dataset: Path, splits: tuple[str, ...], rounds: int, json_path: Path | None) -> None:
    """Time the samples of DATASET with and without the cache, and the reading that the cache saves."""
    cv2.setNumThreads(1)
    data, config = load_dataset(dataset), TrainConfig(splits=splits)
    contract = contract_of(data, config)
    decoded, cached = DecodedPairs(data, contract, splits), open_pairs(data, contract, splits, say=console.print)
    found = time_in_turns(
        {
            "read, decoded": decoded.read,
            "read, cached": cached.read,
            "sample, decoded": _sampling(TrainingSamples(decoded, contract, config)),
            "sample, cached": _sampling(TrainingSamples(cached, contract, config)),
        },
        count=len(decoded.pairs),
        rounds=rounds,
    )
    ratios = {
        f"{what}: decoded over cached": median(
            one / other for one, other in zip(found[f"{what}, decoded"], found[f"{what}, cached"], strict=True)
        )
        for what in ("read", "sample")
    }
    seconds = {name: median(turns) / TURN for name, turns in found.items()}
    for name, value in seconds.items():
        console.print(f"{name}: {1e3 * value:.2f} ms, {1 / value:.0f} a second")
    for name, value in ratios.items():
        console.print(f"{name}: {value:.2f}")
    write_document(json_path, "loading", sample_seconds=seconds, ratios=ratios, environment=environment())


def _sampling(samples: TrainingSamples) -> Callable[[int], object]:
    return lambda number: samples[Key(0, number)]


def time_in_turns(sides: Mapping[str, Callable[[int], object]], *, count: int, rounds: int) -> dict[str, list[float]]:
    """Return each side's processor seconds for a turn, round by round: `TURN` numbers below `count`, the same for all.

    What slows the machine meets all sides; one round is left out first.
    """
    numbers = cycle(range(count))
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        turn = list(islice(numbers, TURN))
        for name, make in sides.items():
            began = time.process_time()
            for number in turn:
                make(number)
            found[name].append(time.process_time() - began)
    return {name: turns[1:] for name, turns in found.items()}


if __name__ == "__main__":
    try:
        loading()
    except EdgesegError as error:
        raise SystemExit(f"error: {error}") from error
