"""What the network is trained to lower: cross-entropy for every pixel, and the Jaccard loss for what is scored.

Each loss is a mean over the whole batch, void left out. Where processes share a batch, each gets its part: parts sum to
the loss of the whole batch, and so do their gradients.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.runtime.errors import TrainError
from edgeseg.train.ranks import ALONE, Ranks
from edgeseg.train.samples import NETWORK_IGNORE

LOVASZ_STRIDE = 4
"""Of every block of this many pixels squared, one enters the Jaccard loss: it sorts all that enter."""


def class_weights(pixels: npt.NDArray[np.float64], balance: float) -> Tensor:
    """Weights of the loss, (classes,) float32: (median frequency / frequency)^`balance`, held to 0.4 … 4.

    After Eigen and Fergus (ICCV 2015), who take the power 1; a softer one costs the large classes less. A class
    that no label shows gets weight 1.
    """
    if not pixels.any():
        raise TrainError(
            "no labelled pixel in the training splits", expected="masks with classes", fix="see data check"
        )
    median = np.median(pixels[pixels > 0])
    weights = np.where(pixels > 0, (median / np.maximum(pixels, 1)) ** balance, 1.0)
    return torch.from_numpy(np.clip(weights, 0.4, 4.0)).float()


def segmentation_loss(
    logits: tuple[Tensor, Tensor],
    labels: Tensor,
    weights: Tensor,
    *,
    auxiliary: float,
    lovasz: float,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Weighted cross-entropy of the main and the auxiliary head, and the Lovász loss of the main one. A scalar.

    `logits` are (N, classes, h, w), the main ones first; `labels` (N, H, W) int64 with `NETWORK_IGNORE` for void, H and
    W multiples of the main ones' h and w; `weights` (classes,). A main cell answers for all the pixels that the mask
    gets from it, as `mask_of` enlarges it. A batch of only void costs 0.
    """
    row, column = (int(torch.randint(LOVASZ_STRIDE, ())) for _ in range(2))
    main, aux = (x.float() for x in logits)
    aux = F.interpolate(aux, size=main.shape[2:], mode="bilinear", align_corners=False)
    # The auxiliary head always takes part, if with nothing: engines wait for a gradient of every weight.
    entropies = [_cross_entropy(x, labels, weights) for x in (main, aux)]
    weight = ranks.total(weights[labels[labels != NETWORK_IGNORE]].sum())
    total = (entropies[0] + auxiliary * entropies[1]) / weight.clamp(min=1e-12)
    if lovasz:
        stride = labels.shape[1] // main.shape[2]
        step = max(1, LOVASZ_STRIDE // stride)
        cells = main[:, :, row // stride :: step, column // stride :: step]
        total = total + lovasz * lovasz_softmax(cells, labels[:, row :: step * stride, column :: step * stride], ranks)
    return total


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over all pixels, each under the cell that covers it: the softmax is taken once a cell."""
    stride = labels.shape[1] // logits.shape[2]
    chances = logits.log_softmax(dim=1)
    pixels = [labels[:, row::stride, column::stride] for row in range(stride) for column in range(stride)]
    return torch.stack(
        [F.nll_loss(chances, part, weight=weights, ignore_index=NETWORK_IGNORE, reduction="sum") for part in pixels]
    ).sum()


def distillation_loss(logits: Tensor, taught: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """How far the chances of `logits` are from a teacher's: Kullback-Leibler divergence, the mean over all pixels.

    Both (N, classes, h, w); `taught` is brought to the size of `logits`. Void pixels count too: the teacher has an
    opinion of them. Hinton, Vinyals and Dean, 2015, at temperature 1.
    """
    logits, taught = logits.float(), taught.float()
    if taught.shape[2:] != logits.shape[2:]:
        taught = F.interpolate(taught, size=logits.shape[2:], mode="bilinear", align_corners=False)
    each = F.kl_div(logits.log_softmax(dim=1), taught.log_softmax(dim=1), reduction="sum", log_target=True)
    return each / ranks.total(each.new_tensor(logits.numel() / logits.shape[1]))


def lovasz_softmax(logits: Tensor, labels: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Mean over the classes in `labels` of a convex bound of 1 - IoU, over all pixels of the batch together. 0 … 1.

    (N, classes, h, w) logits and (N, h, w) int64 labels, `NETWORK_IGNORE` left out. The Lovász extension of the
    Jaccard loss: Berman, Rannen Triki and Blaschko, CVPR 2018. It is no sum over pixels, so every process computes it
    for the pixels of all; the gradient reaches its own.
    """
    known = labels != NETWORK_IGNORE
    truth = ranks.gather(labels[known])
    chances = ranks.gather(logits.softmax(dim=1).movedim(1, -1)[known])
    if not truth.numel():
        return logits.sum() * 0.0
    losses = []
    for index in torch.unique(truth).tolist():
        is_class = (truth == index).to(chances.dtype)
        errors, order = (is_class - chances[:, index]).abs().sort(descending=True)
        losses.append(errors @ _jaccard_steps(is_class[order]))
    whole = torch.stack(losses).mean()
    return whole - (1 - 1 / ranks.count) * whole.detach()


def _jaccard_steps(is_class: Tensor) -> Tensor:
    """How much 1 - IoU grows as each pixel, worst first, is counted wrong. (pixels,) → (pixels,)."""
    total = is_class.sum()
    intersection = total - is_class.cumsum(0)
    union = total + (1 - is_class).cumsum(0)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
