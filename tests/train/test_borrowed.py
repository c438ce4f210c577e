"""A bundle's network as a beginning and as a teacher: it must compute what the bundle's graph computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.cli import main
from edgeseg.runtime.frame import Image
from edgeseg.train.borrowed import load_start, load_teacher, settle_batch_norms
from edgeseg.train.network import SegmentationNetwork
from edgeseg.train.predict import Predictor
from edgeseg.train.run import load_run
from edgeseg.train.samples import to_network

SHIPPED = ("street", "street-nano")


def _train(dataset: Path, out: Path, *flags: str) -> Result:
    fixed = ("--size", "96x64", "--epochs", "1", "--learning-rate", "1e-6", "--no-offsets")
    return CliRunner().invoke(main, ["train", str(dataset), "--out", str(out), *fixed, *flags])


def _begun(name: str) -> SegmentationNetwork:
    start = load_start(Path(name))
    network = SegmentationNetwork(len(start.classes), size=start.scale)
    start.lend(network, start.classes)
    return network.eval()


def _golden(name: str) -> list[tuple[Image, Image]]:
    with open_bundle(name) as bundle:
        return [(frame, mask) for _, frame, mask in bundle.golden_frames()]


@pytest.mark.parametrize("name", SHIPPED)
def test_teacher_out_of_a_bundle_gives_the_bundles_masks(name: str) -> None:
    run = load_teacher(Path(name))
    with Predictor(run.network, run.contract) as predictor:
        for frame, mask in _golden(name):
            assert (predictor.infer(frame[None])[0] == mask).mean() > 0.999


@pytest.mark.parametrize("name", SHIPPED)
def test_network_begun_with_a_bundle_computes_the_same_before_and_after_its_statistics_are_taken(name: str) -> None:
    x = torch.stack([to_network(frame) for frame, _ in _golden(name)])
    network = _begun(name)
    with torch.no_grad():
        expected = load_teacher(Path(name)).network(x)
        assert torch.allclose(network(x), expected, atol=1e-3)
        settle_batch_norms(network, [x])
        assert torch.allclose(network(x), expected, atol=1e-3)
        # The pictures are the batch, so its own statistics are those that were taken.
        assert torch.allclose(network.train()(x), expected, atol=1e-2)


def test_filters_of_a_bundle_are_as_long_as_those_they_began_as() -> None:
    network, pretrained = _begun("street"), SegmentationNetwork(11)
    pretrained.backbone.load_pretrained()
    pairs = zip(network.backbone.parameters(), pretrained.backbone.parameters(), strict=True)
    convolutions = [(ours, theirs) for ours, theirs in pairs if ours.ndim == 4]
    assert len(convolutions) > 30
    for ours, theirs in convolutions:
        found, expected = (weight.flatten(1).norm(dim=1) for weight in (ours, theirs))
        assert torch.allclose(found[found > 0], expected[found > 0], rtol=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), pictures=st.integers(1, 3))
def test_settling_leaves_what_any_network_computes(seed: int, pictures: int) -> None:
    torch.manual_seed(seed)
    network = SegmentationNetwork(3, size="nano").eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.1, 3)
            nn.init.normal_(layer.weight)  # some turn their channel round
            nn.init.normal_(layer.bias)
    rng = np.random.default_rng(seed)
    x = torch.stack([to_network(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)) for _ in range(pictures)])
    with torch.no_grad():
        before = network(x)
        settle_batch_norms(network, torch.split(x, 2))
        assert torch.allclose(network(x), before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
    assert not network.training


def test_run_begins_with_a_shipped_network_by_name_and_remembers_it(street_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    result = _train(street_dataset, out, "--network", "nano", "--start-from", "street-nano", "--teacher", "street")
    assert result.exit_code == 0, result.output
    settings = load_run(out).metadata["config"]
    assert settings["start"] == load_start(Path("street-nano")).weights
    assert settings["teacher"] == load_teacher(Path("street")).weights
    frame = _golden("street-nano")[0][0]
    # So small a rate that nothing moves: what comes out is what was taken over.
    masks = []
    for run in (load_run(out), load_teacher(Path("street-nano"))):
        with Predictor(run.network, load_teacher(Path("street-nano")).contract) as predictor:
            masks.append(predictor.infer(frame[None]))
    assert (masks[0] == masks[1]).mean() > 0.98


def test_first_stages_can_be_left_free(street_dataset: Path, tmp_path: Path) -> None:
    stems = []
    for frozen in ("0", "2"):
        out = tmp_path / frozen
        result = _train(street_dataset, out, "--start-from", "street", "--frozen", frozen, "--learning-rate", "1e-2")
        assert result.exit_code == 0, result.output
        stems.append(load_start(out).state["backbone.stem.1.weight"])
    held = load_start(Path("street")).state["backbone.stem.1.weight"]
    assert torch.equal(stems[1], held) and not torch.allclose(stems[0], held, atol=1e-5)


def _logits(network: nn.Module, frames: list[Image]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack([network(to_network(frame)[None])[0] for frame in frames])


def test_mean_of_networks_that_differ_in_their_last_layer_gives_the_mean_of_their_scores(
    street_dataset: Path, tmp_path: Path
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert _train(street_dataset, run, "--network", "nano", "--start-from", "street-nano").exit_code == 0
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    checkpoint["averaged"]["module.classifier.bias"] += torch.arange(44)
    other.mkdir()
    torch.save(checkpoint, other / "checkpoint.pt")
    mean = load_start(run, other)
    network = SegmentationNetwork(len(mean.classes), size=mean.scale)
    mean.lend(network, mean.classes)
    frames = [frame for frame, _ in _golden("street-nano")]
    settle_batch_norms(network, [torch.stack([to_network(frame) for frame in frames])])
    first, second, found = (
        _logits(each, frames) for each in (load_run(run).network, load_run(other).network, network.eval())
    )
    assert float((second - first).max()) == pytest.approx(43, abs=1e-3)
    assert torch.allclose(found, (first + second) / 2, atol=1e-2)
    assert mean.weights == load_start(other, run).weights != load_start(run).weights


def test_no_epoch_makes_a_run_of_the_weights_as_they_are(street_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "as it is"
    result = _train(street_dataset, out, "--network", "nano", "--start-from", "street-nano", "--epochs", "0")
    assert result.exit_code == 0, result.output
    frames = [frame for frame, _ in _golden("street-nano")]
    found, expected = (_logits(run.network, frames) for run in (load_run(out), load_teacher(Path("street-nano"))))
    assert torch.allclose(found, expected, atol=1e-2)
    assert json.loads((out / "metrics.json").read_text())["history"] == []


def test_no_epoch_and_nothing_to_begin_with_is_refused(street_dataset: Path, tmp_path: Path) -> None:
    result = _train(street_dataset, tmp_path / "run", "--epochs", "0")
    assert result.exit_code == 1 and "add --start-from" in result.output, result.output
    assert not (tmp_path / "run").exists()


def test_no_epoch_and_weights_that_do_not_fit_are_refused(street_dataset: Path, tmp_path: Path) -> None:
    result = _train(street_dataset, tmp_path / "run", "--epochs", "0", "--network", "nano", "--start-from", "street")
    assert result.exit_code == 1 and "of another size" in result.output, result.output
    assert not (tmp_path / "run").exists()


def test_mean_of_networks_of_two_sizes_is_refused(street_dataset: Path, tmp_path: Path) -> None:
    result = _train(street_dataset, tmp_path / "run", "--start-from", "street", "--start-from", "street-nano")
    assert result.exit_code == 1 and "another size" in result.output, result.output
    assert not (tmp_path / "run").exists()


def _with_settings(tmp_path: Path, **training: str) -> Path:
    """A copy of `street-nano` whose manifest says it was trained with other settings."""
    with open_bundle("street-nano") as bundle:
        shutil.copytree(bundle.path, tmp_path / "copy")
    manifest = tmp_path / "copy" / "manifest.json"
    document = json.loads(manifest.read_text())
    document["provenance"]["training"] = training
    manifest.write_text(json.dumps(document))
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"network": "small"}, "has no"),
        ({"network": "large"}, "says that its network is 'large'"),
        ({}, "says that its network is None"),
    ],
)
def test_bundle_of_another_network_is_refused_in_a_line(
    street_dataset: Path, tmp_path: Path, training: dict[str, str], expected: str
) -> None:
    other = _with_settings(tmp_path, **training)
    result = _train(street_dataset, tmp_path / "run", "--start-from", str(other))
    assert result.exit_code == 1 and expected in result.output.replace("\n", " "), result.output
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_neither_run_nor_bundle_is_refused(street_dataset: Path, tmp_path: Path) -> None:
    result = _train(street_dataset, tmp_path / "run", "--start-from", str(tmp_path))
    assert result.exit_code == 1 and "has no manifest.json" in result.output and "street-nano" in result.output


def test_what_a_bundle_lends_does_not_depend_on_what_was_drawn_before() -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(load_start(Path("street-nano")).state)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
