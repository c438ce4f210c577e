"""What calibrates, what chooses, and what is let into a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from edgeseg.export.graph import export_graph
from edgeseg.export.make import export_bundle
from edgeseg.export.quantise.calibration import choose_pictures
from edgeseg.export.quantise.gate import Limits, measure_loss
from edgeseg.export.quantise.lower import Quantisation
from edgeseg.export.quantise.observe import observe
from edgeseg.export.quantise.score import Score, Scorer
from edgeseg.export.quantise.search import Placement, Search
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import Dataset, load_dataset
from edgeseg.runtime.errors import ExportError
from edgeseg.train.run import LoadedRun

ANYTHING = Limits(drop=100, class_drop=100)


@pytest.fixture(scope="module")
def streets(street_dataset: Path) -> Dataset:
    return load_dataset(street_dataset)


class DeepColours(nn.Module):
    """Segments by colour, through layers that quantisers must get right."""

    def __init__(self, colours: nn.Module) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)
        nn.init.dirac_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]
        self.act = nn.Hardtanh(-1, 1)
        self.colours = colours

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.colours(self.act(self.mix(x)))


@pytest.fixture(scope="module")
def run(make_run: Callable[[nn.Module], LoadedRun], colour_network: nn.Module, streets: Dataset) -> LoadedRun:
    loaded = make_run(DeepColours(colour_network).eval())
    return replace(loaded, metadata={**loaded.metadata, "digests": {"train": streets.digest("train")}})


def export(run: LoadedRun, streets: Dataset, out: Path, quantisation: Quantisation) -> Bundle:
    export_bundle(run, streets, split="val", name="colours", out=out, quantisation=quantisation)
    return open_bundle(out)


@pytest.fixture(scope="module")
def bundle(run: LoadedRun, streets: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """All four precisions. Read, never write."""
    return export(run, streets, tmp_path_factory.mktemp("gate") / "colours", Quantisation(limits=ANYTHING))


# The bundle.


def test_every_precision_is_scored_on_the_split(bundle: Bundle, streets: Dataset) -> None:
    stages = bundle.manifest.stages
    assert list(stages) == list(bundle.precisions) == ["fp32", "fp16", "int8", "int8-cpu"]
    for precision, stage in stages.items():
        assert (stage.split, stage.images, stage.split_sha256) == ("val", 4, streets.digest("val"))
        assert stage.pixel_agreement is not None and stage.pixel_agreement > 0.8
        assert precision in bundle.manifest.golden.agreement
    assert stages["int8"].thresholds == {"drop": 100, "class_drop": 100}
    assert stages["int8"].drop == pytest.approx((stages["fp32"].miou or 0) - (stages["int8"].miou or 0))
    assert stages["int8-cpu"].options["estimator"] == stages["int8"].options["estimator"]


def test_golden_frames_bind_each_precision(bundle: Bundle) -> None:
    agreement = bundle.manifest.golden.agreement
    assert (agreement["fp32"], agreement["fp16"]) == (0.999, 0.99)
    assert 0.7 < agreement["int8"] <= 0.98 and 0.7 < agreement["int8-cpu"] <= 0.98


def test_what_calibrated_is_on_record(bundle: Bundle, streets: Dataset) -> None:
    record = bundle.manifest.provenance.calibration
    assert record is not None
    assert record.splits == {"train": streets.digest("train")}
    assert (record.images, record.holdout_images, record.holdout) == (8, 2, "the last 2 of train")


def test_the_same_run_gives_the_same_bytes(bundle: Bundle, run: LoadedRun, streets: Dataset, tmp_path: Path) -> None:
    again = export(run, streets, tmp_path / "again", Quantisation(limits=ANYTHING))
    one, other = (json.loads((b.path / "manifest.json").read_text()) for b in (bundle, again))
    assert one["provenance"].pop("created") and other["provenance"].pop("created")
    assert one == other  # which holds the digest of every file


# The gate.


def matrix(counts: list[list[int]]) -> ConfusionMatrix:
    made = ConfusionMatrix(("a", "b"), 255)
    made.counts[:, :2] = counts
    return made


def test_loss_is_the_mean_and_the_worst_class() -> None:
    loss = measure_loss(matrix([[90, 10], [10, 90]]), matrix([[90, 10], [30, 70]]))
    assert loss.worst_class == "b" and loss.class_drop == pytest.approx(100 * (90 / 110 - 70 / 110))
    assert loss.exceeds(Limits(drop=0.5, class_drop=100)) and loss.exceeds(Limits(drop=100, class_drop=2))
    assert not loss.exceeds(Limits(drop=20, class_drop=20))
    assert loss.exceeds(Limits(drop=float("nan"), class_drop=20))


def test_pictures_without_labels_cannot_pass() -> None:
    empty = matrix([[0, 0], [0, 0]])
    with pytest.raises(ExportError, match="no pixel of the scored pictures is labelled"):
        measure_loss(empty, empty)


def test_what_loses_too_much_leaves_a_report_and_no_bundle(run: LoadedRun, streets: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "colours"
    strict = Quantisation(precisions=("int8",), limits=Limits(drop=-100, class_drop=-100))
    with pytest.raises(ExportError, match=r"int8 on val: .* mIoU lost.*colours\.report\.json") as raised:
        export_bundle(run, streets, split="val", name="colours", out=out, quantisation=strict)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["colours.report.json"]
    report = json.loads((tmp_path / "colours.report.json").read_text())
    assert set(report["stages"]) == {"fp32", "int8"}
    assert len({row["estimator"] for row in report["tried"]}) == 4
    assert report["environment"]["instruction_set"]


@pytest.fixture(scope="module")
def search(run: LoadedRun, streets: Dataset, tiny_contract: Contract) -> Search:
    fp32 = export_graph(run.network, tiny_contract)
    pairs = streets.pairs("train")
    scorer = Scorer(streets, pairs[:3], tiny_contract, fp32)
    model = onnx.load_from_string(fp32)
    histograms = observe(model, (streets.read_image(pair)[None] for pair in pairs))
    return Search(model, histograms, scorer, limits=Limits(drop=-100), max_raised=1)


def test_raising_names_the_layer_and_why_and_stops_at_the_limit(search: Search) -> None:
    placement = Placement(precision="int8", estimator="min-max")
    assert search.raise_next(placement)
    assert not search.raise_next(placement)
    (name,) = placement.reasons
    assert name.startswith("Conv_") and "raised alone" in placement.reasons[name]
    scale = [tensor.name for tensor in onnx.load_from_string(search.build(placement)).graph.initializer]
    assert sum(tensor.endswith("weight.int8") for tensor in scale) == 1


def test_every_estimator_and_rule_is_a_row(search: Search) -> None:
    before = len(search.rows)
    device = search.choose_estimator()
    search.choose_weights(device.estimator)
    rows = search.rows[before:]
    assert [row.estimator for row in rows[:4]] == ["min-max", "percentile", "entropy", "mse"]
    rules = ["8-bit", "7-bit", "paired"]
    assert [(row.weights, row.arithmetic) for row in rows[4:]] == [
        *((rule, "kernels") for rule in rules),
        *((rule, "as written") for rule in rules),
        ("8-bit", "exact kernels"),
    ]
    assert all(row.images == 3 and np.isfinite(row.drop) and 0 <= row.agreement <= 1 for row in rows)
    assert all(("time" in row.document()) == (row.arithmetic != "as written") for row in rows)


class Pretended:
    """Scores 8-bit, 7-bit and paired weights in this order, as some processor's kernels would."""

    def __init__(self, *scores: tuple[int, float]) -> None:
        """Each of right pixels in a hundred of each class, and of the share that agrees with fp32."""
        self.fp32 = matrix([[90, 10], [10, 90]])
        self._scores = [
            Score(matrix=matrix([[n, 100 - n], [100 - n, n]]), agreement=agreement) for n, agreement in scores
        ]

    def __len__(self) -> int:
        return 1

    def score(self, graph: bytes, arithmetic: str, *, images: int | None = None) -> Score:
        return self._scores.pop(0) if arithmetic == "kernels" else Score(matrix=self.fp32, agreement=1.0)

    def measure_time(self, graph: bytes, arithmetic: str) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        (((90, 0.999), (90, 0.98), (90, 0.99)), "paired"),  # VNNI: full weights are the finest, and saturate elsewhere
        (((80, 0.9), (90, 0.98), (90, 0.99)), "paired"),  # no VNNI: they saturate here
        (((90, 0.999), (90, 0.99), (80, 0.98)), "7-bit"),
        (((90, 0.999), (80, 0.98), (80, 0.99)), "8-bit"),  # nothing else is as good
    ],
)
def test_weights_that_saturate_on_other_processors_must_be_better(
    search: Search, scores: tuple[tuple[int, float], ...], chosen: str
) -> None:
    source = search.sources["mse"]
    other = Search(source.model, {}, Pretended(*scores), limits=ANYTHING, max_raised=0)  # type: ignore[arg-type]
    other.sources = {"mse": source}
    assert other.choose_weights("mse").weights == chosen


# Calibration.


def test_a_split_that_was_trained_on_cannot_be_scored(run: LoadedRun, streets: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="10 images of split 'train' were trained on"):
        export_bundle(
            run, streets, split="train", name="x", out=tmp_path / "x", quantisation=Quantisation(limits=ANYTHING)
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("digests", "said"),
    [({"train": "0" * 64}, "is not the one that the run was trained on"), ({"fit": "0" * 64}, "is missing")],
)
def test_other_pictures_than_the_runs_are_refused(streets: Dataset, digests: dict[str, str], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        choose_pictures(streets, {"digests": digests, "config": {}}, scored="val", calibration=4, holdout=4)


def test_the_runs_own_held_out_split_chooses_unless_it_is_scored(camvid: Path) -> None:
    dataset = load_dataset(camvid)
    metadata = {"digests": {"fit": dataset.digest("fit")}, "config": {"select": "select"}}
    pictures = choose_pictures(dataset, metadata, scored="val", calibration=20, holdout=10)
    assert pictures.record.holdout == "select" and len(pictures.holdout) == 10
    assert all(pair.stem.startswith("0006R0") for pair in pictures.holdout)
    assert not any(pair.stem.startswith("0006R0") for pair in pictures.calibration)
    pictures = choose_pictures(dataset, metadata, scored="select", calibration=1000, holdout=1000)
    assert pictures.record.holdout.endswith("of fit")
    assert not {pair.stem for pair in pictures.holdout} & {pair.stem for pair in pictures.calibration}
    assert not {pair.stem for pair in pictures.holdout} & {pair.stem for pair in pictures.training}
    assert not any(pair.stem.startswith("0006R0") for pair in (*pictures.holdout, *pictures.training))
