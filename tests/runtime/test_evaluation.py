"""Boundary F-score, calibration, worst images, flicker and their pictures."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import Dataset, Pair, load_dataset
from edgeseg.runtime.errors import SinkError, SourceError
from edgeseg.runtime.evaluate import BundlePredictor, Certainty, Prediction, predict_pairs, spread
from edgeseg.runtime.evaluation.boundary import BoundaryScore
from edgeseg.runtime.evaluation.calibration import BINS, Calibration
from edgeseg.runtime.evaluation.flicker import measure_flicker
from edgeseg.runtime.evaluation.report import NO_CONFIDENCE, Report
from edgeseg.runtime.evaluation.worst import WorstImages
from edgeseg.runtime.frame import Confidence, Image, Mask

CLASSES = ("ground", "crate", "tree")
VOID = 200
CONTRACT = Contract(
    height=32,
    width=64,
    fit="stretch",
    classes=CLASSES,
    palette=((128, 64, 128), (0, 0, 142), (107, 142, 35)),
    ignore_index=VOID,
)

masks = hnp.arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9)), elements=st.sampled_from([0, 1, 2, VOID]))


def _boundary(truth: Mask, prediction: Mask, tolerance: float = 0.0075) -> BoundaryScore:
    score = BoundaryScore(CLASSES, VOID, tolerance=tolerance)
    score.add(truth, prediction)
    return score


def _halves(height: int, width: int, split: int) -> Mask:
    labels = np.zeros((height, width), np.uint8)
    labels[:, split:] = 1
    return labels


# --- boundary F-score


def _slow_f(truth: Mask, prediction: Mask, index: int, reach: float) -> float | None:
    """The definition, pixel by pixel."""
    height, width = truth.shape
    void = {(r, c) for r in range(height) for c in range(width) if truth[r, c] == VOID}

    def border(mask: Mask, unknown: set[tuple[int, int]]) -> list[tuple[int, int]]:
        found = []
        for row in range(height):
            for column in range(width):
                around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
                inside = [(r, c) for r, c in around if 0 <= r < height and 0 <= c < width and (r, c) not in unknown]
                if mask[row, column] == index and any(mask[place] != index for place in inside):
                    found.append((row, column))
        return found

    def near(place: tuple[int, int], others: object) -> bool:
        return any(math.dist(place, other) <= reach for other in others)  # type: ignore[attr-defined]

    ours, theirs = border(truth, void), border(prediction, set())
    counted = [place for place in theirs if not near(place, void)]
    if not ours and not counted:
        return None
    precision = sum(near(place, ours) for place in counted) / len(counted) if counted else 1.0
    recall = sum(near(place, theirs) for place in ours) / len(ours) if ours else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(st.data(), st.integers(1, 20))
def test_distance_transforms_give_what_the_definition_gives(data: st.DataObject, squared: int) -> None:
    truth = data.draw(masks)
    prediction = data.draw(hnp.arrays(np.uint8, truth.shape, elements=st.integers(0, 2)))
    reach = math.sqrt(squared + 0.5)  # squared distances are whole: none lies on the edge
    tolerance = reach / math.hypot(*truth.shape)
    slow = {name: _slow_f(truth, prediction, index, reach) for index, name in enumerate(CLASSES)}
    expected = {name: 100 * f for name, f in slow.items() if f is not None}
    assert _boundary(truth, prediction, tolerance).per_class == pytest.approx(expected)


@given(masks)
def test_the_truth_itself_scores_full_marks(truth: Mask) -> None:
    known = np.where(truth == VOID, np.uint8(0), truth)
    assert set(_boundary(truth, known, 0.2).per_class.values()) <= {100.0}
    assert set(_boundary(known, known).per_class.values()) <= {100.0}


@given(st.data())
def test_truth_and_prediction_may_change_places_where_nothing_is_void(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
    first, second = (data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2))) for _ in range(2))
    assert _boundary(first, second, 0.1).per_class == pytest.approx(_boundary(second, first, 0.1).per_class)


def test_a_border_may_be_off_by_the_tolerance_and_no_more() -> None:
    truth = _halves(300, 400, 200)  # a diagonal of 500 pixels: 3.75 are let pass
    assert _boundary(truth, _halves(300, 400, 203)).mean == 100.0
    assert _boundary(truth, _halves(300, 400, 204)).mean == 0.0


def test_a_border_that_only_one_side_has_scores_nothing() -> None:
    flat = np.zeros((30, 40), np.uint8)
    assert _boundary(flat, _halves(30, 40, 20)).per_class == {"ground": 0.0, "crate": 0.0}
    assert _boundary(_halves(30, 40, 20), flat).per_class == {"ground": 0.0, "crate": 0.0}
    assert _boundary(flat, flat).mean is None
    assert _boundary(flat, flat).document() == {}


def test_a_border_beside_void_is_not_judged() -> None:
    truth = _halves(30, 40, 20)
    truth[:, 18:22] = VOID  # whoever draws the border in there may be right
    assert _boundary(truth, _halves(30, 40, 19)).mean is None
    wrong = _halves(30, 40, 19)
    wrong[:, 5:8] = 2
    assert _boundary(truth, wrong).per_class["tree"] == 0.0


# --- calibration


def _certainty(right: list[bool], confidence: list[int]) -> Certainty:
    truth = np.zeros((1, len(right)), np.uint8)
    mask = np.where(right, 0, 1).astype(np.uint8)[None]
    return Certainty(truth=truth, mask=mask, confidence=np.array([confidence], np.uint8))


def test_a_network_that_is_as_right_as_it_says_has_no_calibration_error() -> None:
    calibration = Calibration(CLASSES, VOID)
    calibration.add(_certainty([True, True, True, True, False], [204] * 5))  # 204 / 255 = 80 %
    assert calibration.error == pytest.approx(0.0)
    (only,) = calibration.bins
    assert (only.pixels, only.accuracy) == (5, 0.8) and only.confidence == pytest.approx(0.8)


def test_calibration_error_weighs_bins_by_their_pixels() -> None:
    calibration = Calibration(CLASSES, VOID)
    calibration.add(_certainty([True, False], [255, 255]))  # gap 0.5, two pixels
    calibration.add(_certainty([True] * 6, [255 * 2 // 5] * 6))  # gap 0.6, six pixels
    assert calibration.error == pytest.approx(100 * (2 * 0.5 + 6 * 0.6) / 8)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 255)), min_size=1, max_size=50))
def test_every_pixel_is_in_one_bin_between_its_ends(pixels: list[tuple[bool, int]]) -> None:
    calibration = Calibration(CLASSES, VOID)
    calibration.add(_certainty([right for right, _ in pixels], [level for _, level in pixels]))
    bins = calibration.bins
    assert sum(one.pixels for one in bins) == len(pixels)
    assert sum(round(one.pixels * one.accuracy) for one in bins) == sum(right for right, _ in pixels)
    assert all(one.low - 1 / 255 <= one.confidence <= one.high and one.high - one.low < 1.01 / BINS for one in bins)
    assert calibration.error is not None and 0 <= calibration.error <= 100


def test_void_and_what_has_no_class_do_not_count_for_calibration() -> None:
    calibration = Calibration(CLASSES, VOID)
    seen = _certainty([True, True, True], [255, 10, 10])
    seen.truth[0, 1], seen.mask[0, 2] = VOID, VOID
    calibration.add(seen)
    assert calibration.error == 0.0
    assert Calibration(CLASSES, VOID).document() == {"absent": "no labelled pixel"}


# --- one pass over a dataset


class Unsure:
    """Sees the palette's colours in the red channel's level, half sure, in cells of two pixels."""

    contract = CONTRACT
    confidence: Confidence | None = None

    def __init__(self, level: int | None = 128) -> None:
        self._level = level

    def infer(self, fitted: Image) -> Mask:
        mask: Mask = (fitted[..., 2] < 64).astype(np.uint8)
        if self._level is not None:
            self.confidence = np.full((1, mask.shape[1] // 2, mask.shape[2] // 2), self._level, np.uint8)
        return mask


class UnsureBackend(Unsure):
    name, precision = "unsure", "fp32"

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def yard(tmp_path: Path) -> Dataset:
    """Four photos of ground and crate; in the n-th, n sixteenths of the photo are painted as the other."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index in range(4):
        labels = _halves(32, 64, 32)
        painted = labels.copy()
        painted[:, : 4 * index] = 1
        photo = np.array(CONTRACT.palette, np.uint8)[painted][..., ::-1]
        assert cv2.imwrite(str(tmp_path / f"images/{index}.png"), photo)
        assert cv2.imwrite(str(tmp_path / f"masks/{index}.png"), labels)
    palette = [list(colour) for colour in CONTRACT.palette]
    (tmp_path / "dataset.toml").write_text(
        f'name = "yard"\nignore_index = {VOID}\nclasses = ["ground", "crate", "tree"]\npalette = {palette}\n'
        '[splits.all]\nimages = "images"\nmasks = "masks"\n'
    )
    return load_dataset(tmp_path)


def _report(yard: Dataset, network: Unsure) -> Report:
    report = Report(CONTRACT, yard, worst=2)
    for prediction in predict_pairs(network, yard, yard.pairs("all"), with_certainty=True):
        report.add(prediction)
    return report


def test_report_holds_every_figure_of_one_pass(yard: Dataset) -> None:
    document = _report(yard, Unsure()).document()
    assert document["images"] == 4
    assert document["confusion"]["pixels"] == [[4 * 1024 - 128 * 6, 128 * 6, 0, 0], [0, 4096, 0, 0], [0, 0, 0, 0]]
    assert document["confusion"]["prediction"] == ["ground", "crate", "tree", None]
    accuracy = document["pixel_accuracy"]
    assert document["calibration"]["ece"] == pytest.approx(accuracy - 100 * 128 / 255)
    assert sum(one["pixels"] for one in document["calibration"]["bins"]) == 4 * 16 * 32
    assert [one["image"] for one in document["worst"]] == ["3", "2"]
    assert document["worst"][0]["miou"] < document["worst"][1]["miou"] < document["miou"]
    assert document["boundary_f"] < 100


def test_without_confidence_the_report_says_why_there_is_no_calibration(yard: Dataset, tmp_path: Path) -> None:
    report = _report(yard, Unsure(level=None))
    assert report.document()["calibration"] == {"absent": NO_CONFIDENCE}
    assert [path.name for path in report.draw(tmp_path / "pictures", "yard")] == ["confusion.png", "worst.png"]


def test_pictures_show_every_class_and_bin(yard: Dataset, tmp_path: Path) -> None:
    paths = _report(yard, Unsure()).draw(tmp_path / "new" / "pictures", "yard")
    assert [path.name for path in paths] == ["confusion.png", "worst.png", "reliability.png"]
    pictures = {path.stem: cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) for path in paths}
    sizes = {name: picture.shape for name, picture in pictures.items() if picture is not None}
    assert sizes["worst"][1] > 3 * 480  # photo, prediction, truth
    assert len(sizes) == 3 and all(min(size[:2]) > 100 for size in sizes.values())
    full, none = _counted_cells(tmp_path / "new" / "pictures" / "confusion.png")
    assert full == 1 and none > 0


def _counted_cells(path: Path) -> tuple[int, int]:
    """How many cells hold 100 %, and how many pixels are paper."""
    picture = cv2.imread(str(path))
    assert picture is not None
    blue = cv2.inRange(picture, (178, 114, 0), (178, 114, 0))
    cells = sum(1 for area in cv2.connectedComponentsWithStats(blue)[2][1:, cv2.CC_STAT_AREA] if area > 1500)
    return cells, int(np.count_nonzero((picture == (30, 25, 22)).all(axis=-1)))


def test_pictures_that_cannot_be_written_are_a_users_problem(yard: Dataset, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(SinkError, match="cannot be written"):
        _report(yard, Unsure()).draw(tmp_path / "taken", "yard")


def test_certainty_is_taken_where_the_graph_looked(yard: Dataset) -> None:
    """At the middle of each cell of the network's input; bars of a letterbox are void."""

    class Boxed(Unsure):
        contract = CONTRACT.model_copy(update={"fit": "letterbox", "height": 64})

    (first, *_) = predict_pairs(Boxed(), yard, yard.pairs("all")[:1], with_certainty=True)
    assert first.certainty is not None
    assert first.certainty.truth.shape == first.certainty.mask.shape == first.certainty.confidence.shape == (32, 32)
    assert (first.certainty.truth[:8] == VOID).all() and (first.certainty.truth[8:24, :15] == 0).all()
    (plain, *_) = predict_pairs(Boxed(), yard, yard.pairs("all")[:1])
    assert plain.certainty is None


def test_certainty_of_a_bundle_is_its_backends(yard: Dataset) -> None:
    bundle = BundlePredictor(contract=CONTRACT, backend=UnsureBackend())
    (first, *_) = predict_pairs(bundle, yard, yard.pairs("all")[:1], with_certainty=True)
    assert first.certainty is not None and set(np.unique(first.certainty.confidence)) == {128}


@given(scores=st.lists(st.integers(0, 30), min_size=1, max_size=20), count=st.integers(1, 5))
def test_worst_images_are_the_lowest_in_order(scores: list[int], count: int) -> None:
    worst = WorstImages(count)
    for index, score in enumerate(scores):
        flat = np.zeros((2, 2), np.uint8)
        pair = Pair(stem=f"{index:02}", image=Path("a"), mask=Path("a"))
        worst.add(Prediction(pair=pair, image_bgr=np.zeros((2, 2, 3), np.uint8), truth=flat, mask=flat), score)
    expected = sorted((score, f"{index:02}") for index, score in enumerate(scores))[:count]
    assert [(one["miou"], one["image"]) for one in worst.document()] == expected
    assert len(worst.rows) == len(expected)


@given(st.integers(1, 60), st.integers(1, 60))
def test_spread_pairs_are_distinct_in_order_and_reach_both_ends(total: int, count: int) -> None:
    pairs = [Pair(stem=str(index), image=Path("a"), mask=Path("a")) for index in range(total)]
    chosen = [int(pair.stem) for pair in spread(pairs, count)]
    assert len(chosen) == min(total, count) and chosen == sorted(set(chosen))
    assert chosen[0] == 0 and (count == 1 or chosen[-1] == total - 1)
    assert spread(pairs, None) == pairs


# --- flicker


def _write_video(path: Path, levels: list[int]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 2.0, (64, 32))
    for level in levels:
        writer.write(np.full((32, 64, 3), level, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(("levels", "flicker", "changed"), [([200] * 6, 0, 0), ([200, 10] * 3, 100, 100)])
def test_flicker_of_a_video_in_its_own_time(tmp_path: Path, levels: list[int], flicker: float, changed: float) -> None:
    seen: list[int] = []
    found = measure_flicker(Unsure(), _write_video(tmp_path / "a.avi", levels), advance=lambda: seen.append(1))
    assert found == {"video": "a.avi", "frames": 6, "changed": changed, "flicker": flicker}
    assert len(seen) == 6


def test_one_frame_cannot_flicker_and_no_video_is_refused(tmp_path: Path) -> None:
    assert measure_flicker(Unsure(), _write_video(tmp_path / "one.avi", [200])) == {"video": "one.avi", "frames": 1}
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(SourceError, match="no frame"):
        measure_flicker(Unsure(), tmp_path / "text.avi")
