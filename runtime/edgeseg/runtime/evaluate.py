"""Score a network on a dataset, at the labels' own resolution and through the device's own fitting."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np

from edgeseg.runtime.backends import Backend, open_backend
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.dataset import Dataset, Pair
from edgeseg.runtime.errors import DatasetError, EdgesegError, UnreadablePairError
from edgeseg.runtime.frame import Confidence, Image, Mask

_Item = TypeVar("_Item")

CHECKPOINT = "checkpoint.pt"
"""The file that makes a folder a training run."""


class Predictor(Protocol):
    """What can be scored: an engine and the contract it keeps."""

    @property
    def contract(self) -> Contract: ...

    def infer(self, fitted: Image, /) -> Mask:
        """(1, H, W, 3) uint8 of the contract's size to (1, H, W) uint8, which the next call may overwrite."""


class ClosablePredictor(Predictor, Protocol):
    """A predictor that holds something until it is closed."""

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BundlePredictor:
    """A bundle's graph on a backend."""

    contract: Contract
    backend: Backend

    def infer(self, fitted: Image, /) -> Mask:
        return self.backend.infer(fitted)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Certainty:
    """How sure a network was, where it tells: once for each cell of a few pixels of its input.

    All three are (rows, columns) uint8: the label at the middle of each cell, the class seen there, and its probability
    in 255ths, rounded down.
    """

    truth: Mask
    mask: Mask
    confidence: Confidence


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """What a network saw in one image of a dataset, at the label's own resolution."""

    pair: Pair
    image_bgr: Image
    truth: Mask
    mask: Mask
    """(H, W) uint8 class indices; the contract's ignore index where the network saw nothing."""
    certainty: Certainty | None = None
    """None where it was not asked for, or where the network tells none."""


Alter = Callable[[Pair, Image, Mask], Image]
"""Turns a pair's photo, (H, W, 3) uint8, with its label at hand, into what the network is shown instead."""
OnUnreadable = Callable[[UnreadablePairError], object]
"""Is told of a pair that is passed over, and may raise where there are too many: `BadPairs.add`."""


def evaluate(
    network: Bundle | Predictor,
    dataset: Dataset,
    split: str,
    *,
    on_unreadable: OnUnreadable | None = None,
    advance: Callable[[], object] = lambda: None,
) -> ConfusionMatrix:
    """Run a network (of a bundle: as `open_bundle_predictor` does by default) over a split and count its pixels.

    `on_unreadable` is as `predict_pairs` has it; `advance` is called after each image. Raises `DatasetError` if classes
    disagree or the split is unknown or empty, and what `predict_pairs` raises.
    """
    if isinstance(network, Bundle):
        with open_bundle_predictor(network) as predictor:
            return evaluate(predictor, dataset, split, on_unreadable=on_unreadable, advance=advance)
    check_classes(network.contract, dataset)
    matrix = ConfusionMatrix(dataset.classes, dataset.ignore_index)
    for prediction in predict_pairs(network, dataset, dataset.pairs(split), on_unreadable=on_unreadable):
        matrix.add(prediction.truth, prediction.mask)
        advance()
    return matrix


def predict_pairs(
    network: Predictor,
    dataset: Dataset,
    pairs: Sequence[Pair],
    *,
    alter: Alter | None = None,
    with_certainty: bool = False,
    on_unreadable: OnUnreadable | None = None,
) -> Iterator[Prediction]:
    """Run `network` over `pairs`, each photo altered first where `alter` is given.

    A pair that cannot be read is passed over and told to `on_unreadable`; without it the first one raises
    `UnreadablePairError`.
    """
    fitters: dict[tuple[int, int], Fitter] = {}
    engine = network.backend if isinstance(network, BundlePredictor) else network
    for pair in pairs:
        try:
            image, truth = dataset.read_pair(pair)
        except UnreadablePairError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
            continue
        if alter is not None:
            image = alter(pair, image, truth)
        size_hw = (image.shape[0], image.shape[1])
        fitter = fitters.get(size_hw) or fitters.setdefault(size_hw, Fitter(network.contract, size_hw))
        mask = network.infer(fitter.fit(image))[0]
        confidence: Confidence | None = getattr(engine, "confidence", None) if with_certainty else None
        yield Prediction(
            pair=pair,
            image_bgr=image,
            truth=truth,
            mask=fitter.unfit(mask),
            certainty=None if confidence is None else _at_cells(fitter.fit_mask(truth), mask, confidence[0]),
        )


def _at_cells(truth: Mask, mask: Mask, confidence: Confidence) -> Certainty:
    cell = mask.shape[0] // confidence.shape[0]
    middles = (slice(cell // 2, None, cell), slice(cell // 2, None, cell))
    return Certainty(truth=truth[middles], mask=mask[middles], confidence=confidence)


def spread(items: Sequence[_Item], count: int | None) -> list[_Item]:
    """Return at most `count` of `items`, spread evenly: neighbours in a film are much alike. None is all of them."""
    wanted = len(items) if count is None else min(len(items), count)
    places = np.linspace(0, len(items) - 1, wanted).round().astype(int)
    return [items[place] for place in places]


@contextmanager
def open_bundle_predictor(
    bundle: Bundle, *, precision: str = "auto", threads: int | None = None, backend: str = "auto"
) -> Iterator[BundlePredictor]:
    """Open a bundle's graph of `precision` on this machine's backend; the backend is closed at the end."""
    with closing(open_backend(bundle, backend=backend, precision=precision, threads=threads)) as engine:
        yield BundlePredictor(contract=bundle.contract, backend=engine)


def check_classes(contract: Contract, dataset: Dataset) -> None:
    """Raise `DatasetError` unless network and dataset name the same classes in the same order."""
    if contract.classes == dataset.classes:
        return
    if len(contract.classes) != len(dataset.classes):
        found, expected = f"has {len(dataset.classes)} classes", f"the network's {len(contract.classes)}"
    else:
        both = zip(dataset.classes, contract.classes, strict=True)
        index, (ours, theirs) = next((i, names) for i, names in enumerate(both) if names[0] != names[1])
        found, expected = f"calls class {index} {ours!r}", f"{theirs!r} as the network does"
    raise DatasetError(
        f"dataset {dataset.name!r} {found}",
        expected=f"{expected} ({', '.join(contract.classes)})",
        fix="evaluate on a dataset of the network's classes",
    )


def is_run(path: Path) -> bool:
    """Whether `path` is a training run's folder."""
    return (path / CHECKPOINT).is_file()


def open_run(run: Path) -> ClosablePredictor:
    """Open a training run's network. Raises `EdgesegError` if the training side is not installed."""
    try:
        # By name: the runtime is whole without the training side.
        train = importlib.import_module("edgeseg.train.predict")
    except ModuleNotFoundError as error:
        raise EdgesegError(
            f"{run} is a training run, and module {error.name!r} is not installed",
            expected="the training side of edgeseg",
            fix="pip install 'edgeseg[train]', or evaluate the exported bundle",
        ) from None
    return cast(ClosablePredictor, train.open_run_predictor(run))
