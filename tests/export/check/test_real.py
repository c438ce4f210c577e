"""Real pictures: as golden frames of a bundle, and to hold its precisions, and the run it was made of, against."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.cli import main
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.frame import Image
from edgeseg.runtime.manifest import golden_paths
from edgeseg.train.config import TrainConfig
from edgeseg.train.network import SegmentationNetwork
from edgeseg.train.run import CHECKPOINT_NAME, Checkpoint, write_checkpoint
from edgeseg.train.samples import to_network

REAL = 2
pytestmark = pytest.mark.usefixtures("without_compiler")  # it has its own tests, and takes seconds


def edgeseg(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_run(folder: Path, data: Path, contract: Contract, splits: tuple[str, ...], select: str | None) -> Path:
    """Write what `edgeseg train` leaves, before its first step; statistics and a bias let classes differ."""
    torch.manual_seed(1)
    dataset = load_dataset(data)
    network = _lively(len(contract.classes), [dataset.read_image(pair) for pair in dataset.pairs(splits[0])])
    write_checkpoint(
        folder,
        Checkpoint(
            config=TrainConfig(height=64, width=96, fit="stretch", splits=splits, select=select),
            contract=contract,
            dataset=dataset.name,
            digests={split: dataset.digest(split) for split in splits},
            network=network,
            averaged={f"module.{name}": tensor for name, tensor in network.items()},
            optimiser={},
            history=[],
        ),
    )
    return folder


def _lively(classes: int, pictures: list[Image]) -> dict[str, torch.Tensor]:
    network = SegmentationNetwork(classes)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one pass is enough
    x = torch.stack([to_network(picture) for picture in pictures])
    with torch.no_grad():
        network.train()(x)
        means = network.eval()(x).mean(dim=(0, 2, 3))
        assert network.classifier.bias is not None
        network.classifier.bias.sub_(means.repeat_interleave(len(network.classifier.bias) // classes))  # its cells'
    return network.state_dict()


def split_again(data: Path, folder: Path, splits: dict[str, str]) -> Path:
    """Copy a dataset; `splits` are its new ones, each over the pictures of an old one."""
    shutil.copytree(data, folder)
    described = folder / "dataset.toml"
    head = described.read_text().split("[splits.")[0]
    described.write_text(
        head
        + "".join(f'[splits.{new}]\nimages = "images/{old}"\nmasks = "masks/{old}"\n' for new, old in splits.items())
    )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, street_dataset: Path, tiny_contract: Contract) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return write_run(folder, street_dataset, tiny_contract, ("train",), "val")


@pytest.fixture(scope="module")
def bundle(run: Path, street_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """fp32 and fp16, with real golden frames. Read, never write."""
    out = tmp_path_factory.mktemp("real") / "street"
    precisions = ("--precision", "fp32", "--precision", "fp16")
    result = edgeseg("export", run, "--data", street_dataset, "--out", out, *precisions, "--golden-real", REAL)
    assert result.exit_code == 0, result.output
    return open_bundle(out)


def fitted(images: Sequence[Path], contract: Contract) -> set[bytes]:
    pictures: list[Image] = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in images]  # type: ignore[misc]
    return {Fitter(contract, (x.shape[0], x.shape[1])).fit(x)[0].tobytes() for x in pictures}


# Golden frames.


def test_real_golden_frames_are_held_out_pictures_beside_the_synthetic(bundle: Bundle, street_dataset: Path) -> None:
    names = bundle.manifest.golden.frames
    assert [name.split("-")[0] for name in names] == ["street"] * 3 + ["real"] * REAL
    assert all(path in bundle.manifest.files for name in names for path in golden_paths(name))
    real = [frame.tobytes() for name, frame, _ in bundle.golden_frames() if name.startswith("real")]
    trained = fitted([pair.image for pair in load_dataset(street_dataset).pairs("train")], bundle.contract)
    scored = fitted([pair.image for pair in load_dataset(street_dataset).pairs("val")], bundle.contract)
    assert len({mask.tobytes() for _, _, mask in bundle.golden_frames()}) == len(names)
    assert len(set(real)) == REAL and set(real) <= trained - scored


def test_every_precision_gives_the_real_frames_as_the_manifest_requires(bundle: Bundle, tmp_path: Path) -> None:
    result = edgeseg("check", bundle.path, "--json", tmp_path / "check.json")
    golden = json.loads((tmp_path / "check.json").read_text())["golden"]
    assert {(row["precision"], row["frame"]) for row in golden} == {
        (precision, frame) for precision in ("fp32", "fp16") for frame in bundle.manifest.golden.frames
    }
    assert all(row["agreement"] >= row["required"] for row in golden), result.output


def test_no_real_frames_unless_asked_for(run: Path, street_dataset: Path, tmp_path: Path) -> None:
    result = edgeseg("export", run, "--data", street_dataset, "--out", tmp_path / "x", "--precision", "fp32")
    assert result.exit_code == 0, result.output
    assert all(name.startswith("street-") for name in open_bundle(tmp_path / "x").manifest.golden.frames)
    assert "licence" in edgeseg("export", "--help").output


def test_pictures_of_the_select_split_are_taken_first(
    street_dataset: Path, tiny_contract: Contract, tmp_path: Path
) -> None:
    data = split_again(street_dataset, tmp_path / "data", {"fit": "train", "select": "val", "held": "held"})
    for kind in ("images", "masks"):
        (data / kind / "held").mkdir()
        shutil.move(data / kind / "train" / "00.png", data / kind / "held" / "00.png")
    made = write_run(tmp_path / "run", data, tiny_contract, ("fit",), "select")
    command = ("export", made, "--data", data, "--split", "held", "--out", tmp_path / "x", "--precision", "fp32")
    result = edgeseg(*command, "--golden-real", 99)
    assert result.exit_code == 0, result.output
    found = open_bundle(tmp_path / "x")
    real = {frame.tobytes() for name, frame, _ in found.golden_frames() if name.startswith("real")}
    assert real == fitted(sorted((data / "images" / "val").iterdir()), found.contract)


def test_pictures_of_test_are_refused(street_dataset: Path, tiny_contract: Contract, tmp_path: Path) -> None:
    data = split_again(street_dataset, tmp_path / "data", {"train": "train", "val": "val", "test": "train"})
    made = write_run(tmp_path / "run", data, tiny_contract, ("train",), None)
    command = ("export", made, "--data", data, "--out", tmp_path / "x", "--precision", "fp32", "--golden-real", 1)
    result = edgeseg(*command)
    assert result.exit_code == 1 and "from split 'test'" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


# Precisions on a dataset.


def test_precisions_are_compared_on_a_split(bundle: Bundle, street_dataset: Path, tmp_path: Path) -> None:
    document = tmp_path / "check.json"
    result = edgeseg("check", bundle.path, "--data", street_dataset, "--split", "val", "--json", document)
    assert "4 pictures of val in fp16" in result.output
    (row,) = json.loads(document.read_text())["real"]
    assert (row["precision"], row["split"], row["images"]) == ("fp16", "val", 4)
    with open_bundle(bundle.path) as whole:
        shares = []
        for pair in load_dataset(street_dataset).pairs("val"):
            masks = [_mask(whole, precision, pair.image) for precision in ("fp32", "fp16")]
            shares.append(np.mean(masks[0] == masks[1]))
    assert row["agreement"] == pytest.approx(np.mean(shares))


def _mask(bundle: Bundle, precision: str, path: Path) -> Any:
    from edgeseg.runtime.backends import open_backend

    picture: Image = cv2.imread(str(path), cv2.IMREAD_COLOR)  # type: ignore[assignment]
    backend = open_backend(bundle, backend="ort", precision=precision)
    try:
        return backend.infer(Fitter(bundle.contract, (picture.shape[0], picture.shape[1])).fit(picture))
    finally:
        backend.close()


def test_a_split_that_is_not_there_is_one_line(bundle: Bundle, street_dataset: Path) -> None:
    result = edgeseg("check", bundle.path, "--data", street_dataset)
    assert result.exit_code == 1 and "has no split 'test'" in result.stderr and result.stderr.count("\n") == 1


# The run that the bundle was made of.


def spoil(run: Path, folder: Path, name: str, factor: float) -> Path:
    """Copy a run with one weight of its averaged network scaled."""
    document = torch.load(run / CHECKPOINT_NAME, weights_only=True)
    document["averaged"][f"module.{name}"] *= factor
    folder.mkdir()
    torch.save(document, folder / CHECKPOINT_NAME)
    return folder


def test_a_bundle_is_beside_its_own_run_within_tolerance(bundle: Bundle, run: Path, tmp_path: Path) -> None:
    result = edgeseg("check", bundle.path, "--explain", "--run", run, "--json", tmp_path / "out.json")
    assert "fp32: every step within its tolerance" in result.output
    rows = [row for row in json.loads((tmp_path / "out.json").read_text())["explain"] if row["precision"] == "fp32"]
    assert [row["op"] for row in rows].count("Conv") == len(_convolutions()) == len(rows) - 1
    assert rows[-1]["tensor"] == "mask" and rows[-1]["agreement"] >= 0.999


def _convolutions() -> list[str]:
    """Names of the weights that an exported graph has: the auxiliary head is for training only."""
    modules = SegmentationNetwork(11).named_modules()
    return [f"{name}.weight" for name, m in modules if isinstance(m, torch.nn.Conv2d) and name != "auxiliary"]


@pytest.mark.parametrize("place", [0, 9, -1])
def test_a_weight_that_the_run_has_otherwise_is_named(bundle: Bundle, run: Path, tmp_path: Path, place: int) -> None:
    weight = _convolutions()[place]
    other = spoil(run, tmp_path / "other", weight, 1.05)
    result = edgeseg("check", bundle.path, "--explain", "--run", other)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert f"(Conv) is the first to diverge from the run's {weight.removesuffix('.weight')}: " in result.stderr
