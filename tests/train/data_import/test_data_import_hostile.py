"""Sources that are broken, or meant to break: each fault is one line with a count, and what is sound comes through."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.train.data_import.conftest import (
    CROP,
    HEIGHT,
    WIDTH,
    WRITERS,
    Import,
    coco_document,
    cvat_document,
    cvat_image,
    flat,
    png_base64,
    truth,
    write_coco,
    write_cvat,
    write_labelme,
    write_photo,
    write_voc,
    write_yolo,
)

from edgeseg.train.data_import.notes import MEANING
from edgeseg.train.data_import.palette import voc_colours

ONE = ["good.png"]


def coco_with(root: Path, *, images: list[Any] = [], annotations: list[Any] = []) -> Path:  # noqa: B006
    """A sound image, and what is added."""
    source = write_coco(root, ONE)
    document = coco_document(ONE)
    document["images"] += images
    document["annotations"] += annotations
    (source / "annotations" / "instances_default.json").write_text(json.dumps(document))
    return source


def entry(name: str, number: int = 9, width: int = WIDTH, height: int = HEIGHT) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": width, "height": height}


def shape(segmentation: Any, category: int = 7, image: int = 0) -> dict[str, Any]:
    return {"id": 99, "image_id": image, "category_id": category, "segmentation": segmentation}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../secret.png", "unsafe-name"),
        ("/etc/passwd.png", "unsafe-name"),
        ("..\\secret.png", "unsafe-name"),
        ("C:\\photos\\x.png", "unsafe-name"),
        ("gone.png", "missing-image"),
        ("", "missing-image"),
        ("bad.png", "undecodable-image"),
        ("twice.png", "ambiguous-image"),
        ("small.png", "other-size"),
    ],
)
def test_image_that_cannot_be_used_is_left_out_and_counted(
    tmp_path: Path, import_it: Import, name: str, kind: str
) -> None:
    write_photo(tmp_path / "secret.png", 5)
    source = coco_with(tmp_path / "source", images=[entry(name)])
    (source / "images" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_photo(source / "images" / "a" / "twice.png", 1)
    write_photo(source / "images" / "b" / "twice.png", 2)
    write_photo(source / "images" / "small.png", 3, (HEIGHT, WIDTH - 1))
    made = import_it(source, "coco", "--val-share", "0")
    assert made.stems("train") == ["good"]
    assert made.notes[kind] == 1
    assert set(made.notes) <= {kind, "no-label"}
    (line,) = [line for line in made.result.output.splitlines() if line.startswith(MEANING[kind])]  # type: ignore[index]
    assert line in (f"{MEANING[kind]}: 1, first {name}", f"{MEANING[kind]}: 1, first images/{name}")  # type: ignore[index]
    assert not list(tmp_path.rglob("made/**/secret*"))


BAD_SHAPES: dict[str, tuple[Any, str]] = {
    "two points": ([[1, 1, 5, 5]], "no-area"),
    "three points of a line": ([[1, 1, 5, 5, 9, 9]], "no-area"),
    "a point three times": ([[3, 3, 3, 3, 3, 3]], "no-area"),
    "odd count": ([[1, 1, 5, 5, 9]], "bad-shape"),
    "not numbers": ([["a", "b", "c", "d", "e", "f"]], "bad-shape"),
    "huge": ([[1e300, 1, 5, 5e300, 9, 9]], "bad-shape"),
    "huge integer": ([[10**400, 1, 5, 5, 9, 9]], "bad-shape"),
    "not a number": ([[float("nan"), 1, 5, 5, 9, 9]], "bad-shape"),
    "infinite": ([[float("inf"), 1, 5, 5, 9, 9]], "bad-shape"),
    "nested": ([[[1, 2], [3]]], "bad-shape"),
    "outside": ([[50, 50, 60, 50, 60, 60]], "outside"),
    "left of it": ([[-50, 5, -60, 5, -60, 16]], "outside"),
    "empty": ([], "no-surface"),
    "none": (None, "no-surface"),
    "runs too short": ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "bad-shape"),
    "runs too long": ({"size": [HEIGHT, WIDTH], "counts": [0, 10**12]}, "bad-shape"),
    "runs below zero": ({"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]}, "bad-shape"),
    "runs of a huge picture": ({"size": [10**9, 10**9], "counts": [0, 10**18]}, "bad-shape"),
    "runs of another size": ({"size": [WIDTH, HEIGHT], "counts": [0, HEIGHT * WIDTH]}, "bad-shape"),
    "runs without size": ({"counts": [1]}, "bad-shape"),
    "packed runs cut short": ({"size": [HEIGHT, WIDTH], "counts": "o"}, "bad-shape"),
    "packed runs with a letter": ({"size": [HEIGHT, WIDTH], "counts": "0é"}, "bad-shape"),
    "packed runs without end": ({"size": [HEIGHT, WIDTH], "counts": "o" * 1000}, "bad-shape"),
    "a word": ("everything", "bad-shape"),
}


def test_shapes_that_cannot_be_painted_are_dropped_and_counted(tmp_path: Path, import_it: Import) -> None:
    names = [f"{name}.png" for name in BAD_SHAPES]
    source = write_coco(tmp_path / "source", names)
    document = coco_document(names)
    document["annotations"] += [shape(bad, image=number) for number, (bad, _) in enumerate(BAD_SHAPES.values())]
    (source / "annotations" / "instances_default.json").write_text(json.dumps(document))
    made = import_it(source, "coco", "--val-share", "0")
    for name in BAD_SHAPES:
        np.testing.assert_array_equal(made.mask(name), truth(), err_msg=name)
    assert made.notes == Counter(kind for _, kind in BAD_SHAPES.values())


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (shape([flat(CROP)], category=3), "unknown-class"),
        (shape([flat(CROP)], image=77), "bad-entry"),
        ("no annotation", "bad-entry"),
        ({"image_id": 0}, "bad-entry"),
        ({"image_id": 0, "category_id": "crop", "segmentation": []}, "bad-entry"),
    ],
)
def test_entry_that_means_nothing_is_dropped_and_counted(
    tmp_path: Path, import_it: Import, annotation: Any, kind: str
) -> None:
    made = import_it(coco_with(tmp_path / "source", annotations=[annotation]), "coco", "--val-share", "0")
    np.testing.assert_array_equal(made.mask("good"), truth())
    assert made.notes == {kind: 1}


def test_shape_that_reaches_out_is_cut_off(tmp_path: Path, import_it: Import) -> None:
    far = [-1000.0, 25, 1000, 25, 1000, 1000, -1000, 1000]
    made = import_it(coco_with(tmp_path / "source", annotations=[shape([far])]), "coco", "--val-share", "0")
    expected = truth()
    expected[25:] = 1
    np.testing.assert_array_equal(made.mask("good"), expected)
    assert made.notes == {"cut-off": 1}


def test_several_polygons_and_runs_are_one_object(tmp_path: Path, import_it: Import) -> None:
    left, right = [0.0, 24, 4, 24, 4, 28, 0, 28], [8.0, 24, 12, 24, 12, 28, 8, 28]
    column = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 39, HEIGHT]}
    source = coco_with(tmp_path / "source", annotations=[shape([left, right], 8), shape(column, 7)])
    made = import_it(source, "coco", "--val-share", "0")
    expected = truth()
    expected[24:28, 0:4] = expected[24:28, 8:12] = 2
    expected[:, 39] = 1
    np.testing.assert_array_equal(made.mask("good"), expected)
    assert made.notes == {}


def test_panoptic_pictures_are_read(tmp_path: Path, import_it: Import) -> None:
    document = coco_document(ONE)
    segments = [{"id": 300, "category_id": 7}, {"id": 70000, "category_id": 8}, {"id": 5, "category_id": 99}]
    document["annotations"] = [{"image_id": 0, "file_name": "../good.png", "segments_info": segments}]
    write_photo(tmp_path / "source" / "images" / "good.png")
    ids = np.array([0, 300, 70000], np.int64)[truth()]
    ids[0, 0] = 5
    colours = np.dstack([ids >> 16, ids >> 8 & 255, ids & 255]).astype(np.uint8)
    folder = tmp_path / "source" / "annotations" / "panoptic_train"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "good.png"), colours)
    (tmp_path / "source" / "annotations" / "panoptic_train.json").write_text(json.dumps(document))
    made = import_it(tmp_path / "source", "coco", "--val-share", "0", "--images", str(tmp_path / "source" / "images"))
    expected = truth()
    expected[0, 0] = 255
    np.testing.assert_array_equal(made.mask("good"), expected)
    assert made.notes == {"unknown-class": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        '{"images": [], "annotations": []}',
        '{"images": 1}',
        "\x00\xff",
        '{"a": 1' + "0" * 5000 + "}",
    ],
    ids=["empty", "cut short", "deep", "nothing in it", "not a list", "binary", "long number"],
)
def test_file_that_is_no_coco_is_one_line(tmp_path: Path, import_it: Import, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="latin-1")
    failed = import_it(path, "coco", status=1)
    assert failed.result.output.startswith("error: ") and len(failed.result.output.splitlines()) == 1


# --- VOC


def test_voc_mask_faults_leave_the_image_out(tmp_path: Path, import_it: Import) -> None:
    names = ["good.png", "gone.png", "alien.png", "small.png", "half.png"]
    source = write_voc(tmp_path / "source", names)
    masks = source / "SegmentationClass"
    (masks / "gone.png").unlink()
    cv2.imwrite(str(masks / "alien.png"), np.full((HEIGHT, WIDTH, 3), 77, np.uint8))
    cv2.imwrite(str(masks / "small.png"), np.zeros((HEIGHT, 7, 3), np.uint8))
    (masks / "half.png").write_bytes((masks / "half.png").read_bytes()[:60])
    with (source / "ImageSets" / "Segmentation" / "default.txt").open("a") as names_file:
        names_file.write("\n../../etc/passwd\nabsent\ngood\n")
    made = import_it(source, "voc", "--val-share", "0")
    assert made.stems("train") == ["good"]
    assert made.notes == {
        "unreadable-label": 3, "other-size": 1, "unsafe-name": 1, "missing-image": 1, "listed-twice": 1,
    }  # fmt: skip


def test_vocs_own_palette_png_is_read_with_its_void(tmp_path: Path, import_it: Import) -> None:
    pillow = pytest.importorskip("PIL.Image")
    source = write_voc(tmp_path / "source", ONE)
    (source / "labelmap.txt").unlink()
    indices = truth(background=0, crop=16, weed=15)
    indices[0] = 255
    picture = pillow.new("P", (WIDTH, HEIGHT))
    picture.putdata(indices.ravel().tolist())
    picture.putpalette([level for colour in voc_colours(256) for level in colour])
    picture.save(source / "SegmentationClass" / "good.png")
    made = import_it(source, "voc", "--val-share", "0")
    assert len(made.dataset.classes) == 21 and made.dataset.classes[16] == "pottedplant"
    np.testing.assert_array_equal(made.mask("good"), indices)


@pytest.mark.parametrize("line", ["crop:300,0,0::", "crop", "crop:1,2::", "crop:0,0,0::", "crop:a,b,c::"])
def test_label_map_that_means_nothing_is_one_line(tmp_path: Path, import_it: Import, line: str) -> None:
    source = write_voc(tmp_path / "source", ONE)
    (source / "labelmap.txt").write_text(f"background:0,0,0::\n{line}\n")
    assert "labelmap.txt" in import_it(source, "voc", status=1).result.output


# --- labelme


def labelme_with(root: Path, *shapes: Any, **fields: Any) -> Path:
    source = write_labelme(root, ONE)
    document = json.loads((source / "good.json").read_text())
    document["shapes"] += shapes
    (source / "good.json").write_text(json.dumps(document | fields))
    return source


def test_labelme_shapes_lie_in_their_order(tmp_path: Path, import_it: Import) -> None:
    block = np.zeros((3, 5), np.uint8)
    block[1:] = 255
    source = labelme_with(
        tmp_path / "source",
        {"label": "crop", "shape_type": "circle", "points": [[30, 22], [33, 22]]},
        {"label": "weed", "shape_type": "mask", "points": [[2, 24], [6, 26]], "mask": png_base64(block)},
        {"label": "__ignore__", "shape_type": "polygon", "points": [[0, 0], [40, 0], [40, 2], [0, 2]]},
        {"label": "crop", "shape_type": "line", "points": [[0, 0], [9, 9]]},
        {"label": "crop", "shape_type": "point", "points": [[5, 5]]},
    )
    made = import_it(source, "labelme", "--val-share", "0")
    mask = made.mask("good")
    assert (mask[:2] == 255).all()
    assert (mask[25:27, 2:7] == 2).all() and (mask[24, 2:7] == 0).all()
    assert mask[22, 30] == 1 and abs(int((mask[18:27, 26:36] == 1).sum()) - np.pi * 9) < 4
    assert made.notes == {"no-surface": 2}


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ({"label": "crop", "shape_type": "circle", "points": [[1, 1], [1e308, -1e308]]}, "bad-shape"),
        ({"label": "crop", "shape_type": "circle", "points": [[1, 1]]}, "bad-shape"),
        ({"label": "crop", "shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "%%%"}, "bad-shape"),
        ({"label": "crop", "shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": None}, "bad-shape"),
        ({"label": "crop", "shape_type": "polygon", "points": None}, "bad-shape"),
        ({"label": "crop", "shape_type": "polygon", "points": []}, "no-area"),
        ({"label": "crop", "shape_type": "blob", "points": [[1, 1], [2, 2]]}, "no-surface"),
        ("shape", "bad-entry"),
    ],
)
def test_labelme_shape_faults_are_counted(tmp_path: Path, import_it: Import, bad: Any, kind: str) -> None:
    made = import_it(labelme_with(tmp_path / "source", bad), "labelme", "--val-share", "0")
    np.testing.assert_array_equal(made.mask("good"), truth())
    assert made.notes == {kind: 1}


@pytest.mark.parametrize("path", ["..\\photos\\good.png", "/home/someone/good.png", "../../../good.png"])
def test_labelme_image_that_was_moved_is_found_by_its_name(tmp_path: Path, import_it: Import, path: str) -> None:
    made = import_it(labelme_with(tmp_path / "source", imagePath=path), "labelme", "--val-share", "0")
    assert made.stems("train") == ["good"]


def test_labelme_cannot_reach_a_file_outside(tmp_path: Path, import_it: Import) -> None:
    write_photo(tmp_path / "secret.png")
    failed = import_it(labelme_with(tmp_path / "source", imagePath="../secret.png"), "labelme", status=1)
    assert "that the labels name are not there, left out: 1, first good.json: ../secret.png" in failed.result.output


def test_labelme_order_of_classes_can_be_listed(tmp_path: Path, import_it: Import) -> None:
    source = write_labelme(tmp_path / "source", ONE)
    (source / "labels.txt").write_text("__ignore__\n_background_\nweed\ncrop\n")
    made = import_it(source, "labelme", "--val-share", "0")
    assert made.dataset.classes == ("_background_", "weed", "crop")
    np.testing.assert_array_equal(made.mask("good"), truth(crop=2, weed=1))


# --- CVAT


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ('<polygon label="crop" points="1,1;2"/>', "bad-shape"),
        ('<polygon label="crop" points=""/>', "bad-shape"),
        ('<polygon label="tree" points="1,1;9,1;9,9"/>', "unknown-class"),
        ('<box label="crop" xtl="a" ytl="1" xbr="5" ybr="5"/>', "bad-shape"),
        ('<ellipse label="crop" cx="1" cy="1" rx="1e300" ry="3"/>', "bad-shape"),
        ('<mask label="crop" rle="1,2" left="0" top="0" width="9" height="9"/>', "bad-shape"),
        ('<mask label="crop" rle="0,81" left="100" top="100" width="9" height="9"/>', "outside"),
        ('<mask label="crop" rle="0,81" left="0" top="0" width="1e9" height="1e9"/>', "bad-shape"),
        ('<polyline label="crop" points="1,1;9,9"/>', "no-surface"),
        ('<polygon label="crop" points="1,1;9,1;9,9" z_order="top"/>', "bad-shape"),
    ],
)
def test_cvat_shape_faults_are_counted(tmp_path: Path, import_it: Import, bad: str, kind: str) -> None:
    source = write_cvat(tmp_path / "source", ONE)
    text = (source / "annotations.xml").read_text()
    (source / "annotations.xml").write_text(text.replace("</image>", f"{bad}</image>"))
    made = import_it(source, "cvat", "--val-share", "0")
    np.testing.assert_array_equal(made.mask("good"), truth())
    assert made.notes == {kind: 1}


def test_cvat_boxes_and_ellipses_can_be_turned(tmp_path: Path, import_it: Import) -> None:
    write_photo(tmp_path / "source" / "good.png")
    shapes = (
        '<box label="crop" xtl="10" ytl="14" xbr="20" ybr="16" rotation="90"/>'
        '<ellipse label="weed" cx="30" cy="15" rx="8" ry="2" rotation="90"/>'
    )
    (tmp_path / "source" / "a.xml").write_text(cvat_document(cvat_image(0, "good.png", shapes)))
    mask = import_it(tmp_path / "source", "cvat", "--val-share", "0").mask("good")
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[10:20, 14:16] = True
    np.testing.assert_array_equal(mask == 1, expected)
    rows, columns = np.nonzero(mask == 2)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 22, 28, 31)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<annotations>",
        "<other/>",
        "<annotations><track/></annotations>",
        "<annotations><meta/></annotations>",
        '<!DOCTYPE a [<!ENTITY x "1"><!ENTITY y "&x;&x;">]><annotations>&y;</annotations>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>',
    ],
    ids=["empty", "cut short", "other", "video", "no labels", "entities", "external"],
)
def test_xml_that_is_not_cvats_is_one_line(tmp_path: Path, import_it: Import, text: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    failed = import_it(tmp_path / "a.xml", "cvat", status=1)
    assert failed.result.output.startswith("error: ") and len(failed.result.output.splitlines()) == 1


def test_cvats_mask_export_is_read(tmp_path: Path, import_it: Import) -> None:
    made = import_it(write_voc(tmp_path / "source", ONE), "cvat", "--val-share", "0")
    np.testing.assert_array_equal(made.mask("good"), truth())


# --- YOLO


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 0.5 0.5 0.2 0.2", "no-surface"),
        ("9 0.1 0.1 0.2 0.1 0.2 0.2", "unknown-class"),
        ("0 0.1 0.1 0.2", "bad-shape"),
        ("crop 0.1 0.1 0.2 0.1 0.2 0.2", "bad-shape"),
        ("0 nan 0.1 0.2 0.1 0.2 0.2", "bad-shape"),
        ("0 0.1 0.1", "no-area"),
        ("inf 0.1 0.1 0.2 0.1 0.2 0.2", "bad-shape"),
        ("0 2 2 3 2 3 3", "outside"),
    ],
)
def test_yolo_line_faults_are_counted(tmp_path: Path, import_it: Import, line: str, kind: str) -> None:
    source = write_yolo(tmp_path / "source", ONE)
    labels = source / "train" / "labels" / "good.txt"
    labels.write_text(f"{labels.read_text()}\n\n{line}\n")
    made = import_it(source, "yolo", "--val-share", "0")
    np.testing.assert_array_equal(made.mask("good"), truth())
    assert made.notes == {kind: 1, "missing-folder": 1}


def test_yolo_image_without_labels_is_background(tmp_path: Path, import_it: Import) -> None:
    source = write_yolo(tmp_path / "source", ["a.png", "b.png"])
    (source / "train" / "labels" / "b.txt").unlink()
    made = import_it(source, "yolo", "--val-share", "0")
    assert not made.mask("b").any()
    assert made.notes["no-label"] == 1


def test_yolo_lists_of_images_are_followed_inside_the_source_only(tmp_path: Path, import_it: Import) -> None:
    source = write_yolo(tmp_path / "source", ["a.png", "b.png", "c.png"])
    write_photo(tmp_path / "secret.png")
    (source / "train.txt").write_text("/data/yolo/train/images/a.png\n./train/images/b.png\n../secret.png\n")
    (source / "data.yaml").write_text("path: /data/yolo\ntrain: train.txt\nnames: {0: crop, 1: weed}\n")
    made = import_it(source, "yolo", "--val-share", "0")
    assert made.stems("train") == ["a", "b"]
    assert made.notes == {"missing-image": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "names: 3",
        "names: {a: b, 1: c}",
        "names: [a]\ntrain: nowhere",
        "train: [",
        "- a",
        "names: !!python/name:os.system",
    ],
)
def test_yaml_that_means_nothing_is_one_line(tmp_path: Path, import_it: Import, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    failed = import_it(tmp_path / "data.yaml", "yolo", status=1)
    assert failed.result.output.startswith("error: ") and len(failed.result.output.splitlines()) == 1


# --- any


def test_too_many_classes_are_refused(tmp_path: Path, import_it: Import) -> None:
    source = write_coco(tmp_path / "source", ONE)
    document = coco_document(ONE) | {"categories": [{"id": i, "name": f"c{i}"} for i in range(300)]}
    (source / "annotations" / "instances_default.json").write_text(json.dumps(document))
    assert "300 classes" in import_it(source, "coco", status=1).result.output


def test_odd_class_names_come_through(tmp_path: Path, import_it: Import) -> None:
    source = write_coco(tmp_path / "source", ONE)
    document = coco_document(ONE)
    document["categories"] = [{"id": 7, "name": 'a "b"\n\\c\x7f'}, {"id": 8, "name": "ж" * 100}, {"id": 9, "name": ""}]
    (source / "annotations" / "instances_default.json").write_text(json.dumps(document))
    made = import_it(source, "coco", "--val-share", "0")
    assert made.dataset.classes == ("background", 'a "b" \\c', "ж" * 64, "class 9")


@pytest.mark.parametrize("form", WRITERS)
def test_no_usable_image_is_one_line_and_leaves_nothing(tmp_path: Path, import_it: Import, form: str) -> None:
    source = WRITERS[form](tmp_path / "source", ["a.png", "b.png"])
    for path in source.rglob("*.png"):
        if "Segmentation" not in str(path):
            path.write_bytes(b"")
    failed = import_it(source, form, status=1)
    assert "not one image could be used; images cannot be decoded, left out: 2" in failed.result.output
