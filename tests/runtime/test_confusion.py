from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.errors import DatasetError, FrameError

Array = npt.NDArray[np.uint8]

CLASSES = ("sky", "road", "car")
IGNORE = 7

Scene = tuple[Array, Array]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6))
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, IGNORE])))
    prediction = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, IGNORE, 255])))
    return truth, prediction


def matrix_of(*pairs: Scene) -> ConfusionMatrix:
    matrix = ConfusionMatrix(CLASSES, IGNORE)
    for truth, prediction in pairs:
        matrix.add(truth, prediction)
    return matrix


def naive_document(pairs: list[Scene]) -> dict[str, Any]:
    """The definitions, pixel by pixel."""
    pixels = [
        (int(t), int(p))
        for truth, prediction in pairs
        for t, p in zip(truth.ravel(), prediction.ravel(), strict=True)
        if t != IGNORE
    ]
    ious = {}
    for index, name in enumerate(CLASSES):
        if any(t == index for t, _ in pixels):
            both = sum(t == index and p == index for t, p in pixels)
            either = sum(t == index or p == index for t, p in pixels)
            ious[name] = 100.0 * both / either
    document: dict[str, Any] = {"per_class_iou": ious, "images": len(pairs)}
    if pixels:
        document["miou"] = sum(ious.values()) / len(ious)
        document["pixel_accuracy"] = 100.0 * sum(t == p for t, p in pixels) / len(pixels)
    return document


@given(st.lists(scenes(), max_size=4))
def test_figures_are_those_of_the_definitions(pairs: list[Scene]) -> None:
    assert matrix_of(*pairs).document() == naive_document(pairs)


@given(st.lists(scenes(), max_size=5), st.randoms(use_true_random=False))
def test_order_of_images_does_not_matter(pairs: list[Scene], random: Any) -> None:
    shuffled = random.sample(pairs, len(pairs))
    assert matrix_of(*pairs).document() == matrix_of(*shuffled).document()


@given(st.lists(scenes(), max_size=3), st.lists(scenes(), max_size=3), st.lists(scenes(), max_size=3))
def test_merge_is_associative_and_equals_adding(one: list[Scene], two: list[Scene], three: list[Scene]) -> None:
    a, b, c = matrix_of(*one), matrix_of(*two), matrix_of(*three)
    whole = matrix_of(*one, *two, *three).document()
    assert a.merge(b).merge(c).document() == whole
    assert a.merge(b.merge(c)).document() == whole
    assert a.document() == matrix_of(*one).document()


def test_perfect_prediction_scores_100() -> None:
    truth = np.array([[0, 1, 2, IGNORE]], np.uint8)
    matrix = matrix_of((truth, truth))
    assert (matrix.miou, matrix.pixel_accuracy, matrix.images) == (100.0, 100.0, 1)


def test_class_absent_from_truth_is_left_out_even_if_predicted() -> None:
    matrix = matrix_of((np.array([[0, 0]], np.uint8), np.array([[0, 2]], np.uint8)))
    assert matrix.per_class_iou == {"sky": 50.0}
    assert matrix.miou == 50.0


def test_prediction_of_no_class_is_wrong_where_truth_is_valid() -> None:
    truth = np.array([[0, 0, 0, 0]], np.uint8)
    matrix = matrix_of((truth, np.array([[0, IGNORE, 200, 3]], np.uint8)))
    assert matrix.counts.sum() == 4
    assert matrix.pixel_accuracy == 25.0
    assert matrix.miou == 25.0


def test_void_pixels_are_scored_nowhere() -> None:
    truth = np.array([[0, IGNORE]], np.uint8)
    assert matrix_of((truth, np.array([[0, 1]], np.uint8))).miou == 100.0


def test_nothing_scored_gives_no_figures() -> None:
    matrix = matrix_of((np.full((2, 2), IGNORE, np.uint8), np.zeros((2, 2), np.uint8)))
    assert matrix.miou is None
    assert matrix.pixel_accuracy is None
    assert json.dumps(matrix.document(), allow_nan=False) == '{"per_class_iou": {}, "images": 1}'


def test_counts_stay_exact_past_32_bits() -> None:
    matrix = matrix_of((np.zeros((1, 3), np.uint8), np.array([[0, 0, 1]], np.uint8)))
    for _ in range(40):
        matrix = matrix.merge(matrix)
    assert matrix.counts[0].tolist() == [2 << 40, 1 << 40, 0, 0]
    assert matrix.images == 1 << 40


def test_255_classes_fit() -> None:
    labels = np.arange(256, dtype=np.uint8)[None]
    matrix = ConfusionMatrix([str(index) for index in range(255)], 255)
    matrix.add(labels, labels)
    assert matrix.miou == 100.0
    assert len(matrix.per_class_iou) == 255


def test_truth_of_no_class_is_refused_and_nothing_counted() -> None:
    matrix = ConfusionMatrix(CLASSES, IGNORE)
    with pytest.raises(DatasetError, match="2 pixels of no class, up to label 9"):
        matrix.add(np.array([[0, 3, 9]], np.uint8), np.zeros((1, 3), np.uint8))
    assert (matrix.images, matrix.counts.sum()) == (0, 0)


@pytest.mark.parametrize("prediction", [np.zeros((2, 3), np.uint8), np.zeros((1, 3), np.int64)])
def test_masks_that_do_not_match_are_refused(prediction: Any) -> None:
    with pytest.raises(FrameError, match="expected two uint8 masks of one shape"):
        ConfusionMatrix(CLASSES, IGNORE).add(np.zeros((1, 3), np.uint8), prediction)


def test_matrices_of_different_classes_do_not_merge() -> None:
    with pytest.raises(ValueError, match="cannot merge"):
        ConfusionMatrix(CLASSES, IGNORE).merge(ConfusionMatrix(("sky",), IGNORE))


def test_predicted_areas_are_those_of_scored_pixels_that_got_a_class() -> None:
    matrix = ConfusionMatrix(("a", "b", "c"), 255)
    assert matrix.predicted_areas == {}
    truth = np.array([[0, 0, 1, 255, 2]], np.uint8)
    matrix.add(truth, np.array([[0, 1, 1, 2, 255]], np.uint8))
    assert matrix.predicted_areas == {"a": pytest.approx(1 / 3), "b": pytest.approx(2 / 3)}
