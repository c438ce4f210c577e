from __future__ import annotations

import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeseg.runtime.dataset import Dataset, held_out, load_dataset
from edgeseg.runtime.dataset_bad_pairs import BadPairs
from edgeseg.runtime.dataset_spec import DatasetSpec, SplitSpec, read_spec, write_spec
from edgeseg.runtime.errors import DatasetError, UnreadablePairError
from edgeseg.runtime.image_files import LabelPixels

DatasetMaker = Callable[..., Path]
Array = npt.NDArray[Any]

PALETTE = ((128, 64, 128), (0, 0, 142), (107, 142, 35))
LABELS = np.array([[0, 1, 2, 255], [2, 1, 0, 0]], np.uint8)
PHOTO = np.random.default_rng(0).integers(0, 256, (2, 4, 3)).astype(np.uint8)

GOOD_TOML = """
name = "yard"
ignore_index = 255
classes = ["ground", "crate"]
palette = [[128, 64, 128], [0, 0, 142]]
[splits.all]
images = "images"
masks = "masks"
"""


def png(samples: Array, *, bits: int, colour_type: int, table: bytes = b"") -> bytes:
    """Encode (H, W) or (H, W, channels) samples in PNG flavours that OpenCV does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = samples.shape[:2]
    rows = b""
    for row in samples:
        if bits < 8:
            rows += b"\0" + np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, -bits:]).tobytes()
        else:
            rows += b"\0" + row.astype(f">u{bits // 8}").tobytes()
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    palette = chunk(b"PLTE", table) if table else b""
    data = chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def table(*colours: tuple[int, int, int]) -> bytes:
    return bytes(level for colour in colours for level in colour)


def coloured(labels: Array, void: tuple[int, int, int] = (0, 0, 0)) -> Array:
    """BGR picture of labels."""
    colours = np.full((256, 3), void, np.uint8)
    colours[: len(PALETTE)] = PALETTE
    return colours[labels][..., ::-1]


def read_mask(folder: Path) -> Array:
    dataset = load_dataset(folder)
    (pair,) = dataset.pairs("all")
    return dataset.read_mask(pair)


def read_image(folder: Path) -> Array:
    dataset = load_dataset(folder)
    (pair,) = dataset.pairs("all")
    return dataset.read_image(pair)


def assert_one_line(error: pytest.ExceptionInfo[DatasetError], *parts: str) -> None:
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


# --- dataset.toml


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (('name = "yard"', ""), "name: Field required"),
        (('classes = ["ground", "crate"]', "classes = []"), "classes"),
        (('["ground", "crate"]', '["ground", "ground"]'), "classes: names are not unique"),
        ((", [0, 0, 142]]", "]"), "palette: 1 colours for 2 classes"),
        (("[0, 0, 142]", "[128, 64, 128]"), "palette: colours are not unique"),
        (("[0, 0, 142]", "[0, 0, 256]"), "palette.1.2"),
        (("[0, 0, 142]", "[0, 0]"), "palette.1.2"),
        (("= 255", "= 1"), "ignore_index: 1 is also the index of 'crate'"),
        (("= 255", "= 256"), "ignore_index"),
        (("= 255", "= 'none'"), "ignore_index"),
        (('masks = "masks"', ""), "splits.all.masks: Field required"),
        (('masks = "masks"', 'masks = "labels"'), "splits.all.masks: no folder 'labels'"),
        (('images = "images"', 'images = "pictures"'), "splits.all.images: no folder 'pictures'"),
        (('images = "images"', 'images = "../images"'), "splits.all.images: '../images' leads out"),
        (('images = "images"', 'images = "/images"'), "splits.all.images: '/images' leads out"),
        (('masks = "masks"', 'masks = "images/"'), "splits.all: images and masks are the same folder"),
        (('masks = "masks"', 'masks = "masks"\ninclude = "a*"'), "splits.all.include"),
        (('masks = "masks"', 'masks = "masks"\nonly = ["a*"]'), "splits.all.only"),
        (("[splits.all]", "[folders]"), "splits: Field required"),
        (("= 255", "255"), "not TOML"),
    ],
)
def test_mistake_in_description_is_named_in_one_line(tmp_path: Path, change: tuple[str, str], named: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    assert change[0] in GOOD_TOML
    (tmp_path / "dataset.toml").write_text(GOOD_TOML.replace(*change))
    with pytest.raises(DatasetError) as error:
        load_dataset(tmp_path)
    assert_one_line(error, named, "dataset.toml")


def test_folder_without_description_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DatasetError) as error:
            load_dataset(path)
        assert_one_line(error, "expected a dataset.toml")


def test_description_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(DatasetError, match="not UTF-8"):
        load_dataset(tmp_path)


def test_loads_from_folder_and_from_file(make_dataset: DatasetMaker) -> None:
    folder = make_dataset({})
    for path in (folder, folder / "dataset.toml"):
        dataset = load_dataset(path)
        assert dataset.name == "yard"
        assert dataset.classes == ("ground", "crate", "tree")
        assert dataset.palette == PALETTE
        assert dataset.ignore_index == 255
        assert dataset.licence == "not stated"
        assert list(dataset.splits) == ["all"]


@given(
    names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), min_size=1, max_size=5, unique=True),
    licence=st.text(st.characters(codec="utf-8"), max_size=30),
    white=st.integers(256, 65535),
    share=st.none() | st.floats(0.01, 0.5),
)
def test_written_description_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], licence: str, white: int, share: float | None
) -> None:
    folders = SplitSpec(images="images", masks="masks", include=(names[0],), exclude=tuple(names[1:]))
    spec = DatasetSpec(
        name=names[0],
        licence=licence,
        ignore_index=255,
        classes=tuple(names),
        palette=tuple((i, 0, 0) for i in range(len(names))),
        white_level=white,
        val_share=share,
        splits={"train": folders},
    )
    toml = tmp_path_factory.mktemp("spec") / "dataset.toml"
    write_spec(toml, spec)
    assert read_spec(toml) == spec


# --- a share held out


@given(count=st.integers(2, 300), share=st.floats(0.01, 0.5))
def test_held_out_share_is_about_what_was_asked_in_few_blocks(count: int, share: float) -> None:
    names = [f"f{index}" for index in range(count)]
    val = held_out(names[::-1], share)
    assert len(val) == min(count - 1, max(1, round(share * count)))
    ends = sum(names[i] in val and (i + 1 == count or names[i + 1] not in val) for i in range(count))
    assert ends <= 4


def test_val_share_splits_train_in_two(make_dataset: DatasetMaker) -> None:
    files = {f"{folder}/f{i}.png": b"" for i in range(20) for folder in ("images", "masks")}
    folder = make_dataset(files)
    toml = (folder / "dataset.toml").read_text().replace("[splits.all]", "val_share = 0.2\n[splits.train]")
    (folder / "dataset.toml").write_text(toml)
    dataset = load_dataset(folder)
    assert list(dataset.splits) == ["train", "val"]
    assert [pair.stem for pair in dataset.pairs("val")] == ["f14", "f19", "f4", "f9"]
    assert len(dataset.pairs("train")) == 16
    assert not {pair.stem for pair in dataset.pairs("train")} & {"f4", "f9", "f14", "f19"}


@pytest.mark.parametrize("splits", ["[splits.all]", "[splits.train]\nimages='images'\nmasks='masks'\n[splits.val]"])
def test_val_share_beside_other_splits_is_refused(make_dataset: DatasetMaker, splits: str) -> None:
    folder = make_dataset({})
    toml = (folder / "dataset.toml").read_text().replace("[splits.all]", f"val_share = 0.2\n{splits}")
    (folder / "dataset.toml").write_text(toml)
    with pytest.raises(DatasetError, match="val_share"):
        load_dataset(folder)


# --- pairs


def test_pairs_are_sorted_by_stem_and_filtered(make_dataset: DatasetMaker) -> None:
    stems = ["b_1", "a_2", "a_1", "a_10"]
    files = {f"images/{stem}.JPG": b"" for stem in stems} | {f"masks/{stem}.png": b"" for stem in stems}
    others = {"images/.hidden.jpg": b"", "images/._a_1.jpg": b"", "images/notes.txt": b"", "masks/Thumbs.db": b""}
    more = '[splits.some]\nimages = "images"\nmasks = "masks"\ninclude = ["a_*"]\nexclude = ["a_1?"]'
    dataset = load_dataset(make_dataset(files | others, more=more))
    assert [pair.stem for pair in dataset.pairs("all")] == ["a_1", "a_10", "a_2", "b_1"]
    assert [(pair.image.name, pair.mask.name) for pair in dataset.pairs("some")] == [
        ("a_1.JPG", "a_1.png"),
        ("a_2.JPG", "a_2.png"),
    ]


def test_unknown_split_names_the_known_ones(make_dataset: DatasetMaker) -> None:
    with pytest.raises(DatasetError) as error:
        load_dataset(make_dataset({})).pairs("test")
    assert_one_line(error, "no split 'test'", "expected one of all")


def test_empty_split_is_refused(make_dataset: DatasetMaker) -> None:
    with pytest.raises(DatasetError) as error:
        load_dataset(make_dataset({})).pairs("all")
    assert_one_line(error, "split 'all'", "is empty")


@pytest.mark.parametrize("files", [["images/x.png"], ["masks/x.png"], ["images/x.png", "images/x.jpg", "masks/x.png"]])
def test_stem_that_is_no_pair_is_refused(make_dataset: DatasetMaker, files: list[str]) -> None:
    with pytest.raises(DatasetError) as error:
        load_dataset(make_dataset(dict.fromkeys(files, b""))).pairs("all")
    assert_one_line(error, "1 of 1 stems", "first 'x'", "edgeseg data check", "edgeseg data import")


# --- images


def test_photo_is_read_as_stored(make_dataset: DatasetMaker) -> None:
    np.testing.assert_array_equal(
        read_image(make_dataset({"images/été 1.png": PHOTO, "masks/été 1.png": LABELS})), PHOTO
    )


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (PHOTO[..., 0], np.dstack([PHOTO[..., 0]] * 3)),
        (np.dstack([PHOTO, PHOTO[..., 0]]), PHOTO),
        (PHOTO.astype(np.uint16) * 257, PHOTO),
        (PHOTO[..., 0].astype(np.uint16) * 257, np.dstack([PHOTO[..., 0]] * 3)),
    ],
    ids=["grey", "alpha", "16-bit", "16-bit grey"],
)
@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_every_kind_of_photo_becomes_bgr(
    make_dataset: DatasetMaker, stored: Array, expected: Array, ending: str
) -> None:
    image = read_image(make_dataset({f"images/x{ending}": stored, "masks/x.png": LABELS}))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


def test_white_level_spreads_12_bits(make_dataset: DatasetMaker) -> None:
    stored = np.array([[0, 2048, 4095, 60000]], np.uint16)
    folder = make_dataset({"images/x.png": stored, "masks/x.png": LABELS[:1]})
    assert read_image(folder)[0, :, 0].tolist() == [0, 8, 16, 233]
    toml = (folder / "dataset.toml").read_text()
    before = load_dataset(folder).digest("all")
    (folder / "dataset.toml").write_text("white_level = 4095\n" + toml)
    assert read_image(folder)[0, :, 0].tolist() == [0, 128, 255, 255]
    assert load_dataset(folder).digest("all") != before


def test_float_photo_is_refused(make_dataset: DatasetMaker) -> None:
    with pytest.raises(DatasetError, match=r"x\.tiff"):
        read_image(make_dataset({"images/x.tiff": PHOTO.astype(np.float32), "masks/x.png": LABELS}))


def test_exif_orientation_is_ignored_so_that_labels_stay_aligned(make_dataset: DatasetMaker) -> None:
    jpeg = cv2.imencode(".jpg", PHOTO)[1].tobytes()
    turn_right = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + turn_right
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (4, 2, 3)  # type: ignore[union-attr]
    assert read_image(make_dataset({"images/x.jpg": turned, "masks/x.png": LABELS})).shape == (2, 4, 3)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tiff", ".webp"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
def test_half_a_file_is_refused_and_nothing_spills(
    make_dataset: DatasetMaker, capfd: pytest.CaptureFixture[str], ending: str, share: float
) -> None:
    whole = cv2.imencode(ending, np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8))[1].tobytes()
    folder = make_dataset({f"images/x{ending}": whole[: int(len(whole) * share)], "masks/x.png": LABELS})
    with pytest.raises(DatasetError) as error:
        read_image(folder)
    assert_one_line(error, f"x{ending}", "fix")
    assert capfd.readouterr() == ("", "")


def test_flipped_bit_in_a_png_is_refused(make_dataset: DatasetMaker, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(cv2.imencode(".png", LABELS)[1].tobytes())
    data[-20] ^= 1
    with pytest.raises(DatasetError, match="checksum of its IDAT"):
        read_mask(make_dataset({"images/x.png": PHOTO, "masks/x.png": bytes(data)}))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("data", [b"hello", png(LABELS, bits=8, colour_type=0)[:8], b"\xff\xd8\xff"])
def test_what_is_no_picture_is_refused(make_dataset: DatasetMaker, data: bytes) -> None:
    folder = make_dataset({"images/x.png": data, "masks/x.png": data})
    for read in (read_image, read_mask):
        with pytest.raises(DatasetError, match=r"x\.png"):
            read(folder)


def test_file_that_went_away_is_named(make_dataset: DatasetMaker) -> None:
    dataset = load_dataset(make_dataset({"images/x.png": PHOTO, "masks/x.png": LABELS}))
    (pair,) = dataset.pairs("all")
    pair.image.unlink()
    with pytest.raises(DatasetError, match=r"x\.png: No such file"):
        dataset.read_image(pair)


# --- masks


FEW = LABELS % 4 % 3  # without void, so that it fits every bit depth

MASKS = {
    "8-bit": (LABELS, LABELS),
    "16-bit": (LABELS.astype(np.uint16), LABELS),
    "4-bit": (png(FEW, bits=4, colour_type=0), FEW),
    "2-bit": (png(FEW, bits=2, colour_type=0), FEW),
    "1-bit": (png(FEW % 2, bits=1, colour_type=0), FEW % 2),
    "grey with alpha": (png(np.dstack([LABELS, LABELS]), bits=8, colour_type=4), LABELS),
    "colours": (coloured(LABELS), LABELS),
    "colours with alpha": (np.dstack([coloured(LABELS), LABELS]), LABELS),
    "indexed, dataset's palette": (png(FEW, bits=8, colour_type=3, table=table(*PALETTE)), FEW),
    "indexed, palette and void's colour": (
        png(LABELS, bits=8, colour_type=3, table=table(*PALETTE, *[(9, 9, 9)] * 252, (224, 224, 192))),
        LABELS,
    ),
    "indexed, sorted colours": (png(FEW, bits=4, colour_type=3, table=table(*PALETTE[::-1])), 2 - FEW),
    "indexed, black": (png(FEW, bits=2, colour_type=3, table=table((0, 0, 0), *PALETTE)), (FEW - 1).astype(np.uint8)),
}


@pytest.mark.parametrize(("stored", "expected"), MASKS.values(), ids=MASKS.keys())
def test_every_kind_of_mask_becomes_indices(make_dataset: DatasetMaker, stored: Any, expected: Array) -> None:
    mask = read_mask(make_dataset({"images/x.png": PHOTO, "masks/x.png": stored}))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, expected)


VOC = ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))


@pytest.mark.parametrize("first", [(), (PALETTE[1],)], ids=["no colour of ours", "one by chance"])
def test_indexed_png_with_another_colour_table_is_refused(make_dataset: DatasetMaker, first: Any) -> None:
    stored = png(FEW * 0, bits=8, colour_type=3, table=table(*first, *VOC))
    with pytest.raises(DatasetError) as error:
        read_mask(make_dataset({"images/x.png": PHOTO, "masks/x.png": stored}))
    assert_one_line(error, "x.png", "colour table of its own", "save the indices as 8-bit grey PNG")


def test_label_outside_the_classes_is_named_and_counted(make_dataset: DatasetMaker) -> None:
    for kind in (np.uint8, np.uint16):
        stored = np.array([[0, 3, 3], [7, 255, 2]], kind)
        with pytest.raises(DatasetError) as error:
            read_mask(make_dataset({"images/x.png": PHOTO, "masks/x.png": stored}))
        assert_one_line(error, "x.png: label 3 (2 pixels) and 1 others", "0 to 2 or ignore index 255")


def test_16_bit_label_is_not_cut_to_8_bits(make_dataset: DatasetMaker) -> None:
    with pytest.raises(DatasetError, match=r"label 256 \(6 pixels\)"):
        read_mask(make_dataset({"images/x.png": PHOTO, "masks/x.png": np.full((2, 3), 256, np.uint16)}))


def test_foreign_colour_is_named_and_counted(make_dataset: DatasetMaker) -> None:
    stored = coloured(LABELS)
    stored[0, :2] = (3, 2, 1)
    with pytest.raises(DatasetError) as error:
        read_mask(make_dataset({"images/x.png": PHOTO, "masks/x.png": stored}))
    assert_one_line(error, "x.png: colour #010203 (2 pixels)", "colours of the palette")


def test_binary_mask_of_0_and_255_is_read_where_the_colours_say_so(make_dataset: DatasetMaker) -> None:
    stored = np.array([[0, 255], [255, 254]], np.uint8)
    folder = make_dataset(
        {"images/x.png": PHOTO, "masks/x.png": stored},
        classes=("background", "nucleus"),
        palette=((0, 0, 0), (255, 255, 255)),
        ignore_index=254,
    )
    assert read_mask(folder).tolist() == [[0, 1], [1, 254]]


def test_index_counts_before_a_grey_colour(make_dataset: DatasetMaker) -> None:
    files = {"images/x.png": PHOTO, "masks/x.png": np.array([[0, 1, 2, 255]], np.uint8)}
    palette = ((1, 1, 1), (0, 0, 0), (255, 255, 255))
    assert read_mask(make_dataset(files, palette=palette)).tolist() == [[0, 1, 2, 255]]


def test_black_is_a_class_where_the_palette_says_so(make_dataset: DatasetMaker) -> None:
    palette = ((0, 0, 0), *PALETTE[1:])
    stored = np.zeros((2, 4, 3), np.uint8)
    mask = read_mask(make_dataset({"images/x.png": PHOTO, "masks/x.png": stored}, palette=palette))
    assert (mask == 0).all()


@pytest.mark.parametrize("stored", [coloured(LABELS).astype(np.uint16), LABELS.astype(np.float32)])
def test_samples_that_are_no_labels_are_refused(make_dataset: DatasetMaker, stored: Array) -> None:
    with pytest.raises(DatasetError) as error:
        read_mask(make_dataset({"images/x.png": PHOTO, "masks/x.tiff": stored}))
    assert_one_line(error, "x.tiff", "save the label as 8-bit PNG")


@given(
    palette=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=40, unique=True),
    picks=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)),
)
def test_colours_mean_what_their_indices_mean(palette: list[tuple[int, int, int]], picks: Array) -> None:
    classes = tuple(f"class {index}" for index in range(len(palette)))
    split = {"images": "a", "masks": "b"}
    spec = DatasetSpec.model_validate(
        {"name": "x", "ignore_index": 255, "classes": classes, "palette": palette, "splits": {"all": split}}
    )
    dataset = Dataset(Path(), spec)
    labels = (picks % len(palette)).astype(np.uint8)
    colours = np.array(palette, np.uint8)[labels][..., ::-1]
    np.testing.assert_array_equal(dataset.labels(Path("x"), LabelPixels(pixels=colours)), labels)
    np.testing.assert_array_equal(dataset.labels(Path("x"), LabelPixels(pixels=labels.astype(np.uint16))), labels)


# --- pairs that cannot be read


@pytest.mark.parametrize(
    "files",
    [
        {"images/x.png": b"no", "masks/x.png": LABELS},
        {"images/x.png": PHOTO, "masks/x.png": b""},
        {"images/x.png": PHOTO[:1], "masks/x.png": LABELS},
        {"images/x.png": PHOTO, "masks/x.png": LABELS + 3},
    ],
    ids=["image", "mask", "size", "label"],
)
def test_pair_that_cannot_be_read_is_an_error_of_its_own_and_travels_between_processes(
    make_dataset: DatasetMaker, files: dict[str, Any]
) -> None:
    dataset = load_dataset(make_dataset(files))
    (pair,) = dataset.pairs("all")
    with pytest.raises(UnreadablePairError) as error:
        dataset.read_pair(pair)
    assert_one_line(error, "x.png", "fix")
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.found, again.fix) == (str(error.value), error.value.found, error.value.fix)


def test_sound_pair_is_read_as_its_parts_are(make_dataset: DatasetMaker) -> None:
    dataset = load_dataset(make_dataset({"images/x.png": PHOTO, "masks/x.png": LABELS}))
    (pair,) = dataset.pairs("all")
    image, mask = dataset.read_pair(pair)
    np.testing.assert_array_equal(image, PHOTO)
    np.testing.assert_array_equal(mask, LABELS)


@given(total=st.integers(1, 5000), found=st.lists(st.integers(0, 60), max_size=100))
def test_bad_pairs_are_counted_once_and_more_than_one_percent_ends_it(total: int, found: list[int]) -> None:
    lines: list[str] = []
    bad = BadPairs(total, report=lines.append)
    distinct: set[int] = set()
    for number in found:
        distinct.add(number)
        error = UnreadablePairError(f"images/{number}.png: PNG cut short", fix="replace it")
        if 100 * len(distinct) > total:
            with pytest.raises(
                DatasetError, match=f"{len(distinct)} of {total} pairs.*images/{number}.png.*data check"
            ):
                bad.add(error)
            return
        bad.add(error)
    assert len(bad) == len(distinct) == len(lines)
    assert len(bad.document().get("unreadable", [])) == len(distinct)


# --- digest


def test_digest_depends_on_content_and_meaning_not_on_place(make_dataset: DatasetMaker) -> None:
    files = {"images/x.png": PHOTO, "masks/x.png": LABELS}

    def digest(files: dict[str, Array], **change: Any) -> str:
        return load_dataset(make_dataset(files, **change)).digest("all")

    base = digest(files, folder="a")
    assert len(base) == 64
    assert digest(files, folder="b") == base
    others = [
        digest(files | {"images/x.png": PHOTO + 1}, folder="c"),
        digest(files | {"masks/x.png": FEW}, folder="d"),
        digest({"images/y.png": PHOTO, "masks/y.png": LABELS}, folder="e"),
        digest(files | {"images/z.png": PHOTO, "masks/z.png": LABELS}, folder="f"),
        digest(files, folder="g", classes=("ground", "box", "tree")),
    ]
    assert len({base, *others}) == 6


def test_camvid_is_read(camvid: Path) -> None:
    dataset = load_dataset(camvid)
    assert {split: len(dataset.pairs(split)) for split in dataset.splits} == {
        "train": 367, "val": 101, "test": 233, "fit": 266, "select": 101,
        "test-unseen-drive": 171, "test-seen-drive": 62,
    }  # fmt: skip
    pair = dataset.pairs("test")[0]
    assert dataset.read_image(pair).shape == (360, 480, 3)
    assert dataset.read_mask(pair).shape == (360, 480)
    assert set(np.unique(dataset.read_mask(pair))) <= set(range(12))
