"""Score a network on a dataset, at the labels' own resolution and through the device's own fitting."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from edgeseg.runtime.backends import Backend, open_backend
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.errors import DatasetError, EdgesegError
from edgeseg.runtime.frame import Image, Mask

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


def evaluate(
    network: Bundle | Predictor, dataset: Dataset, split: str, *, advance: Callable[[], object] = lambda: None
) -> ConfusionMatrix:
    """Run a network (of a bundle: as `open_bundle_predictor` does by default) over a split and count its pixels.

    `advance` is called after each image. Raises `DatasetError` if classes disagree, the split is unknown or empty,
    or a pair cannot be used.
    """
    if isinstance(network, Bundle):
        with open_bundle_predictor(network) as predictor:
            return evaluate(predictor, dataset, split, advance=advance)
    check_classes(network.contract, dataset)
    matrix = ConfusionMatrix(dataset.classes, dataset.ignore_index)
    fitters: dict[tuple[int, int], Fitter] = {}
    for pair in dataset.pairs(split):
        image, truth = dataset.read_image(pair), dataset.read_mask(pair)
        if image.shape[:2] != truth.shape:
            raise DatasetError(
                f"{pair.mask}: mask {truth.shape[1]}×{truth.shape[0]}",
                expected=f"{image.shape[1]}×{image.shape[0]} as its image",
                fix=f"see `edgeseg data check {dataset.folder} --split {split}`",
            )
        size_hw = (image.shape[0], image.shape[1])
        fitter = fitters.get(size_hw) or fitters.setdefault(size_hw, Fitter(network.contract, size_hw))
        matrix.add(truth, fitter.unfit(network.infer(fitter.fit(image))[0]))
        advance()
    return matrix


@contextmanager
def open_bundle_predictor(
    bundle: Bundle, *, precision: str = "auto", threads: int | None = None
) -> Iterator[BundlePredictor]:
    """Open a bundle's graph of `precision` on this machine's backend; the backend is closed at the end."""
    with closing(open_backend(bundle, precision=precision, threads=threads)) as backend:
        yield BundlePredictor(contract=bundle.contract, backend=backend)


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
