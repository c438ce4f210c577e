"""From a run to a bundle, through the library's and the command line's door."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeseg.export.make import export_bundle
from edgeseg.export.parity import MAX_IMAGES, MIN_AGREEMENT, check_parity, choose_pairs
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.cli import main
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import Dataset, load_dataset
from edgeseg.runtime.errors import DatasetError, EdgesegError, ExportError
from edgeseg.runtime.evaluate import evaluate, open_bundle_predictor
from edgeseg.runtime.frame import Image, Mask
from edgeseg.runtime.manifest import PRECISIONS
from edgeseg.train.config import TrainConfig
from edgeseg.train.network import SegmentationNetwork
from edgeseg.train.run import CHECKPOINT_NAME, Checkpoint, LoadedRun, write_checkpoint

MakeRun = Callable[[nn.Module], LoadedRun]


@pytest.fixture(scope="module")
def streets(street_dataset: Path) -> Dataset:
    return load_dataset(street_dataset)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, streets: Dataset, tiny_contract: Contract) -> Path:
    """What `edgeseg train` leaves, with weights as they are before the first step."""
    torch.manual_seed(1)
    network = SegmentationNetwork(len(tiny_contract.classes)).state_dict()
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_checkpoint(
        folder,
        Checkpoint(
            config=TrainConfig(height=64, width=96, fit="stretch"),
            contract=tiny_contract,
            dataset=streets.name,
            digests={"train": streets.digest("train")},
            network=network,
            averaged={f"module.{name}": tensor for name, tensor in network.items()},
            optimiser={},
            history=[],
        ),
    )
    return folder


def test_command_makes_a_bundle_of_a_run(run_folder: Path, street_dataset: Path, tmp_path: Path) -> None:
    out, document = tmp_path / "bundles" / "Street", tmp_path / "export.json"
    arguments = ["export", str(run_folder), "--data", str(street_dataset), "--out", str(out), "--json", str(document)]
    result = CliRunner().invoke(main, [*arguments, "--precision", "fp32"])
    assert result.exit_code == 0, result.output
    bundle, figures = open_bundle(out), json.loads(document.read_text())
    assert bundle.name == "street"
    assert figures["schema"] == "edgeseg/export/1"
    assert figures["bundle"] == {"name": "street", "manifest_sha256": bundle.manifest_sha256}
    assert figures["images"] == figures["parity"]["images"] == 4
    assert figures["parity"]["agreement"] >= MIN_AGREEMENT
    assert bundle.precisions == tuple(figures["stages"]) == ("fp32",)
    assert "of the pixels of 4 images" in result.output and "bundle street" in result.output
    assert [path.name for path in out.parent.iterdir()] == ["Street"]


def test_attached_files_are_carried_and_pinned(run_folder: Path, street_dataset: Path, tmp_path: Path) -> None:
    card = tmp_path / "MODEL_CARD.md"
    card.write_text("what it was trained on")
    arguments = ["export", str(run_folder), "--data", str(street_dataset), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*arguments, "--precision", "fp32", "--attach", str(card)])
    assert result.exit_code == 0, result.output
    assert "MODEL_CARD.md" in open_bundle(tmp_path / "out").manifest.files
    (tmp_path / "manifest.json").write_text("{}")
    result = CliRunner().invoke(main, [*arguments, "--attach", str(tmp_path / "manifest.json")])
    assert result.exit_code == 1 and "manifest.json cannot be attached" in result.stderr


def test_command_refuses_a_name_that_no_bundle_can_have(run_folder: Path, street_dataset: Path, tmp_path: Path) -> None:
    arguments = [
        "export",
        str(run_folder),
        "--data",
        str(street_dataset),
        "--out",
        str(tmp_path / "x"),
        "--name",
        "a b",
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "'a b' is no bundle's name" in result.output


def test_command_says_in_one_line_what_is_no_run(street_dataset: Path, tmp_path: Path) -> None:
    arguments = ["export", str(tmp_path), "--data", str(street_dataset), "--out", str(tmp_path / "x")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and result.output.startswith("error: no checkpoint.pt in ")


# Bad runs and bad data, through the command's door: one line each, and nothing written.


def _without(*path: str) -> Callable[[dict[str, Any]], None]:
    def remove(document: dict[str, Any]) -> None:
        for name in path[:-1]:
            document = document[name]
        del document[path[-1]]

    return remove


def _with(value: object, *path: str) -> Callable[[dict[str, Any]], None]:
    def put(document: dict[str, Any]) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return put


def _renamed(document: dict[str, Any]) -> None:
    document["averaged"] = {name.replace("pyramid", "neck"): values for name, values in document["averaged"].items()}


def _narrowed(document: dict[str, Any]) -> None:
    document["averaged"]["module.classifier.weight"] = document["averaged"]["module.classifier.weight"][:-4]


def _spoilt(document: dict[str, Any]) -> None:
    document["averaged"]["module.classifier.weight"].fill_(float("nan"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_renamed, "holds a network of another architecture; expected SegmentationNetwork of this version"),
        (_narrowed, "holds a network of another architecture"),
        (_spoilt, "classifier.weight holds values that are not finite"),
        (_with("other/9", "format"), "has format other/9; expected edgeseg/checkpoint/1"),
        (_without("contract"), "contract: Field required"),
        (_with(1 << 40, "contract", "height"), "contract.height: Input should be less than or equal to 8192"),
        (_with(["a", "b"], "contract", "classes"), "11 palette colours for 2 classes"),
        (_with(5, "averaged"), "averaged: Input should be a valid dictionary"),
        (_with(3, "config"), "config: "),
    ],
)
def test_a_run_that_is_not_sound_is_one_line(
    run_folder: Path, street_dataset: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    document = torch.load(run_folder / CHECKPOINT_NAME, weights_only=True)
    change(document)
    (tmp_path / "run").mkdir()
    torch.save(document, tmp_path / "run" / CHECKPOINT_NAME)
    _expect_one_line(["export", str(tmp_path / "run"), "--data", str(street_dataset)], tmp_path, said)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_checkpoint_is_one_line(
    run_folder: Path, street_dataset: Path, tmp_path: Path, share: float
) -> None:
    whole = (run_folder / CHECKPOINT_NAME).read_bytes()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CHECKPOINT_NAME).write_bytes(whole[: int(len(whole) * share)])
    _expect_one_line(["export", str(tmp_path / "run"), "--data", str(street_dataset)], tmp_path, "cannot be read")


def test_a_checkpoint_cannot_run_code(street_dataset: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "run").mkdir()
    torch.save({"format": Trap()}, tmp_path / "run" / CHECKPOINT_NAME)
    _expect_one_line(["export", str(tmp_path / "run"), "--data", str(street_dataset)], tmp_path, "cannot be read")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_data_with_other_classes_is_one_line(
    run_folder: Path, street_dataset: Path, tmp_path: Path, precision: str
) -> None:
    shutil.copytree(street_dataset, tmp_path / "run")
    described = tmp_path / "run" / "dataset.toml"
    described.write_text(described.read_text().replace('"sky"', '"heaven"'))
    command = ["export", str(run_folder), "--data", str(tmp_path / "run"), "--precision", precision]
    _expect_one_line(command, tmp_path, "calls class 0 'heaven'")


def _expect_one_line(command: list[str], folder: Path, said: str) -> None:
    result = CliRunner().invoke(main, [*command, "--out", str(folder / "out")])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert said in result.stderr and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["run"]


@pytest.fixture(scope="module")
def exported(
    make_run: MakeRun, colour_network: nn.Module, streets: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Read, never write."""
    out = tmp_path_factory.mktemp("exported") / "colours"
    export_bundle(make_run(colour_network), streets, split="val", name="colours", out=out)
    return open_bundle(out)


@pytest.fixture
def earlier(exported: Bundle, tmp_path: Path) -> Path:
    """A bundle from an earlier export."""
    return Path(shutil.copytree(exported.path, tmp_path / "colours"))


def test_bundle_records_what_was_measured(exported: Bundle, streets: Dataset) -> None:
    stage = exported.manifest.stages["fp32"]
    score = evaluate(exported, streets, "val")
    assert (stage.miou, stage.per_class_iou, stage.images) == (score.miou, score.per_class_iou, 4)
    assert (stage.split, stage.split_sha256) == ("val", streets.digest("val"))
    assert stage.pixel_agreement is not None and stage.pixel_agreement >= stage.thresholds["pixel_agreement"] == 0.999
    areas = exported.manifest.reference_areas
    assert areas is not None and set(areas) <= set(exported.contract.classes)
    assert sum(areas.values()) == pytest.approx(1)


def test_bundle_records_where_it_comes_from(exported: Bundle) -> None:
    provenance = exported.manifest.provenance
    assert (provenance.dataset, provenance.splits, provenance.seed) == ("streets", {"train": "0" * 64}, 3)
    assert provenance.training == {"epochs": 1, "splits": ["train"]}
    assert provenance.packages == {"numpy": "1"}


def test_golden_frames_come_out_as_they_must(exported: Bundle) -> None:
    frames = exported.golden_frames()
    assert len(frames) == 3 and len({frame.tobytes() for _, frame, _ in frames}) == 3
    with open_bundle_predictor(exported, precision="fp32") as predictor:
        for _, frame, mask in frames:
            agreement = (predictor.infer(frame[None])[0] == mask).mean()
            assert agreement >= exported.manifest.golden.agreement["fp32"]


def test_out_may_be_a_single_file(
    make_run: MakeRun, colour_network: nn.Module, streets: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "colours.edgeseg"
    exported = export_bundle(make_run(colour_network), streets, split="val", name="colours", out=out)
    with open_bundle(out) as bundle:
        assert bundle.manifest_sha256 == exported.manifest_sha256
    assert list(out.parent.iterdir()) == [out]


def test_a_bundle_that_was_there_is_replaced(
    earlier: Path, make_run: MakeRun, colour_network: nn.Module, streets: Dataset
) -> None:
    export_bundle(make_run(colour_network), streets, split="val", name="newer", out=earlier)
    assert open_bundle(earlier).name == "newer"


# What leaves no bundle.


class ChangesAfterExport(nn.Module):
    """Gives other classes once it is no longer being exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits if torch.compiler.is_exporting() else logits.roll(1, dims=1)


def test_a_graph_that_is_not_the_network_leaves_no_bundle(
    make_run: MakeRun, colour_network: nn.Module, streets: Dataset, tmp_path: Path
) -> None:
    run = make_run(ChangesAfterExport(colour_network).eval())
    with pytest.raises(ExportError, match=r"agree on 0\.000% of the pixels of 4 images; expected at least 99\.9%"):
        export_bundle(run, streets, split="val", name="colours", out=tmp_path / "colours")
    assert not list(tmp_path.iterdir())


def test_a_failed_export_keeps_the_bundle_that_was_there(
    exported: Bundle, earlier: Path, make_run: MakeRun, colour_network: nn.Module, streets: Dataset
) -> None:
    run = make_run(ChangesAfterExport(colour_network).eval())
    with pytest.raises(ExportError):
        export_bundle(run, streets, split="val", name="newer", out=earlier)
    assert open_bundle(earlier).manifest_sha256 == exported.manifest_sha256
    assert list(earlier.parent.iterdir()) == [earlier]


@pytest.mark.parametrize("name", ["folder", "file", "file.edgeseg/folder"])
def test_what_is_no_bundle_is_never_replaced(
    make_run: MakeRun, colour_network: nn.Module, streets: Dataset, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    kept = out if name == "file" else out / "kept.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("precious")
    with pytest.raises(ExportError, match="exists and is no bundle"):
        export_bundle(make_run(colour_network), streets, split="val", name="colours", out=out)
    assert kept.read_text() == "precious"


def test_unusable_data_is_named_before_any_work(
    make_run: MakeRun, colour_network: nn.Module, streets: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="has no split 'test'; expected one of train, val"):
        export_bundle(make_run(colour_network), streets, split="test", name="colours", out=tmp_path / "colours")
    contract = make_run(colour_network).contract.model_copy(update={"classes": tuple("abcdefghijk")})
    run = LoadedRun(network=colour_network, contract=contract, weights="0" * 64, metadata={})
    with pytest.raises(DatasetError, match="calls class 0 'sky'"):
        export_bundle(run, streets, split="val", name="colours", out=tmp_path / "colours")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(
    make_run: MakeRun, colour_network: nn.Module, streets: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgesegError, match="cannot write"):
        export_bundle(make_run(colour_network), streets, split="val", name="colours", out=tmp_path / "file" / "colours")


# Parity.


@given(wrong=st.integers(0, 64 * 96))
def test_parity_is_the_share_of_pixels(streets: Dataset, tiny_contract: Contract, wrong: int) -> None:
    def network(fitted: Image) -> Mask:
        return np.zeros(fitted.shape[:3], np.uint8)

    def graph(fitted: Image) -> Mask:
        mask = network(fitted)
        mask.ravel()[:wrong] = 1
        return mask

    pairs, share = streets.pairs("val")[:1], 1 - wrong / (64 * 96)
    if share < MIN_AGREEMENT:
        with pytest.raises(ExportError, match="graph and network agree on"):
            check_parity(network, graph, tiny_contract, streets, pairs)
    else:
        assert check_parity(network, graph, tiny_contract, streets, pairs).agreement == pytest.approx(share)


def test_parity_images_are_spread_over_the_split(camvid: Path) -> None:
    dataset = load_dataset(camvid)
    everything, chosen = dataset.pairs("test"), choose_pairs(dataset, "test")
    assert len({pair.stem for pair in chosen}) == MAX_IMAGES
    assert (chosen[0], chosen[-1]) == (everything[0], everything[-1])
