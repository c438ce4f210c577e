"""The fp32 graph in the other precisions: calibrated once, chosen on a hold-out, ready to be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import onnx

from edgeseg.export.graph import seal_graph
from edgeseg.export.quantise.calibration import Pictures, choose_pictures
from edgeseg.export.quantise.gate import Limits
from edgeseg.export.quantise.half import make_half
from edgeseg.export.quantise.observe import observe
from edgeseg.export.quantise.score import Scorer
from edgeseg.export.quantise.search import Placement, Search
from edgeseg.runtime.commands.common import progress
from edgeseg.runtime.contract import Fitter
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.frame import Image
from edgeseg.runtime.manifest import PRECISIONS, Precision
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

    Of the scored split nothing is read. Raises `ExportError` if the hold-out has no labelled pixel.
    """
    model = onnx.load_from_string(fp32)
    with progress("observing ranges", len(pictures.calibration)) as advance:
        histograms = observe(model, _frames(run, dataset, pictures, advance))
    with progress("choosing how to quantise") as advance:
        scorer = Scorer(dataset, pictures.holdout, run.contract, fp32)
        search = Search(
            model,
            histograms,
            scorer,
            limits=wanted.limits,
            max_raised=wanted.max_raised,
            say=lambda row: advance(),
        )
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


def _frames(run: LoadedRun, dataset: Dataset, pictures: Pictures, advance: Callable[[], None]) -> Iterator[Image]:
    for pair in pictures.calibration:
        image = dataset.read_image(pair)
        yield Fitter(run.contract, (image.shape[0], image.shape[1])).fit(image)
        advance()
