"""What the tests of every portion share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

from edgeseg.runtime.bundle import open_bundle, write_bundle
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.manifest import Golden, Provenance, Stage, golden_paths

# Rich takes a width that it finds at its import for good; tests set their own, each for itself.
os.environ.pop("COLUMNS", None)
# A busy machine is no failure of a law.
settings.register_profile("edgeseg", deadline=None)
settings.load_profile("edgeseg")

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip


def _data_folder(name: str) -> Path:
    root = Path(os.environ.get("EDGESEG_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"no {name} data at {root}: set EDGESEG_DATA")
    return root / name


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What edgeseg remembers of this machine stays in the tests' own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The CamVid folder with its dataset.toml."""
    return _data_folder("camvid")


@pytest.fixture(scope="session")
def videos() -> Path:
    """The folder of real clips."""
    return _data_folder("videos")


@pytest.fixture(scope="session")
def tiny_contract() -> Contract:
    """CamVid's classes at 64x96, stretched."""
    return Contract(height=64, width=96, fit="stretch", classes=CLASSES, palette=PALETTE, ignore_index=11)


def _nearest_colour_model(contract: Contract) -> bytes:
    """An ONNX graph that gives each pixel the class of the nearest palette colour, exactly."""
    import onnx
    from onnx import TensorProto, helper

    height, width = contract.size_hw
    colours_bgr = (np.array(contract.palette, np.float32)[:, ::-1] - 127) / 128
    constants = {
        "mean": np.float32(127),
        "scale": np.float32(1 / 128),
        # The nearest colour p to x has the largest 2 x.p - p.p; in 1/128ths every term is exact in float32.
        "weight": (2 * colours_bgr)[:, :, None, None],
        "bias": -(colours_bgr**2).sum(axis=1),
    }
    nodes = [
        helper.make_node("Cast", ["frame"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["normalised"]),
        helper.make_node("Conv", ["normalised", "weight", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["index_float"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["index_float"], ["mask"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "nearest_colour",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, [1, height, width])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return bytes(inferred.SerializeToString())


@pytest.fixture(scope="session")
def make_tiny_bundle(tiny_contract: Contract) -> Callable[..., Path]:
    """Write the tiny bundle to a folder and return that folder; keywords change its contract."""
    model = _nearest_colour_model(tiny_contract)

    def make(folder: Path, **changes: object) -> Path:
        (folder / "golden").mkdir(parents=True)
        (folder / "model.fp32.onnx").write_bytes(model)
        labels = np.random.default_rng(0).integers(0, len(CLASSES), (8, 12))
        mask = labels.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
        frame = np.array(PALETTE, np.uint8)[mask][..., ::-1]
        for path, picture in zip(golden_paths("blocks"), (frame, mask), strict=True):
            assert cv2.imwrite(str(folder / path), picture)
        write_bundle(
            folder,
            name="tiny",
            contract=tiny_contract.model_copy(update=changes),
            stages={
                "fp32": Stage(
                    miou=100,
                    per_class_iou={},
                    pixel_accuracy=100,
                    images=1,
                    split="test",
                    split_sha256="0" * 64,
                    instruction_set=(),
                )
            },
            golden=Golden(frames=("blocks",), agreement={"fp32": 1.0}),
            provenance=Provenance(dataset="blocks", splits={}, created="2026-01-01T00:00:00Z"),
        )
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_bundle(make_tiny_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle that masks each pixel with the class of the nearest palette colour. Read, never write."""
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="session")
def sure_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle whose graph also tells its confidence, for each 8x8 pixels. Read, never write."""
    import onnx

    from edgeseg.export.confidence import add_confidence
    from edgeseg.export.graph import seal_graph

    folder = tmp_path_factory.mktemp("sure") / "sure"
    shutil.copytree(tiny_bundle, folder)
    with open_bundle(tiny_bundle) as tiny:
        manifest = tiny.manifest
    model = onnx.load(folder / "model.fp32.onnx")
    add_confidence(model, 8)
    (folder / "model.fp32.onnx").write_bytes(seal_graph(model))
    write_bundle(
        folder,
        name="sure",
        contract=manifest.contract.model_copy(update={"confidence_cell": 8}),
        stages=manifest.stages,
        golden=manifest.golden,
        provenance=manifest.provenance,
    )
    return folder


@pytest.fixture(scope="session")
def street_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the street camera's frames at 96x64: ten to train on, four to score. Read, never write."""
    from edgeseg.runtime.street import STREET_CLASSES, STREET_IGNORE, STREET_PALETTE, StreetCamera

    folder = tmp_path_factory.mktemp("street") / "streets"
    camera = StreetCamera(size_hw=(64, 96), seed=7)
    for split, count in (("train", 10), ("val", 4)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            image, mask = camera.render(index * 40 + (20 if split == "val" else 0))
            assert cv2.imwrite(str(folder / "images" / split / f"{index:02}.png"), image)
            assert cv2.imwrite(str(folder / "masks" / split / f"{index:02}.png"), mask)
    (folder / "dataset.toml").write_text(
        f'name = "streets"\nignore_index = {STREET_IGNORE}\n'
        f"classes = {list(STREET_CLASSES)!r}\npalette = {[list(c) for c in STREET_PALETTE]!r}\n".replace("'", '"')
        + "".join(f'[splits.{s}]\nimages = "images/{s}"\nmasks = "masks/{s}"\n' for s in ("train", "val"))
    )
    return folder
