"""The losses: what they are at the ends, what they leave out, and that lowering them raises IoU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.train.losses import distillation_loss, lovasz_softmax, segmentation_loss
from edgeseg.train.samples import NETWORK_IGNORE


def _sure(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits so sure of `labels` that their softmax is one-hot."""
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float() * 200


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5))
def test_lovasz_of_a_sure_answer_is_one_less_the_mean_iou(seed: int, classes: int) -> None:
    """On hard predictions the extension equals the set function that it extends, here 1 - IoU of each true class."""
    rng = torch.Generator().manual_seed(seed)
    truth, guess = (torch.randint(classes, (2, 5, 6), generator=rng) for _ in range(2))
    ious = []
    for index in set(truth.flatten().tolist()):
        both, either = ((truth == index) & (guess == index)).sum(), ((truth == index) | (guess == index)).sum()
        ious.append(float(both) / float(either))
    assert float(lovasz_softmax(_sure(guess, classes), truth)) == pytest.approx(1 - sum(ious) / len(ious), abs=1e-5)


def test_right_answer_costs_nothing() -> None:
    labels = torch.randint(4, (2, 16, 16))
    logits = _sure(labels, 4)
    loss = segmentation_loss((logits, logits), labels, torch.ones(4), auxiliary=0.4, lovasz=0.5)
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_cell_answers_for_every_pixel_that_the_mask_gets_from_it() -> None:
    """The loss at the logits' stride is that of the enlarged logits, pixel by pixel."""
    torch.manual_seed(0)
    logits, weights = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 1.0, 3.0])
    labels = torch.randint(3, (2, 16, 16))
    labels[:, :3] = NETWORK_IGNORE
    loss = segmentation_loss((logits, logits), labels, weights, auxiliary=0.0, lovasz=0.0)
    enlarged = torch.nn.functional.interpolate(logits, scale_factor=2, mode="nearest")
    expected = torch.nn.functional.cross_entropy(enlarged, labels, weight=weights, ignore_index=NETWORK_IGNORE)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_void_pixels_change_nothing() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 8, 8), torch.randint(3, (1, 8, 8))
    labels[:, 4:] = NETWORK_IGNORE
    other = logits.clone()
    other[:, :, 4:] = torch.randn(1, 3, 4, 8)
    assert torch.equal(lovasz_softmax(logits, labels), lovasz_softmax(other, labels))


def test_batch_of_only_void_costs_nothing_and_has_a_gradient() -> None:
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    labels = torch.full((1, 8, 8), NETWORK_IGNORE)
    loss = segmentation_loss((logits, logits), labels, torch.ones(3), auxiliary=0.4, lovasz=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()


def test_descending_the_lovasz_loss_alone_finds_the_labels() -> None:
    torch.manual_seed(0)
    labels = torch.randint(3, (1, 12, 12))
    labels[0, 0, 0] = 2
    logits = torch.zeros(1, 3, 12, 12, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=20.0)
    for _ in range(100):
        optimiser.zero_grad()
        lovasz_softmax(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert torch.equal(logits.argmax(1), labels)


def test_distillation_costs_nothing_for_the_teachers_own_answer_and_else_something() -> None:
    torch.manual_seed(0)
    taught, other = torch.randn(2, 5, 8, 8), torch.randn(2, 5, 8, 8)
    assert float(distillation_loss(taught + 3.0, taught)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(other, taught)) > 0.1
    assert float(distillation_loss(other, taught[:, :, ::2, ::2])) > 0.1
