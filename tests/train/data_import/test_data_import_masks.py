"""Masks as people keep them, without a word on what they mean: beside their images, by names, folders and values."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.train.data_import.conftest import HEIGHT, WIDTH, Import, photo, truth, write_coco, write_photo

from edgeseg.train.data_import.mask_values import Meaning, parse_named_values
from edgeseg.train.data_import.notes import Notes

Array = npt.NDArray[Any]
RED_GREEN = np.array([(0, 0, 0), (0, 255, 0), (255, 0, 0)], np.uint8)
"""RGB of nothing, crop and weed."""
NAMED = ("--class", "crop=#00ff00", "--class", "weed=255,0,0")


def write(path: Path, pixels: Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())
    return path


def write_indexed(path: Path, indices: Array, table: list[tuple[int, int, int]]) -> None:
    """A palette PNG, which OpenCV cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = indices.shape
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", b"".join(map(bytes, table)))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def write_pairs(root: Path, masks: list[Array], *, folder: str = "masks", ending: str = ".png") -> Path:
    for seed, mask in enumerate(masks):
        write_photo(root / "images" / f"{seed}.png", seed, (mask.shape[0], mask.shape[1]))
        write(root / folder / f"{seed}{ending}", mask)
    return root


def test_colour_masks_with_names_of_their_own_are_found_and_named(tmp_path: Path, import_it: Import) -> None:
    """As a public set of 39 field photos has them: `Images/IMG_3438.JPG`, `Weed_Plant_Masks/IMG_3438_mask.png`."""
    root = tmp_path / "field photos (é)"
    for seed in range(8):
        write_photo(root / "Images" / f"IMG 343{seed}.JPG", seed)
        write(root / "Weed_Plant_Masks" / f"IMG 343{seed}_mask.png", RED_GREEN[truth()][..., ::-1])
    (root / ".DS_Store").write_bytes(b"Bud1")
    made = import_it(root, "masks", *NAMED)
    assert made.dataset.classes == ("background", "crop", "weed")
    assert made.dataset.palette[1:] == ((0, 255, 0), (255, 0, 0))
    np.testing.assert_array_equal(made.mask("IMG 3433"), truth())
    assert len(made.stems("train")) == 6 and len(made.stems("val")) == 2 and made.notes == {}


def test_classes_are_called_by_their_values_until_they_are_named(tmp_path: Path, import_it: Import) -> None:
    made = import_it(write_pairs(tmp_path / "s", [truth()] * 3), "masks")
    assert made.dataset.classes == ("background", "class 1", "class 2") and made.notes == {"named-by-value": 2}
    assert "--class NAME=VALUE" in made.result.output


def test_one_file_for_each_object_is_one_mask(tmp_path: Path, import_it: Import) -> None:
    """As a well-known set of nuclei has them; images are RGBA, grey and colour."""
    for seed in range(6):
        folder = tmp_path / "s" / f"nucleus{seed}"
        image = photo(seed)
        stored = (np.dstack([image, np.full(image.shape[:2], 7, np.uint8)]), image[..., 0], image)[seed % 3]
        write(folder / "images" / f"nucleus{seed}.png", stored)
        for index in (1, 2):
            write(folder / "masks" / f"{seed}{index}ab.png", np.where(truth() == index, 255, 0).astype(np.uint8))
    made = import_it(tmp_path / "s", "masks", "--class", "nucleus=255")
    assert made.dataset.classes == ("background", "nucleus") and made.notes == {}
    np.testing.assert_array_equal(made.mask("nucleus4"), truth() > 0)


def test_folder_of_an_images_name_holds_its_objects(tmp_path: Path, import_it: Import) -> None:
    root = write_pairs(tmp_path / "s", [truth()] * 2, folder="labels/0")
    for index in (1, 2):
        write(root / "labels" / "1" / f"{index}{index}.png", np.where(truth() == index, 255, 0).astype(np.uint8))
    (root / "labels" / "0" / "1.png").unlink()
    (root / "labels" / "0" / "0.png").rename(root / "labels" / "0.png")
    made = import_it(root, "masks", "--class", "thing=1-255")
    for stem in ("0", "1"):
        np.testing.assert_array_equal(made.mask(stem), truth() > 0)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_0_and_255_are_background_and_object_also_from_a_jpeg(tmp_path: Path, import_it: Import, ending: str) -> None:
    binary = np.roll(cv2.resize((truth() > 0).astype(np.uint8) * 255, (160, 120)), 3)
    binary = np.where(binary > 127, 255, 0).astype(np.uint8)
    made = import_it(write_pairs(tmp_path / "s", [binary] * 3, ending=ending), "masks")
    assert made.dataset.classes == ("background", "object")
    assert np.mean(made.mask("1") == (binary > 0)) > 0.99
    assert made.notes == ({} if ending == ".png" else {"soft-label": 3})


def test_indices_of_a_palette_png_count_and_255_is_void(tmp_path: Path, import_it: Import) -> None:
    table = [(0, 0, 0), (128, 0, 0), (0, 128, 0)] + [(n, n, 1) for n in range(3, 255)] + [(224, 224, 192)]
    labels = truth()
    labels[0] = 255
    for name in ("a", "b"):
        write_photo(tmp_path / "s" / f"{name}.png", ord(name))
        write_indexed(tmp_path / "s" / "SegmentationClass" / f"{name}.png", labels, table)
    made = import_it(tmp_path / "s", "masks")
    assert made.dataset.classes == ("background", "class 1", "class 2")
    np.testing.assert_array_equal(made.mask("a"), labels)


def test_numbered_objects_need_a_range_and_the_error_says_so(tmp_path: Path, import_it: Import) -> None:
    numbered = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    root = write_pairs(tmp_path / "s", [numbered] * 2)
    refused = import_it(root, "masks", status=1)
    assert "1200 different values" in refused.result.output
    made = import_it(root, "masks", "--class", "nucleus=1-65535")
    np.testing.assert_array_equal(made.mask("0"), numbered > 0)
    assert made.notes == {}


def test_class_of_value_0_leaves_no_background(tmp_path: Path, import_it: Import) -> None:
    root = write_pairs(tmp_path / "s", [truth()] * 2)
    made = import_it(root, "masks", "--class", "soil=0", "--class", "crop=1", "--class", "void=2")
    assert made.dataset.classes == ("soil", "crop")
    np.testing.assert_array_equal(made.mask("0"), truth(weed=255))


def test_mask_of_another_size_is_brought_to_its_images_or_left_out(tmp_path: Path, import_it: Import) -> None:
    root = write_pairs(tmp_path / "s", [truth()] * 3)
    write(root / "masks" / "1.png", np.kron(truth(), np.ones((2, 2), np.uint8)))
    write(root / "masks" / "2.png", truth()[:, :-9])
    made = import_it(root, "masks", *("--class", "crop=1", "--class", "weed=2"))
    np.testing.assert_array_equal(made.mask("1"), truth())
    assert made.notes == {"resized": 1, "other-size": 1} and len(made.stems("train")) + len(made.stems("val")) == 2


def test_two_folders_of_masks_are_a_choice(tmp_path: Path, import_it: Import) -> None:
    root = write_pairs(tmp_path / "s", [truth()] * 2)
    write_pairs(root, [truth(crop=2, weed=1)] * 2, folder="other_masks")
    refused = import_it(root, "masks", status=1)
    assert "several masks: masks/0.png, other_masks/0.png" in refused.result.output
    made = import_it(root, "masks", "--masks", str(root / "masks"), "--class", "crop=1", "--class", "weed=2")
    np.testing.assert_array_equal(made.mask("0"), truth())


@pytest.mark.parametrize("folders", [("{}/images", "{}/masks"), ("{}", "{}annot"), ("images/{}", "labels/{}")])
def test_splits_are_those_of_the_folders_with_the_same_names_in_each(
    tmp_path: Path, import_it: Import, folders: tuple[str, str]
) -> None:
    for number, split in enumerate(("train", "val", "test")):
        for seed in range(2):
            write_photo(tmp_path / "s" / folders[0].format(split) / f"{seed}.png", 10 * number + seed)
            mask = np.where(truth() == 1, 1 + number, 0).astype(np.uint8)
            write(tmp_path / "s" / folders[1].format(split) / f"{seed}.png", mask)
    made = import_it(tmp_path / "s", "masks")
    assert {split: len(made.stems(split)) for split in made.dataset.splits} == {"train": 2, "val": 2, "test": 2}
    for number, split in enumerate(("train", "val", "test")):
        pair = made.dataset.pairs(split)[0]
        np.testing.assert_array_equal(made.dataset.read_mask(pair), np.where(truth() == 1, 1 + number, 0))


def test_what_has_no_mate_is_left_out_and_counted(tmp_path: Path, import_it: Import) -> None:
    root = write_pairs(tmp_path / "s", [truth()] * 3)
    (root / "masks" / "1.png").rename(root / "masks" / "someone.png")
    made = import_it(root, "masks", *NAMED)
    assert made.notes == {"no-mask": 1, "no-image": 1}


@pytest.mark.parametrize(
    ("folder", "name", "found"),
    [("pictures", "0.png", "no masks below"), ("masks", "other.png", "fits one of 1 images by its name")],
)
def test_masks_that_cannot_be_found_are_one_line(
    tmp_path: Path, import_it: Import, folder: str, name: str, found: str
) -> None:
    write_photo(tmp_path / "s" / "a" / "images" / "0.png")
    write(tmp_path / "s" / folder / name, truth())
    refused = import_it(tmp_path / "s", "masks", status=1)
    text = refused.result.output
    assert found in text and "--masks" in text


def test_values_are_only_for_masks_and_must_mean_something(tmp_path: Path, import_it: Import) -> None:
    refused = import_it(write_coco(tmp_path / "coco", ["a.png"]), "coco", "--class", "crop=1", status=2)
    assert "name their classes themselves" in refused.result.output
    for value in ("crop", "=1", "crop=", "crop=9-1", "crop=70000", "crop=#12", "crop=300,0,0"):
        refused = import_it(tmp_path, "masks", "--class", value, status=2)
        assert "--class" in refused.result.output


@given(
    codes=st.lists(st.integers(1, 255), min_size=1, max_size=20, unique=True),
    is_colour=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_named_values_are_read_as_their_classes(
    tmp_path_factory: pytest.TempPathFactory, codes: list[int], is_colour: bool, seed: int
) -> None:
    levels = np.array([0, *codes], np.uint8)
    table = np.column_stack([levels, 255 - levels, levels // 2]) if is_colour else np.column_stack([levels] * 3)
    texts = [f"c{i}={','.join(map(str, row))}" if is_colour else f"c{i}={row[0]}" for i, row in enumerate(table[1:])]
    indices = np.random.default_rng(seed).integers(1, len(table), (5, 7))
    pixels = table[indices][..., ::-1] if is_colour else levels[indices]
    path = write(tmp_path_factory.mktemp("mask") / "m.png", pixels)
    meaning = Meaning([parse_named_values(text) for text in texts], Notes())
    np.testing.assert_array_equal(meaning.read(path), indices - 1)


def test_white_of_12_bit_images_is_noted(tmp_path: Path, import_it: Import) -> None:
    """Else a network would be shown pictures that are nearly black."""
    root = write_pairs(tmp_path / "s", [truth()] * 2)
    for seed in range(2):
        (root / "images" / f"{seed}.png").unlink()
        write(root / "images" / f"{seed}.TIF", photo(seed).astype(np.uint16) * 16)
    made = import_it(root, "masks", "--class", "crop=1", "--class", "weed=2")
    assert made.dataset.spec.white_level == 4095 and made.notes == {"white-level": 1}


@pytest.mark.parametrize(
    "flags", [("--images", "s/photos"), ("--masks", "s"), ("--images", "s/photos", "--masks", "t")]
)
def test_folders_can_be_named(
    tmp_path: Path, import_it: Import, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    """Masks are in a folder beside that of the images, with the images themselves, or quite elsewhere."""
    monkeypatch.chdir(tmp_path)
    masks, ending = {"s/photos": ("s/masks", ""), "s": ("s/photos", "_label"), "t": ("t", "")}[flags[-1]]
    for seed in range(2):
        write_photo(tmp_path / "s" / "photos" / f"{seed}_rgb.png", seed)
        write(tmp_path / masks / f"{seed}{ending}.png", truth())
    made = import_it(Path("s"), "masks", "--class", "crop=1", "--class", "weed=2", *flags)
    np.testing.assert_array_equal(made.mask("1_rgb"), truth())
    assert made.notes == {}
