"""The same scene from five tools, and what an import makes of a whole source: splits, names, orientation, report."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from tests.train.data_import.conftest import (
    HEIGHT,
    WIDTH,
    WRITERS,
    Import,
    coco_document,
    photo,
    truth,
    write_coco,
    write_photo,
    write_voc,
)

from edgeseg.runtime.cli import main

NAMES = [f"img_{index}.png" for index in range(8)]


@pytest.mark.parametrize("form", WRITERS)
def test_every_tools_scene_becomes_the_same_dataset(tmp_path: Path, import_it: Import, form: str) -> None:
    made = import_it(WRITERS[form](tmp_path / "source", NAMES), form)
    dataset = made.dataset
    assert dataset.classes == ("background", "crop", "weed")
    assert dataset.ignore_index == 255
    for name in NAMES:
        np.testing.assert_array_equal(made.mask(Path(name).stem), truth())
    assert {split: len(dataset.pairs(split)) for split in dataset.splits} == {"train": 6, "val": 2}
    (pair, *_) = dataset.pairs("val")
    np.testing.assert_array_equal(dataset.read_image(pair), photo(int(pair.stem[-1])))
    check = CliRunner().invoke(main, ["data", "check", str(made.out)])
    assert check.exit_code == 0, check.output
    assert made.document["schema"] == "edgeseg/data-import/1"
    assert made.document["splits"] == {"train": 6, "val": 2}
    assert sum(made.document["classes"].values()) == pytest.approx(100, abs=0.01)
    assert made.document["void"] == 0


@pytest.mark.parametrize("form", ["coco", "labelme", "cvat", "yolo"])
def test_unlabelled_can_be_void(tmp_path: Path, import_it: Import, form: str) -> None:
    made = import_it(WRITERS[form](tmp_path / "source", NAMES), form, "--unlabelled", "void")
    assert made.dataset.classes == ("crop", "weed")
    np.testing.assert_array_equal(made.mask("img_3"), truth(background=255, crop=0, weed=1))


@pytest.mark.parametrize("form", ["voc", "cvat"])
def test_colours_of_the_source_are_kept(tmp_path: Path, import_it: Import, form: str) -> None:
    palette = import_it(WRITERS[form](tmp_path / "source", NAMES), form).dataset.palette
    assert len(set(palette)) == 3
    if form == "voc":
        assert palette == ((0, 0, 0), (10, 200, 30), (250, 0, 5))


def test_a_class_called_background_takes_what_is_unlabelled(tmp_path: Path, import_it: Import) -> None:
    source = write_coco(tmp_path / "source", NAMES)
    document = coco_document(NAMES)
    document["categories"].append({"id": 9, "name": "Background"})
    (source / "annotations" / "instances_default.json").write_text(json.dumps(document))
    made = import_it(source, "coco")
    assert made.dataset.classes == ("crop", "weed", "Background")
    np.testing.assert_array_equal(made.mask("img_0"), truth(background=2, crop=0, weed=1))


# --- splits


def test_splits_of_the_source_are_kept(tmp_path: Path, import_it: Import) -> None:
    source = write_voc(tmp_path / "source", NAMES)
    lists = source / "ImageSets" / "Segmentation"
    (lists / "default.txt").unlink()
    for split, part in (("train", NAMES[:5]), ("val", NAMES[5:6]), ("test", NAMES[6:]), ("trainval", NAMES[:6])):
        (lists / f"{split}.txt").write_text("\n".join(Path(name).stem for name in part))
    made = import_it(source, "voc")
    assert list(made.dataset.splits) == ["train", "val", "test"]
    assert made.stems("val") == ["img_5"]
    assert made.stems("test") == ["img_6", "img_7"]
    assert made.notes == {}


def test_coco_files_are_splits_by_their_names(tmp_path: Path, import_it: Import) -> None:
    for folder, names in (("train", NAMES[:5]), ("valid", NAMES[5:])):
        for seed, name in enumerate(names):
            write_photo(tmp_path / "rf" / folder / name, seed)
        (tmp_path / "rf" / folder / "_annotations.coco.json").write_text(json.dumps(coco_document(names)))
    made = import_it(tmp_path / "rf", "coco")
    assert {split: len(made.stems(split)) for split in made.dataset.splits} == {"train": 5, "val": 3}


def test_given_lists_decide(tmp_path: Path, import_it: Import) -> None:
    source = write_coco(tmp_path / "source", NAMES)
    (tmp_path / "a.txt").write_text("img_0.png\nimages/img_1.png\n\nimg_2\nimg_99\nimg_0\n")
    (tmp_path / "b.txt").write_text("img_7\nimg_1\n")
    made = import_it(source, "coco", "--split", f"train={tmp_path / 'a.txt'}", "--split", f"val={tmp_path / 'b.txt'}")
    assert made.stems("train") == ["img_0", "img_1", "img_2"]
    assert made.stems("val") == ["img_7"]
    assert made.notes == {"missing-image": 1, "listed-twice": 2, "not-listed": 4}


def test_list_that_names_nothing_is_refused(tmp_path: Path, import_it: Import) -> None:
    source = write_coco(tmp_path / "source", NAMES)
    (tmp_path / "a.txt").write_text("other\n")
    failed = import_it(source, "coco", "--split", f"train={tmp_path / 'a.txt'}", status=1)
    assert "split 'train' names no image" in failed.result.output


@pytest.mark.parametrize("by", ["time", "hash"])
def test_what_is_nearly_the_same_stays_in_one_split(tmp_path: Path, import_it: Import, by: str) -> None:
    """Forty frames, each seen by four brightnesses of the same camera: none may be on both sides."""
    names = [f"{index:02}_{shade}.png" for index in range(10) for shade in range(4)]
    source = write_coco(tmp_path / "source", names)
    for name in names:
        scaled = photo(int(name[:2])) * (0.6 + 0.1 * int(name[3]))
        cv2.imwrite(str(source / "images" / name), scaled.astype(np.uint8))
    made = import_it(source, "coco", "--val-by", by, "--val-share", "0.25")
    scenes = {split: {stem[:2] for stem in made.stems(split)} for split in ("train", "val")}
    assert not scenes["train"] & scenes["val"]
    assert scenes["val"]
    assert "duplicate-across-splits" not in CliRunner().invoke(main, ["data", "check", str(made.out)]).output


def test_no_share_leaves_one_split_and_says_so(tmp_path: Path, import_it: Import) -> None:
    made = import_it(write_coco(tmp_path / "source", NAMES), "coco", "--val-share", "0")
    assert list(made.dataset.splits) == ["train"]
    assert "no image is held out" in made.result.output


def test_hash_keeps_its_choice_as_images_come(tmp_path: Path, import_it: Import) -> None:
    names = [f"p{index}.png" for index in range(20)]
    made = import_it(write_coco(tmp_path / "source", names), "coco", "--val-by", "hash")
    before = set(made.stems("val"))
    assert len(before) == 4


# --- names and orientation


def test_same_name_in_two_folders_stays_two_images(tmp_path: Path, import_it: Import) -> None:
    names = ["a/x.png", "b/x.png", "c/X.PNG", "d/y.png", "été/ж [1] ünï.png"]
    made = import_it(write_coco(tmp_path / "source", names), "coco", "--val-share", "0")
    assert set(made.stems("train")) == {"images_a_x", "images_b_x", "images_c_X", "y", "ж [1] ünï"}
    for stem in made.stems("train"):
        np.testing.assert_array_equal(made.mask(stem), truth())


def test_upper_case_endings_and_other_case_are_found(tmp_path: Path, import_it: Import) -> None:
    source = write_coco(tmp_path / "source", ["IMG_1.PNG"])
    document = coco_document(["img_1.png"])
    (source / "annotations" / "instances_default.json").write_text(json.dumps(document))
    assert import_it(source, "coco").stems("train") == ["IMG_1"]


def turned_jpeg(image: npt.NDArray[np.uint8], orientation: int) -> bytes:
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    exif = b"Exif\0\0" + struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_photo_is_turned_where_labels_were_drawn_upright(tmp_path: Path, import_it: Import, orientation: int) -> None:
    upright = cv2.GaussianBlur(photo(3), (5, 5), 0)
    stored = np.rot90(upright, {3: 2, 6: 1, 8: 3}[orientation])
    source = write_coco(tmp_path / "source", ["a.jpg"])
    (source / "images" / "a.jpg").write_bytes(turned_jpeg(np.ascontiguousarray(stored), orientation))
    made = import_it(source, "coco", "--val-share", "0")
    assert made.notes == {"turned": 1}
    image = made.dataset.read_image(made.dataset.pairs("train")[0])
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - upright).mean() < 6
    np.testing.assert_array_equal(made.mask("a"), truth())


def test_photo_stays_as_stored_where_labels_were_drawn_so(tmp_path: Path, import_it: Import) -> None:
    source = write_coco(tmp_path / "source", ["a.jpg"])
    (source / "images" / "a.jpg").write_bytes(turned_jpeg(photo(3), 6))
    made = import_it(source, "coco", "--val-share", "0")
    assert made.notes == {}
    assert made.dataset.read_image(made.dataset.pairs("train")[0]).shape == (HEIGHT, WIDTH, 3)


def test_16_bit_grey_is_copied_as_it_is(tmp_path: Path, import_it: Import) -> None:
    source = write_coco(tmp_path / "source", ["a.tif", "b.tif"])
    samples = (photo(1)[..., 0].astype(np.uint16) + 1) * 10
    cv2.imwrite(str(source / "images" / "a.tif"), samples)
    made = import_it(source, "coco", "--val-share", "0")
    stored = cv2.imread(str(made.out / "images" / "train" / "a.tif"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(np.asarray(stored), samples)


# --- the whole or nothing


def test_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "source", NAMES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    words = ["data", "import", str(source), "--from", "coco", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "is there already" in result.output
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("form", WRITERS)
def test_empty_source_is_one_line(tmp_path: Path, import_it: Import, form: str) -> None:
    (tmp_path / "source").mkdir()
    failed = import_it(tmp_path / "source", form, status=1)
    assert failed.result.output.startswith("error: ")
    assert len(failed.result.output.splitlines()) == 1


def test_archive_is_to_be_unpacked(tmp_path: Path, import_it: Import) -> None:
    (tmp_path / "export.zip").write_bytes(b"PK")
    assert "unpack it" in import_it(tmp_path / "export.zip", "cvat", status=1).result.output


def test_images_can_be_elsewhere(tmp_path: Path, import_it: Import) -> None:
    source = write_coco(tmp_path / "source", NAMES)
    (source / "images").rename(tmp_path / "photos")
    failed = import_it(source, "coco", status=1)
    assert "not one image could be used" in failed.result.output and "--images" in failed.result.output
    assert len(import_it(source, "coco", "--images", str(tmp_path / "photos")).stems("train")) == 6


def test_full_disk_leaves_nothing(tmp_path: Path, import_it: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_coco(tmp_path / "source", NAMES)
    written = []

    def write(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 4:
            raise OSError(28, "No space left on device")
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", write)
    failed = import_it(source, "coco", status=1)
    assert "No space left on device" in failed.result.output


def test_help_ends_with_an_example() -> None:
    assert "Example: edgeseg data import" in CliRunner().invoke(main, ["data", "import", "--help"]).output
    listing = CliRunner().invoke(main, ["data", "--help"]).output
    assert all(name in listing for name in ("check", "stats", "import"))
