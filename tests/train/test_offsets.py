"""Offsets of the logits: never worse, found where a class is said too often, and part of a trained run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.train.offsets import LARGEST, best_offsets
from edgeseg.train.samples import NETWORK_IGNORE


def _mean_iou(mask: torch.Tensor, labels: torch.Tensor) -> float:
    known = labels != NETWORK_IGNORE
    ious = []
    for index in set(labels[known].tolist()):
        both = (mask[known] == index) & (labels[known] == index)
        either = (mask[known] == index) | (labels[known] == index)
        ious.append(float(both.sum()) / float(either.sum()))
    return sum(ious) / len(ious)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6))
def test_offsets_never_lower_the_iou_that_they_were_found_on(seed: int, classes: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(200, classes, generator=rng), torch.randint(classes, (200,), generator=rng).byte()
    labels[:20] = NETWORK_IGNORE
    offsets = best_offsets(logits, labels)
    assert float(offsets.abs().max()) < LARGEST
    before, after = (_mean_iou(x.argmax(1), labels) for x in (logits, logits + offsets))
    assert after >= before - 1e-12


def test_class_that_is_said_too_often_is_said_less() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = (torch.rand(5000, generator=rng) < 0.05).byte()
    evidence = torch.randn(5000, generator=rng) + 2.0 * labels
    logits = torch.stack([torch.zeros(5000), evidence], dim=1)  # says class 1 of nearly half of all
    offsets = best_offsets(logits, labels)
    assert offsets[1] - offsets[0] < -1
    assert _mean_iou((logits + offsets).argmax(1), labels) > _mean_iou(logits.argmax(1), labels) + 0.1


def test_no_labelled_pixel_moves_nothing() -> None:
    assert not best_offsets(torch.randn(9, 3), torch.full((9,), NETWORK_IGNORE, dtype=torch.uint8)).any()


@pytest.mark.parametrize("wanted", [0, 1])
def test_right_answer_is_left_alone(wanted: int) -> None:
    labels = torch.tensor([0, 1, 2, wanted], dtype=torch.uint8)
    assert not best_offsets(torch.nn.functional.one_hot(labels.long(), 3).float() * 9, labels).any()
