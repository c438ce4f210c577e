"""Corrupted and attacked photos, the study that scores them, and the augmentation that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from edgeseg.runtime.cli import main
from edgeseg.runtime.contract import Contract, Fit, Fitter
from edgeseg.runtime.dataset import Dataset, Pair, load_dataset
from edgeseg.runtime.errors import EdgesegError
from edgeseg.runtime.evaluate import Prediction, predict_pairs
from edgeseg.runtime.frame import Image, Mask
from edgeseg.runtime.street import StreetCamera
from edgeseg.train.config import TrainConfig
from edgeseg.train.loop import contract_of
from edgeseg.train.network import SegmentationNetwork
from edgeseg.train.robustness.attack import EPSILON, KINDS, Attack, Kind, attack_loss, fit_photo
from edgeseg.train.robustness.augment import AugMix, robust_augmentation
from edgeseg.train.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from edgeseg.train.robustness.study import Cell, Study, plan_cells
from edgeseg.train.run import Checkpoint, write_checkpoint

PALETTE = ((128, 64, 128), (0, 0, 142), (107, 142, 35))
PHOTO, LABELS = StreetCamera(size_hw=(96, 128)).render(40)


def _contract(fit: Fit = "letterbox", size_hw: tuple[int, int] = (32, 64)) -> Contract:
    return Contract(
        height=size_hw[0], width=size_hw[1], fit=fit, classes=("a", "b", "c"), palette=PALETTE, ignore_index=255
    )


# --- corruptions


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_gives_a_photo_that_severity_takes_further_away(name: str) -> None:
    before = PHOTO.copy()
    off = []
    for severity in SEVERITIES:
        found = corrupt(PHOTO, name, severity, picture="a")
        assert found.shape == PHOTO.shape and found.dtype == np.uint8
        off.append(float(np.abs(found.astype(int) - PHOTO).mean()))
    assert 0.5 < off[0] < off[-1]
    np.testing.assert_array_equal(PHOTO, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_chance_comes_from_seed_and_photo_alone(name: str) -> None:
    first = corrupt(PHOTO, name, 3, seed=1, picture="a")
    corrupt(PHOTO, "gaussian_noise", 1)
    np.testing.assert_array_equal(corrupt(PHOTO, name, 3, seed=1, picture="a"), first)
    others = [corrupt(PHOTO, name, 3, seed=2, picture="a"), corrupt(PHOTO, name, 3, seed=1, picture="b")]
    fixed = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert all(np.array_equal(other, first) == (name in fixed) for other in others)


def test_noise_has_the_deviation_that_the_paper_names() -> None:
    grey = np.full((200, 200, 3), 127, np.uint8)
    off = corrupt(grey, "gaussian_noise", 1).astype(float) - 127
    assert off.std() == pytest.approx(0.08 * 255, rel=0.02)
    photons = corrupt(grey, "shot_noise", 2).astype(float) / 255
    assert photons.std() == pytest.approx((127 / 255 / 25) ** 0.5, rel=0.05)
    hit = corrupt(grey, "impulse_noise", 5)
    assert np.mean(hit != 127) == pytest.approx(0.27, abs=0.01) and set(np.unique(hit)) == {0, 127, 255}


def test_channels_keep_their_places() -> None:
    blue = np.zeros((64, 64, 3), np.uint8)
    blue[..., 0] = 200
    for name in ("jpeg_compression", "brightness", "pixelate"):
        found = corrupt(blue, name, 1)
        assert found[..., 0].mean() > 150 > 60 > found[..., 2].mean()


# --- attacks


class Colours(nn.Module):
    """Logits at half the resolution from three fixed convolutions, so that each pixel depends on its neighbours."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 3, padding=1)
        ).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


@given(
    fit=st.sampled_from(["stretch", "letterbox", "crop"]),
    source_hw=st.tuples(st.integers(8, 150), st.integers(8, 150)),
    seed=st.integers(0, 9),
)
@settings(max_examples=40)
def test_photo_is_fitted_for_the_gradient_as_the_runtime_fits_it(
    fit: Fit, source_hw: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*source_hw, 3), np.uint8)
    fitter = Fitter(_contract(fit), source_hw)
    photo = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
    ours = fit_photo(photo, fitter)[0].numpy().transpose(1, 2, 0)
    # The runtime rounds to levels at each halving.
    assert np.abs(ours - fitter.fit(image)[0]).max() < 2.0
    assert np.abs(ours - fitter.fit(image)[0]).mean() < 0.6


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_gradient_passes_through_fitting_normalisation_and_network(fit: Fit) -> None:
    """Against differences of the loss itself, in double precision."""
    random = np.random.default_rng(1)
    truth = random.choice(np.array([0, 1, 2, 255], np.uint8), (6, 10))
    photo = torch.from_numpy(random.uniform(0, 255, (1, 3, 6, 10))).requires_grad_()
    contract, network = _contract(fit, (32, 32)), Colours(torch.float64)
    assert torch.autograd.gradcheck(lambda x: attack_loss(network, contract, x, truth), photo, eps=1e-4)
    (slope,) = torch.autograd.grad(attack_loss(network, contract, photo, truth), photo)
    seen = Fitter(contract, (6, 10)).source.slices
    assert (slope[(..., *seen)] != 0).float().mean() > 0.9


@given(
    photo=hnp.arrays(np.uint8, (6, 10, 3), elements=st.sampled_from([0, 1, 2, 100, 253, 254, 255])),
    truth=hnp.arrays(np.uint8, (6, 10), elements=st.sampled_from([0, 1, 2, 255])),
    kind=st.sampled_from(KINDS),
)
@settings(max_examples=40)
def test_attack_never_leaves_the_ball_nor_what_a_photo_can_hold(photo: Image, truth: Mask, kind: Kind) -> None:
    attack = Attack(Colours(), _contract(size_hw=(32, 32)), kind)
    pair = Pair(stem="a", image=Path("a"), mask=Path("a"))
    found = attack(pair, photo, truth)
    assert found.shape == photo.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - photo).max() <= EPSILON
    np.testing.assert_array_equal(attack(pair, photo, truth), found)


def test_loss_rises_and_further_by_many_steps_than_by_one() -> None:
    random, network, contract = np.random.default_rng(2), Colours(), _contract(size_hw=(32, 32))
    losses: dict[str, list[float]] = {"clean": [], "fgsm": [], "pgd": [], "noise": []}
    for index in range(6):
        photo = random.integers(0, 256, (20, 24, 3), np.uint8)
        truth = random.integers(0, 3, (20, 24), np.uint8)
        pair = Pair(stem=str(index), image=Path("a"), mask=Path("a"))
        changed = {kind: Attack(network, contract, kind)(pair, photo, truth) for kind in KINDS}
        noise = random.choice([-EPSILON, EPSILON], photo.shape)
        changed |= {"clean": photo, "noise": np.clip(photo + noise, 0, 255).astype(np.uint8)}  # type: ignore[dict-item]
        for name, image in changed.items():
            levels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
            losses[name].append(float(attack_loss(network, contract, levels, truth)))
    mean = {name: np.mean(found) for name, found in losses.items()}
    assert mean["clean"] < mean["fgsm"] and mean["noise"] < mean["fgsm"]
    assert mean["fgsm"] <= mean["pgd"] * 1.001
    assert all(np.greater(losses["fgsm"], losses["clean"]))


def test_photo_without_a_label_is_left_alone_by_one_step() -> None:
    void = np.full(LABELS.shape, 255, np.uint8)
    found = Attack(Colours(), _contract(), "fgsm")(Pair(stem="a", image=Path("a"), mask=Path("a")), PHOTO, void)
    np.testing.assert_array_equal(found, PHOTO)


# --- the study


class Flaky:
    """Sees class 3 where it is bright, else class 0; stops where it is told to."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract

    def infer(self, fitted: Image) -> Mask:
        mask: Mask = np.where(fitted[..., 1] > 150, np.uint8(0), np.uint8(3))
        return mask


@pytest.fixture
def streets(street_dataset: Path) -> Dataset:
    return load_dataset(street_dataset)


def _study(names: tuple[str, ...] = ("fog", "contrast"), **facts: Any) -> Study:
    return Study(facts={"split": "val", "images": 4, **facts}, cells=plan_cells(names))


def _run(study: Study, streets: Dataset, contract: Contract, **more: Any) -> Study:
    study.run(Flaky(contract), streets, streets.pairs("val"), {}, seed=0, **more)
    return study


def test_drops_are_shares_of_the_clean_score(streets: Dataset, tiny_contract: Contract) -> None:
    study = _run(_study(("contrast",)), streets, tiny_contract)
    document = study.document()
    scores = document["corruptions"]["contrast"]["miou"]
    drops = [100 * (1 - scores[str(severity)] / document["miou"]) for severity in SEVERITIES]
    assert document["corruptions"]["contrast"]["drop"] == pytest.approx(np.mean(drops))
    assert drops[-1] > 10 and document["complete"]
    assert "mean_relative_drop" not in document and document["group_drops"] == {}  # of all corruptions, or of none


def test_mean_relative_drop_is_over_every_corruption_and_severity() -> None:
    study = _study(tuple(CORRUPTIONS))
    study.scores = {cell: 80.0 if cell == Cell() else 80.0 - 8 * cell.severity for cell in study.cells}
    document = study.document()
    assert document["mean_relative_drop"] == pytest.approx(30.0)
    assert document["group_drops"] == pytest.approx(dict.fromkeys(("noise", "blur", "weather", "digital"), 30.0))


def test_study_that_was_stopped_goes_on_to_the_same_end(
    streets: Dataset, tiny_contract: Contract, tmp_path: Path
) -> None:
    whole = _run(_study(), streets, tiny_contract).document()
    path = tmp_path / "study.json"
    done: list[int] = []
    broken = _study()

    def keep() -> None:
        path.write_text(json.dumps({"schema": "edgeseg/robustness/1", **broken.document()}))

    def advance(n: int) -> None:
        done.append(n)
        if len(done) == 4 * 4 + 2:  # in the middle of a cell
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(broken, streets, tiny_contract, keep=keep, advance=advance)
    assert not json.loads(path.read_text())["complete"]
    again = _study()
    shown: list[int] = []
    again.resume(path)
    assert len(again.scores) == 4
    _run(again, streets, tiny_contract, advance=shown.append)
    assert again.document() == whole
    assert sum(shown) == 4 * len(again.cells) and len(shown) < sum(shown)


def test_study_of_something_else_is_not_gone_on_with(streets: Dataset, tiny_contract: Contract, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    document = _run(_study(()), streets, tiny_contract).document()
    path.write_text(json.dumps({"schema": "edgeseg/robustness/1", **document}))
    with pytest.raises(EdgesegError, match="measured with another images"):
        _study(images=5).resume(path)
    path.write_text('{"schema": "edgeseg/evaluate/1"}')
    with pytest.raises(EdgesegError, match="cannot be read"):
        _study().resume(path)
    path.write_text("[]")
    with pytest.raises(EdgesegError, match="cannot be read"):
        _study().resume(path)
    _study().resume(tmp_path / "none.json")


# --- the command


@pytest.fixture(scope="module")
def run_folder(street_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network has learned nothing, and says different classes in one picture."""
    out = tmp_path_factory.mktemp("runs") / "raw"
    config = TrainConfig(height=64, width=96, network="nano")
    dataset = load_dataset(street_dataset)
    torch.manual_seed(0)
    network = SegmentationNetwork(len(dataset.classes), size="nano")
    nn.init.normal_(network.classifier.weight)
    weights = network.state_dict()
    write_checkpoint(
        out,
        Checkpoint(
            config=config,
            contract=contract_of(dataset, config),
            dataset=dataset.name,
            digests={},
            network=weights,
            averaged={f"module.{name}": value for name, value in weights.items()},
            optimiser={},
            history=[],
        ),
    )
    return out


def _robustness(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(main, ["robustness", *map(str, words)])


def test_run_is_corrupted_attacked_and_documented(run_folder: Path, street_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "robust.json"
    flags = ["--split", "val", "--limit", "2", "--only", "fog", "--only", "pgd", "--json", out]
    result = _robustness(run_folder, street_dataset, *flags)
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text())
    assert document["schema"] == "edgeseg/robustness/1" and document["complete"]
    assert (document["images"], document["split"]) == (2, "val")
    assert set(document["corruptions"]["fog"]["miou"]) == set("12345")
    assert document["attacks"]["pgd"]["epsilon"] == EPSILON and document["attacks"]["pgd"]["steps"] == 10
    assert document["attacks"]["pgd"]["miou"] < document["miou"]
    assert "pgd, 2/255" in result.output
    before = out.read_text()
    assert _robustness(run_folder, street_dataset, *flags, "--resume").exit_code == 0
    assert json.loads(out.read_text())["corruptions"] == json.loads(before)["corruptions"]
    refused = _robustness(run_folder, street_dataset, *flags, "--resume", "--seed", "1")
    assert refused.exit_code == 1 and "another seed" in refused.output


def test_bundle_is_corrupted_and_attacked_through_its_run_only(
    tiny_bundle: Path, run_folder: Path, street_dataset: Path, tmp_path: Path
) -> None:
    flags = ["--split", "val", "--limit", "1"]
    result = _robustness(tiny_bundle, street_dataset, *flags, "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "a.json").read_text())
    assert set(document["corruptions"]) == set(CORRUPTIONS) and document["attacks"] == {}
    assert "mean relative drop" in result.output
    refused = _robustness(tiny_bundle, street_dataset, *flags, "--only", "fgsm")
    assert refused.exit_code == 2 and "--attack-with" in refused.output
    other = _robustness(tiny_bundle, street_dataset, *flags, "--attack-with", run_folder)
    assert other.exit_code == 1 and "another contract" in other.output


def test_resume_needs_a_document_and_help_ends_with_an_example(run_folder: Path, street_dataset: Path) -> None:
    refused = _robustness(run_folder, street_dataset, "--split", "val", "--resume")
    assert refused.exit_code == 2 and "--json" in refused.output
    assert _robustness("--help").output.splitlines()[-1].strip().startswith("Example: edgeseg robustness street")


def test_altered_photos_are_what_the_network_is_shown(streets: Dataset, tiny_contract: Contract) -> None:
    def alter(pair: Pair, image_bgr: Image, truth: Mask) -> Image:
        assert truth.shape == image_bgr.shape[:2]
        return np.full_like(image_bgr, 255 if pair.stem == "00" else 0)

    pairs = streets.pairs("val")[:2]
    found: list[Prediction] = list(predict_pairs(Flaky(tiny_contract), streets, pairs, alter=alter))
    assert [int(one.mask.max()) for one in found] == [0, 3]
    assert [int(one.image_bgr.min()) for one in found] == [255, 0]


# --- augmentation


def test_augmentation_changes_photos_by_its_share_and_never_labels() -> None:
    def changed(share: float) -> int:
        pipeline, count = A.Compose([robust_augmentation(share)]), 0
        for seed in range(40):
            pipeline.set_random_seed(seed)
            found = pipeline(image=PHOTO, mask=LABELS)
            np.testing.assert_array_equal(found["mask"], LABELS)
            assert (found["image"].shape, found["image"].dtype) == (PHOTO.shape, np.uint8)
            count += not np.array_equal(found["image"], PHOTO)
        return count

    assert changed(0.0) == 0
    assert 10 <= changed(0.5) <= 30
    assert changed(1.0) >= 39


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=30)
def test_mixing_is_repeatable_and_keeps_what_has_no_colour_to_lose(seed: int) -> None:
    pipeline = A.Compose([AugMix(p=1)])

    def mix(image: Image) -> Image:
        pipeline.set_random_seed(seed)
        found: Image = pipeline(image=image)["image"]
        return found

    np.testing.assert_array_equal(mix(PHOTO), mix(PHOTO))
    black = np.zeros((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(mix(black), black)
