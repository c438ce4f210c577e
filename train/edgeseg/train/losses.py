"""What the network is trained to lower: cross-entropy for every pixel, and the Jaccard loss for what is scored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.train.samples import NETWORK_IGNORE

LOVASZ_STRIDE = 4
"""Of every block of this many pixels squared, one enters the Jaccard loss: it sorts all that enter."""


def segmentation_loss(
    logits: tuple[Tensor, Tensor], labels: Tensor, weights: Tensor, *, auxiliary: float, lovasz: float
) -> Tensor:
    """Weighted cross-entropy of the main and the auxiliary head, and the Lovász loss of the main one. A scalar.

    `logits` are (N, classes, h, w) at any stride, brought to the size of `labels` (N, H, W) int64 with
    `NETWORK_IGNORE` for void; `weights` (classes,). A batch of only void costs 0.
    """
    if not bool((labels != NETWORK_IGNORE).any()):
        return logits[0].sum() * 0.0
    main, aux = (F.interpolate(x, size=labels.shape[1:], mode="bilinear", align_corners=False) for x in logits)
    total = F.cross_entropy(main, labels, weight=weights, ignore_index=NETWORK_IGNORE)
    if auxiliary:
        total = total + auxiliary * F.cross_entropy(aux, labels, weight=weights, ignore_index=NETWORK_IGNORE)
    if lovasz:
        row, column = (int(torch.randint(LOVASZ_STRIDE, ())) for _ in range(2))
        step = slice(row, None, LOVASZ_STRIDE), slice(column, None, LOVASZ_STRIDE)
        total = total + lovasz * lovasz_softmax(main[:, :, step[0], step[1]], labels[:, step[0], step[1]])
    return total


def distillation_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """How far the chances of `logits` are from a teacher's: Kullback-Leibler divergence, the mean over all pixels.

    Both (N, classes, h, w); `taught` is brought to the size of `logits`. Void pixels count too: the teacher has an
    opinion of them. Hinton, Vinyals and Dean, 2015, at temperature 1.
    """
    if taught.shape[2:] != logits.shape[2:]:
        taught = F.interpolate(taught, size=logits.shape[2:], mode="bilinear", align_corners=False)
    each = F.kl_div(logits.log_softmax(dim=1), taught.log_softmax(dim=1), reduction="none", log_target=True)
    return each.sum(dim=1).mean()


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the classes in `labels` of a convex bound of 1 - IoU, over all pixels of the batch together. 0 … 1.

    (N, classes, h, w) logits and (N, h, w) int64 labels, `NETWORK_IGNORE` left out. The Lovász extension of the
    Jaccard loss: Berman, Rannen Triki and Blaschko, CVPR 2018.
    """
    known = labels != NETWORK_IGNORE
    truth = labels[known]
    if not truth.numel():
        return logits.sum() * 0.0
    chances = logits.softmax(dim=1).movedim(1, -1)[known]
    losses = []
    for index in torch.unique(truth).tolist():
        is_class = (truth == index).to(chances.dtype)
        errors, order = (is_class - chances[:, index]).abs().sort(descending=True)
        losses.append(errors @ _jaccard_steps(is_class[order]))
    return torch.stack(losses).mean()


def _jaccard_steps(is_class: Tensor) -> Tensor:
    """How much 1 - IoU grows as each pixel, worst first, is counted wrong. (pixels,) → (pixels,)."""
    total = is_class.sum()
    intersection = total - is_class.cumsum(0)
    union = total + (1 - is_class).cumsum(0)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
