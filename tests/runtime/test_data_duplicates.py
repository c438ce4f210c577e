"""Images that are in a dataset twice: the law of the fingerprint, and what the check says of splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.cli import main
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.dataset_duplicates import NEAR, alike, fingerprint, groups

DatasetMaker = Callable[..., Path]
Array = npt.NDArray[np.uint8]
LABELS = np.zeros((90, 120), np.uint8)


def scene(seed: int, size_hw: tuple[int, int] = (90, 120)) -> Array:
    """Smooth blotches between 40 and 200."""
    blotches = np.random.default_rng(seed).integers(40, 201, (9, 12, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(blotches, size_hw[::-1], interpolation=cv2.INTER_LINEAR)).astype(np.uint8)


def compressed(image: Array) -> Array:
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)).astype(np.uint8)


def brighter(image: Array) -> Array:
    """So bright that highlights clip."""
    return np.asarray(cv2.convertScaleAbs(image, alpha=1.2, beta=20)).astype(np.uint8)


COPIES: dict[str, Callable[[Array], Array]] = {
    "compressed": compressed,
    "halved": lambda image: np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "stretched": lambda image: np.asarray(cv2.resize(image, (300, 90))),
    "darker": lambda image: (image * 0.5).astype(np.uint8),
    "noisy": lambda image: (image + np.random.default_rng(9).normal(0, 10, image.shape)).clip(0, 255).astype(np.uint8),
    "shifted": lambda image: np.roll(image, 2, axis=1),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("seed", range(3))
def test_altered_copy_is_nearly_the_same(copy: Callable[[Array], Array], seed: int) -> None:
    ((one, other, likeness),) = alike([fingerprint(scene(seed)), fingerprint(copy(scene(seed)))])
    assert (one, other) == (0, 1)
    assert NEAR <= likeness < 1


@given(gain=st.floats(0.3, 1.2), offset=st.integers(-11, 10), seed=st.integers(0, 1000))
def test_fingerprint_does_not_depend_on_brightness_and_contrast(gain: float, offset: int, seed: int) -> None:
    changed = (scene(seed) * gain + offset).round().clip(0, 255).astype(np.uint8)
    one, other = fingerprint(scene(seed)).steps, fingerprint(changed).steps
    assert one is not None and other is not None
    assert float(one @ other) > 0.99
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)


def test_different_scenes_are_not_alike() -> None:
    assert list(alike([fingerprint(scene(seed)) for seed in range(60)])) == []


def test_dark_fields_with_spots_elsewhere_are_not_alike() -> None:
    """Microscopy: most pixels are the same black, and only where the spots are tells images apart."""
    fields = []
    for seed in range(40):
        field = np.zeros((128, 128, 3), np.uint8)
        for x, y in np.random.default_rng(seed).integers(10, 118, (12, 2)).tolist():
            cv2.circle(field, (x, y), 8, (180, 180, 180), -1)
        fields.append(fingerprint(field))
    assert list(alike(fields)) == []


def test_flat_images_are_alike_only_if_equal() -> None:
    flats = [np.full((40, 40, 3), level, np.uint8) for level in (10, 10, 11)]
    assert list(alike([fingerprint(flat) for flat in flats])) == [(0, 1, 1.0)]


def test_size_is_a_part_of_sameness() -> None:
    tall, wide = np.zeros((4, 8, 3), np.uint8), np.zeros((8, 4, 3), np.uint8)
    assert fingerprint(tall).pixels != fingerprint(wide).pixels


@given(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_groups_are_what_pairs_connect(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(one, other) for one, other in pairs if max(one, other) < count]
    found = groups(count, pairs)
    assert sorted(index for group in found for index in group) == list(range(count))
    where = {index: number for number, group in enumerate(found) for index in group}
    assert all(where[one] == where[other] for one, other in pairs)
    assert sum(len(group) - 1 for group in found) <= len(pairs)


# --- in the check


def check(folder: Path, tmp_path: Path, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    report = tmp_path / "report.json"
    result = CliRunner(env={"COLUMNS": "300"}).invoke(
        main, ["data", "check", str(folder), "--json", str(report), *arguments]
    )
    return result.exit_code, json.loads(report.read_text())["findings"], result.output


def two_splits(make_dataset: DatasetMaker, train: dict[str, Any], val: dict[str, Any]) -> Path:
    files: dict[str, Any] = {}
    for split, images in (("train", train), ("val", val)):
        for name, image in images.items():
            files[f"images/{split}/{name}.png"] = image
            files[f"masks/{split}/{name}.png"] = LABELS
    folder = make_dataset(files, classes=("ground",), palette=((0, 0, 0),))
    text = (folder / "dataset.toml").read_text()
    splits = "".join(f'[splits.{s}]\nimages = "images/{s}"\nmasks = "masks/{s}"\n' for s in ("train", "val"))
    (folder / "dataset.toml").write_text(text[: text.index("[splits")] + splits)
    return folder


def test_copy_in_another_split_is_an_error_that_names_both(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    folder = two_splits(
        make_dataset,
        {"a": scene(0), "b": scene(1), "c": scene(2)},
        {"d": scene(3), "e": compressed(scene(1)), "f": scene(2)},
    )
    status, findings, _ = check(folder, tmp_path)
    assert status == 1
    assert [(f["rule"], f["file"], f["splits"]) for f in findings] == [
        ("duplicate-across-splits", "images/val/e.png", ["val", "train"]),
        ("duplicate-across-splits", "images/val/f.png", ["val", "train"]),
    ]
    assert "images/train/b.png" in findings[0]["found"] and "nearly" in findings[0]["found"]
    assert "the same pixels as images/train/c.png" in findings[1]["found"]


def test_copies_in_one_split_are_one_warning(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    burst = {f"b{i}": (scene(5) * (1 - 0.05 * i)).astype(np.uint8) for i in range(6)}
    status, findings, output = check(two_splits(make_dataset, {"a": scene(0), **burst}, {"d": scene(3)}), tmp_path)
    assert status == 0
    (finding,) = findings
    assert (finding["rule"], finding["severity"], finding["file"]) == ("duplicate", "warning", "images/train/b0.png")
    assert finding["found"].endswith("and 2 more")
    assert "0 errors and 1 warnings" in output


def test_same_image_with_two_labels_is_an_error(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    folder = two_splits(make_dataset, {"a": scene(0), "b": scene(0)}, {"d": scene(3)})
    cv2.imwrite(str(folder / "masks" / "train" / "b.png"), LABELS + 255)
    status, findings, _ = check(folder, tmp_path)
    assert status == 1
    assert [f["rule"] for f in findings if f["severity"] == "error"] == ["conflicting-labels", "only-void"]


def test_split_within_a_split_is_a_warning_and_no_leak(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    more = '[splits.some]\nimages = "images"\nmasks = "masks"\ninclude = ["a*"]\n'
    files = {f"{kind}/{name}.png": scene(i) if kind == "images" else LABELS
             for i, name in enumerate(("a1", "a2", "b1")) for kind in ("images", "masks")}  # fmt: skip
    folder = make_dataset(files, classes=("ground",), palette=((0, 0, 0),), more=more)
    status, findings, _ = check(folder, tmp_path)
    assert status == 0
    assert [(f["rule"], f["splits"]) for f in findings] == [("part-of-split", ["all", "some"])]


def test_splits_that_overlap_are_an_error(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    more = "".join(
        f'[splits.{name}]\nimages = "images"\nmasks = "masks"\ninclude = {json.dumps(patterns)}\n'
        for name, patterns in (("one", ["a*", "b*"]), ("two", ["b*", "c*"]))
    )
    files = {f"{kind}/{name}.png": scene(i) if kind == "images" else LABELS
             for i, name in enumerate(("a", "b", "c")) for kind in ("images", "masks")}  # fmt: skip
    folder = make_dataset(files, classes=("ground",), palette=((0, 0, 0),), more=more)
    status, findings, _ = check(folder, tmp_path, "--split", "one", "--split", "two")
    assert status == 1
    assert [f["rule"] for f in findings] == ["shared-by-splits"]
    assert "share 1 images" in findings[0]["found"]


def test_train_without_val_gets_the_line_to_add(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    files = {
        f"{kind}/{i}.png": scene(i) if kind == "images" else LABELS for i in range(5) for kind in ("images", "masks")
    }
    folder = make_dataset(files, classes=("ground",), palette=((0, 0, 0),))
    toml = (folder / "dataset.toml").read_text().replace("[splits.all]", "[splits.train]")
    (folder / "dataset.toml").write_text(toml)
    status, findings, _ = check(folder, tmp_path)
    assert (status, [f["rule"] for f in findings]) == (0, ["no-val"])
    assert "val_share = 0.2" in findings[0]["fix"]
    (folder / "dataset.toml").write_text("val_share = 0.2\n" + toml)
    assert check(folder, tmp_path)[:2] == (0, [])


def test_class_that_a_split_lacks_is_a_warning(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    folder = make_dataset({"images/a.png": scene(0), "masks/a.png": LABELS})
    status, findings, _ = check(folder, tmp_path)
    assert (status, [f["rule"] for f in findings]) == (0, ["absent-class"])
    assert "no pixel of crate, tree in split 'all'" in findings[0]["found"]


def test_binary_masks_that_read_as_void_get_the_way_out(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    mask = np.where(scene(1)[..., 0] > 120, 255, 0).astype(np.uint8)
    palette = ((0, 0, 0), (255, 255, 255))
    folder = make_dataset({"images/a.png": scene(0), "masks/a.png": mask}, classes=("soil", "root"), palette=palette)
    status, findings, _ = check(folder, tmp_path)
    assert (status, [f["rule"] for f in findings]) == (0, ["absent-class"])
    assert "if 255 in the masks is root, set ignore_index = 254" in findings[0]["fix"]
    toml = (folder / "dataset.toml").read_text().replace("ignore_index = 255", "ignore_index = 254")
    (folder / "dataset.toml").write_text(toml)
    assert check(folder, tmp_path)[:2] == (0, [])


def test_12_bits_in_16_get_the_line_to_add(make_dataset: DatasetMaker, tmp_path: Path) -> None:
    samples = scene(0)[..., 0].astype(np.uint16) * 16
    folder = make_dataset({"images/a.png": samples, "masks/a.png": LABELS}, classes=("ground",), palette=((0, 0, 0),))
    status, findings, _ = check(folder, tmp_path)
    assert (status, [f["rule"] for f in findings]) == (0, ["dark"])
    assert "white_level = 4095" in findings[0]["fix"]
    toml = (folder / "dataset.toml").read_text()
    (folder / "dataset.toml").write_text("white_level = 4095\n" + toml)
    assert check(folder, tmp_path)[:2] == (0, [])


# --- the figures that docs/data.md gives


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_copies_of_camvid_are_told_from_its_other_photos(camvid: Path) -> None:
    dataset = load_dataset(camvid)
    photos = [dataset.read_image(pair) for split in ("train", "val", "test") for pair in dataset.pairs(split)]
    steps = np.stack([s for photo in photos if (s := fingerprint(photo).steps) is not None])
    assert len(steps) == 701
    copies = {name: COPIES[name] for name in ("compressed", "halved", "darker", "noisy")} | {"brighter": brighter}
    for name, copy in copies.items():
        altered = np.stack([s for photo in photos[::14] if (s := fingerprint(copy(photo)).steps) is not None])
        likeness = (altered * steps[::14]).sum(axis=1)
        print(name, f"{np.quantile(likeness, 0.02):.3f}")  # noqa: T201
        assert np.quantile(likeness, 0.02) >= 0.96
    far = (steps @ steps.T)[np.triu_indices(len(steps), 30)]
    print("far", f"{np.quantile(far, 0.999):.3f}")  # noqa: T201
    assert np.quantile(far, 0.999) < 0.57
