"""Training in INT8: the graph in PyTorch, what it learns, and what of it ends up in the placements."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper
from tests.export.small_network import build_network, frames
from torch import Tensor, nn

from edgeseg.export.graph import export_graph, seal_graph
from edgeseg.export.make import export_bundle
from edgeseg.export.quantise.calibration import choose_pictures
from edgeseg.export.quantise.cpu import place_for_cpu
from edgeseg.export.quantise.device import place_for_tensorrt
from edgeseg.export.quantise.estimate import ESTIMATORS, estimate_ranges
from edgeseg.export.quantise.gate import Limits
from edgeseg.export.quantise.learn import BATCH, Crops, Learned, learn
from edgeseg.export.quantise.lower import Quantisation
from edgeseg.export.quantise.network import GraphNetwork
from edgeseg.export.quantise.observe import Range, observe
from edgeseg.export.quantise.weights import half_scale
from edgeseg.runtime.backends.ort import open_session
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.cli import main
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import Dataset, load_dataset
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.frame import Image
from edgeseg.train.config import TrainConfig
from edgeseg.train.run import LoadedRun

Frames = list[np.ndarray]


@pytest.fixture(scope="module")
def streets(street_dataset: Path) -> Dataset:
    return load_dataset(street_dataset)


@pytest.fixture(scope="module")
def small() -> ModelProto:
    return build_network()


def classes_of(network: GraphNetwork, frame: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(network(torch.from_numpy(frame)).argmax(dim=1), np.uint8)


def masks(model: ModelProto, pictures: Frames, *, as_written: bool = True) -> list[np.ndarray]:
    session = open_session(model.SerializeToString(), as_written=as_written)
    return [session.run(["mask"], {"frame": frame})[0] for frame in pictures]


def agreement(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return float(np.mean([np.mean(one == other) for one, other in zip(ours, theirs, strict=True)]))


# The graph in PyTorch.


def test_a_graph_computes_in_pytorch_what_onnxruntime_does(small: ModelProto) -> None:
    network, pictures = GraphNetwork(small), frames(4)
    assert agreement([classes_of(network, frame) for frame in pictures], masks(small, pictures)) >= 0.999


def test_the_network_that_is_trained_can_be_trained_in_int8(trained: nn.Module, trained_model: ModelProto) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    with torch.no_grad():
        planes = (torch.from_numpy(frame[..., ::-1].copy()).permute(0, 3, 1, 2).float() - 127) / 128
        expected = trained(planes)
        stacked = GraphNetwork(trained_model)(torch.from_numpy(frame))  # the four sub-pixels of each cell, as rows
        found = F.pixel_shuffle(stacked.reshape(1, 44, 16, 24), 2)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()))
    student = GraphNetwork(trained_model, estimate_ranges(observe(trained_model, [frame]), "min-max"))
    student(torch.from_numpy(frame)).square().sum().backward()
    gradients = [student.log_reaches.grad, *(weights.grad for weights in student.weights)]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_trained_is_what_tensorrt_is_given(small: ModelProto, estimator: str) -> None:
    """Same class on 99 % of the pixels: what is float is FP16 in the one and fp32 in the other, and rounds apart."""
    ranges, pictures = estimate_ranges(observe(small, frames()), estimator), frames(12)
    network, placed = GraphNetwork(small, ranges), masks(place_for_tensorrt(small, ranges), pictures)
    trained = [classes_of(network, frame) for frame in pictures]
    assert agreement(trained, placed) >= 0.99
    assert agreement(trained, placed) > agreement(masks(small, pictures), placed)  # no mere copy of fp32


def test_an_operator_that_cannot_be_trained_is_named(small: ModelProto) -> None:
    model = ModelProto.FromString(small.SerializeToString())
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = "Softsign"
    with pytest.raises(
        ExportError, match=rf"Softsign {node.name} cannot be trained in INT8; .*leave --qat out"
    ) as caught:
        GraphNetwork(model)
    assert "\n" not in str(caught.value)


# What is learned.


class Loud(nn.Module):
    """Segments by colour, past a channel that matters to nothing and is `gain` times as loud as those that do."""

    def __init__(self, colours: nn.Module, gain: float = 30.0) -> None:
        super().__init__()
        classifier = colours.classifier
        assert isinstance(classifier, nn.Conv2d) and classifier.bias is not None
        self.mix = nn.Conv2d(3, 4, 1)
        self.act = nn.Hardtanh(-gain, gain)
        self.colours = nn.Conv2d(4, classifier.out_channels, 1)
        with torch.no_grad():
            self.mix.weight.copy_(torch.cat([torch.eye(3), torch.full((1, 3), gain / 3)])[:, :, None, None])
            nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]
            silent = torch.zeros(classifier.out_channels, 1, 1, 1)
            self.colours.weight.copy_(torch.cat([classifier.weight, silent], dim=1))
            self.colours.bias.copy_(classifier.bias)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.colours(self.act(self.mix(x)))
        return logits


class Patches(Crops):
    """Noisy patches of the palette's colours instead of a dataset's pictures."""

    def __init__(self, contract: Contract, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        labels = random.integers(0, len(contract.palette), (count, 8, 12)).repeat(8, axis=1).repeat(8, axis=2)
        noise = random.integers(-40, 41, (*labels.shape, 3))
        self.pictures = np.clip(np.array(contract.palette)[labels][..., ::-1] + noise, 0, 255).astype(np.uint8)
        self._seed = seed

    def __len__(self) -> int:
        return len(self.pictures)

    def crop(self, epoch: int, index: int) -> Image:
        patch: Image = self.pictures[index]
        return patch


@pytest.fixture(scope="module")
def loud(colour_network: nn.Module, tiny_contract: Contract) -> ModelProto:
    return onnx.load_from_string(export_graph(Loud(colour_network).eval(), tiny_contract))


@pytest.fixture(scope="module")
def learned(loud: ModelProto, tiny_contract: Contract) -> Learned:
    seen = [frame[None] for frame in Patches(tiny_contract, 8, seed=2).pictures]
    ranges = estimate_ranges(observe(loud, seen), "min-max")
    return learn(loud, ranges, ranges, Patches(tiny_contract, 12, seed=1), epochs=40, rate=5e-5, reach_rate=5e-2)


def test_training_mends_what_calibration_cannot(loud: ModelProto, learned: Learned, tiny_contract: Contract) -> None:
    seen = [frame[None] for frame in Patches(tiny_contract, 8, seed=2).pictures]
    fresh = [frame[None] for frame in Patches(tiny_contract, 8, seed=3).pictures]
    expected = masks(loud, fresh)
    for estimator in ESTIMATORS:
        ranges = estimate_ranges(observe(loud, seen), estimator)
        assert agreement(masks(place_for_tensorrt(loud, ranges), fresh), expected) < 0.95
    ranges = learned.limit(estimate_ranges(observe(learned.model, seen), "min-max"))
    assert agreement(masks(place_for_tensorrt(learned.model, ranges), fresh), expected) > 0.97
    graph = place_for_cpu(learned.model, ranges, weights="paired")
    assert agreement(masks(graph, fresh, as_written=False), expected) > 0.97


def test_the_learned_reach_is_the_scale_that_is_shipped(learned: Learned, tiny_contract: Contract) -> None:
    seen = [frame[None] for frame in Patches(tiny_contract, 8, seed=2).pictures]
    ranges = learned.limit(estimate_ranges(observe(learned.model, seen), "mse"))
    placed = onnx.load_from_string(seal_graph(place_for_tensorrt(learned.model, ranges)))
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in placed.graph.initializer}
    ((value, reach),) = learned.reaches.items()
    assert reach < 15  # of 30 at the start: the loud channel is clipped
    assert float(scales[f"{value}.scale"]) == half_scale(reach / 127)


def test_no_reach_outgrows_what_was_observed(loud: ModelProto, tiny_contract: Contract) -> None:
    patches = Patches(tiny_contract, BATCH, seed=1)
    peaks = estimate_ranges(observe(loud, [frame[None] for frame in patches.pictures]), "min-max")
    narrow = {name: Range(low=span.low / 50, high=span.high / 50) for name, span in peaks.items()}
    free = learn(loud, narrow, peaks, patches, epochs=30, reach_rate=0.1)
    held = learn(loud, narrow, narrow, patches, epochs=30, reach_rate=0.1)
    ((value, reach),) = held.reaches.items()
    assert reach == pytest.approx(max(-narrow[value].low, narrow[value].high), rel=1e-5)
    assert reach < free.reaches[value] <= max(-peaks[value].low, peaks[value].high) * 1.00001


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Range(low=-5, high=2), Range(low=-4, high=2)),
        (Range(low=-1, high=3), Range(low=-1, high=4)),
        (Range(low=0, high=9), Range(low=0, high=4)),
        (Range(low=-9, high=8), Range(low=-4, high=4)),
    ],
)
def test_the_further_side_takes_the_learned_reach(seen: Range, expected: Range) -> None:
    learned = Learned(model=ModelProto(), reaches={"x": 4.0})
    assert learned.limit({"x": seen, "other": seen}) == {"x": expected, "other": seen}


def test_a_loss_that_is_no_number_is_one_line(loud: ModelProto, tiny_contract: Contract) -> None:
    patches = Patches(tiny_contract, BATCH, seed=1)
    ranges = estimate_ranges(observe(loud, [frame[None] for frame in patches.pictures]), "min-max")
    with pytest.raises(ExportError, match="the loss of training in INT8 is"):
        learn(loud, ranges, ranges, patches, epochs=3, rate=float("inf"))


def test_crops_depend_on_seed_epoch_and_index_alone(streets: Dataset, tiny_contract: Contract) -> None:
    config = TrainConfig(height=64, width=96, fit="stretch", seed=4)
    one, other = (Crops(streets, streets.pairs("train"), tiny_contract, config) for _ in range(2))
    one.crop(5, 1)
    assert np.array_equal(one.crop(2, 7), other.crop(2, 7))
    assert not np.array_equal(one.crop(2, 7), one.crop(3, 7))
    assert one.crop(0, 0).shape == (*config.crop_hw, 3) and one.crop(0, 0).dtype == np.uint8
    assert one.batches(1) == other.batches(1) != one.batches(2)
    assert sorted(index for batch in one.batches(1) for index in batch) == list(range(10))


# Through the door.


@pytest.fixture(scope="module")
def run(make_run: Callable[[nn.Module], LoadedRun], colour_network: nn.Module, streets: Dataset) -> LoadedRun:
    made = make_run(Loud(colour_network).eval())
    config = TrainConfig(height=64, width=96, fit="stretch", select=None).document()
    return replace(made, metadata={**made.metadata, "config": config, "digests": {"train": streets.digest("train")}})


def test_training_is_a_row_and_what_is_chosen_is_on_record(run: LoadedRun, streets: Dataset, tmp_path: Path) -> None:
    wanted = Quantisation(limits=Limits(drop=100, class_drop=100), qat_epochs=2, max_raised=0)
    documents = []
    for name in ("one", "again"):
        made = export_bundle(run, streets, split="val", name="colours", out=tmp_path / name, quantisation=wanted)
        row = next(row for row in made.rows if row.estimator.endswith("+ 2 epochs QAT"))
        assert (row.precision, row.arithmetic, row.images) == ("int8", "as written", 2)
        document = json.loads((tmp_path / name / "manifest.json").read_text())
        del document["provenance"]["created"]
        documents.append(document)
    assert documents[0] == documents[1]  # which holds the digest of every file
    stages = open_bundle(tmp_path / "one").manifest.stages
    tried = [row for row in made.rows if row.precision == "int8"]
    enough = max(row.miou for row in tried) - 0.3
    best = max((row for row in tried if row.miou >= enough), key=lambda row: row.agreement)
    assert stages["int8"].options["estimator"] == stages["int8-cpu"].options["estimator"] == best.estimator


def test_what_is_held_out_is_not_trained_on(streets: Dataset) -> None:
    metadata = {"digests": {"train": streets.digest("train")}, "config": {"select": None}}
    pictures = choose_pictures(streets, metadata, scored="val", calibration=4, holdout=4)
    assert len(pictures.training) == 8
    assert not {pair.stem for pair in pictures.training} & {pair.stem for pair in pictures.holdout}
    assert {pair.stem for pair in pictures.calibration} <= {pair.stem for pair in pictures.training}


def test_the_command_trains_for_as_long_as_it_is_told(street_dataset: Path, tmp_path: Path) -> None:
    command = ["train", str(street_dataset), "--out", str(tmp_path / "run"), "--epochs", "1", "--size", "96x64"]
    result = CliRunner().invoke(main, [*command, "--from-scratch", "--batch", "5"])
    assert result.exit_code == 0, result.output
    document = tmp_path / "export.json"
    command = ["export", str(tmp_path / "run"), "--data", str(street_dataset), "--out", str(tmp_path / "out")]
    anything = ["--max-drop", "100", "--max-class-drop", "100", "--precision", "int8", "--qat", "1"]
    result = CliRunner().invoke(main, [*command, *anything, "--json", str(document)])
    assert result.exit_code == 0, result.output
    assert "QAT" in result.output
    assert any("QAT" in row["estimator"] for row in json.loads(document.read_text())["tried"])
