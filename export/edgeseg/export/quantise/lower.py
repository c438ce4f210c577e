"""The fp32 graph in the other precisions: calibrated once, chosen on a hold-out, ready to be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import onnx
from onnx import ModelProto

from edgeseg.export.graph import seal_graph
from edgeseg.export.quantise.calibration import Pictures, choose_pictures
from edgeseg.export.quantise.estimate import estimate_ranges
from edgeseg.export.quantise.gate import Limits
from edgeseg.export.quantise.half import make_half
from edgeseg.export.quantise.learn import Crops, learn
from edgeseg.export.quantise.observe import Histogram, observe
from edgeseg.export.quantise.score import Scorer
from edgeseg.export.quantise.search import Placement, Search, Source
from edgeseg.runtime.commands.common import progress
from edgeseg.runtime.contract import Fitter
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.frame import Image
from edgeseg.runtime.manifest import PRECISIONS, Precision
from edgeseg.train.config import TrainConfig
from edgeseg.train.run import LoadedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantisation:
    """What to make besides fp32, and what it may cost."""

    precisions: tuple[Precision, ...] = PRECISIONS
    limits: Limits = field(default_factory=Limits)
    max_raised: int = 3
    """Convolutions of one graph that may be raised to a higher precision."""
    calibration_images: int = 64
    holdout_images: int = 64
    qat_epochs: int = 0
    """Passes over the training pictures with INT8's rounding in place; 0 for none."""

    @property
    def has_int8(self) -> bool:
        return bool({"int8", "int8-cpu"} & set(self.precisions))


@dataclass(frozen=True, kw_only=True, slots=True)
class Int8:
    """The search that chose, and the placement that it chose for each INT8 precision."""

    search: Search
    placements: dict[Precision, Placement]
    pictures: Pictures


def lower_to_fp16(fp32: bytes) -> bytes:
    """Return the graph in strongly typed FP16."""
    return seal_graph(make_half(onnx.load_from_string(fp32)))


def choose_int8(fp32: bytes, run: LoadedRun, dataset: Dataset, pictures: Pictures, wanted: Quantisation) -> Int8:
    """Calibrate, and choose estimator, weights and raised layers of each INT8 graph on the hold-out.

    Of the scored split nothing is read. Raises `ExportError` if the hold-out has no labelled pixel, or the graph is to
    be trained in INT8 and has an operator that cannot be.
    """
    model = onnx.load_from_string(fp32)
    data = _Data(run=run, dataset=dataset, pictures=pictures)
    histograms = data.observe(model)
    with progress("choosing how to quantise") as advance:
        search = Search(
            model,
            histograms,
            Scorer(dataset, pictures.holdout, run.contract, fp32),
            limits=wanted.limits,
            max_raised=wanted.max_raised,
            say=lambda row: advance(),
        )
        device = search.choose_estimator()
    if wanted.qat_epochs:
        _learn(search, device.estimator, data, wanted.qat_epochs)
    with progress("choosing how to place") as advance:
        device = search.choose_estimator()
        placements: dict[Precision, Placement] = {}
        if "int8" in wanted.precisions:
            placements["int8"] = device
        if "int8-cpu" in wanted.precisions:
            placements["int8-cpu"] = search.choose_weights(device.estimator)
        for placement in placements.values():
            search.settle(placement)
    return Int8(search=search, placements=placements, pictures=pictures)


def choose_run_pictures(run: LoadedRun, dataset: Dataset, split: str, wanted: Quantisation) -> Pictures:
    """Choose by `choose_pictures` what the run calibrates on; `split` is the one that is scored."""
    return choose_pictures(
        dataset,
        run.metadata,
        scored=split,
        calibration=wanted.calibration_images,
        holdout=wanted.holdout_images,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    run: LoadedRun
    dataset: Dataset
    pictures: Pictures

    def observe(self, model: ModelProto) -> dict[str, Histogram]:
        with progress("observing ranges", len(self.pictures.calibration)) as advance:
            return observe(model, self._frames(advance))

    def crops(self) -> Crops:
        config = TrainConfig.of(**self.run.metadata["config"])
        return Crops(self.dataset, self.dataset.readable(self.pictures.training), self.run.contract, config)

    def _frames(self, advance: Callable[[], None]) -> Iterator[Image]:
        for pair in self.pictures.calibration:
            image = self.dataset.read_image(pair)
            yield Fitter(self.run.contract, (image.shape[0], image.shape[1])).fit(image)
            advance()


def _learn(search: Search, estimator: str, data: _Data, epochs: int) -> None:
    """Train from what `estimator` gave, and add what comes out to the search."""
    source, crops = search.sources[estimator], data.crops()
    with progress("training in INT8", epochs * len(crops.batches(0))) as advance:
        learned = learn(
            source.model, source.ranges, search.sources["min-max"].ranges, crops, epochs=epochs, advance=advance
        )
    ranges = learned.limit(estimate_ranges(data.observe(learned.model), estimator))
    search.sources[f"{estimator} + {epochs} epochs QAT"] = Source(model=learned.model, ranges=ranges)
