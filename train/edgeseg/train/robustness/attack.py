"""Photos changed by a few grey levels so that a network errs: the fast gradient sign method and projected descent.

FGSM: Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015: one step of epsilon
along the gradient's sign. PGD: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
2018: several smaller steps from a random start, each brought back to within epsilon.

What is attacked is the photo at its own size, before it is fitted, and the gradient passes through the fitting and the
normalisation. What is scored is a real photo: 8-bit levels, through the runtime's own fitting.
"""

from __future__ import annotations

import zlib
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.runtime.contract import PAD_LEVEL, Contract, Fitter
from edgeseg.runtime.dataset import Pair
from edgeseg.runtime.frame import Image, Mask

EPSILON = 2
"""Grey levels of 255 that a value may change by."""
STEPS = 10
STEP = 2.5 * EPSILON / STEPS
"""Levels a step of PGD, as Madry et al. choose it: enough to reach the ball's edge from any start."""

Kind = Literal["fgsm", "pgd"]
KINDS: tuple[Kind, ...] = ("fgsm", "pgd")


class Attack:
    """Alters photos against `network`; call it as `edgeseg.runtime.evaluate.Alter`.

    Each photo's random start comes from `seed` and its name alone.
    """

    def __init__(self, network: nn.Module, contract: Contract, kind: Kind, *, seed: int = 0) -> None:
        """`network`: (1, 3, H, W) normalised RGB → (1, classes, h, w) logits, in eval mode."""
        self._network = network.requires_grad_(False)
        self._contract, self._kind, self._seed = contract, kind, seed

    def __call__(self, pair: Pair, image_bgr: Image, truth: Mask) -> Image:
        """Return a photo (H, W, 3 uint8) no value of which is further than `EPSILON` from `image_bgr`'s."""
        photo = torch.from_numpy(image_bgr.transpose(2, 0, 1).astype(np.float32))[None]
        if self._kind == "fgsm":
            changed = self._climb(photo, photo, truth, EPSILON)
        else:
            chance = torch.Generator().manual_seed(zlib.crc32(pair.stem.encode(), self._seed))
            start = torch.rand(photo.shape, generator=chance) * 2 * EPSILON - EPSILON
            changed = (photo + start).clamp(0, 255)
            for _ in range(STEPS):
                changed = self._climb(changed, photo, truth, STEP)
        levels = changed.round().to(torch.uint8)  # epsilon and the photo are whole: rounding stays within
        return np.ascontiguousarray(levels[0].numpy().transpose(1, 2, 0))

    def _climb(self, changed: Tensor, photo: Tensor, truth: Mask, step: float) -> Tensor:
        """One step up the loss, brought back to the ball around `photo` and to what a photo can hold."""
        changed = changed.detach().requires_grad_()
        loss = attack_loss(self._network, self._contract, changed, truth)
        (slope,) = torch.autograd.grad(loss, changed)
        moved = changed.detach() + step * slope.sign()
        return torch.minimum(torch.maximum(moved, photo - EPSILON), photo + EPSILON).clamp(0, 255)


def attack_loss(network: nn.Module, contract: Contract, photo: Tensor, truth: Mask) -> Tensor:
    """Mean cross-entropy over the labelled pixels that the contract lets the network see, at the label's resolution.

    `photo` is (1, 3, H, W) float BGR, 0 to 255; `truth` (H, W) uint8. 0 where nothing is labelled.
    """
    fitter = Fitter(contract, (truth.shape[0], truth.shape[1]))
    x = (fit_photo(photo, fitter).flip(1) - 127.0) / 128.0
    logits: Tensor = network(x)
    rows, columns = fitter.target.slices
    logits = F.interpolate(logits, contract.size_hw, mode="bilinear", align_corners=False)[:, :, rows, columns]
    seen = truth[fitter.source.slices]
    logits = F.interpolate(logits, seen.shape, mode="bilinear", align_corners=False)
    labels = torch.from_numpy(seen.astype(np.int64))[None]
    known = labels != contract.ignore_index
    total = F.cross_entropy(logits, labels.where(known, -100), ignore_index=-100, reduction="sum")
    return total / known.sum().clamp(min=1)


def fit_photo(photo: Tensor, fitter: Fitter) -> Tensor:
    """`Fitter.fit` so that a gradient passes: (1, 3, H, W) float, 0 to 255 → (1, 3, h, w), the same but for rounding.

    Fitting is linear and takes the axes apart, so it is a matrix on each side of the photo.
    """
    source, target = fitter.source, fitter.target
    rows, columns = _resizer(source.height, target.height), _resizer(source.width, target.width)
    inner = rows.to(photo) @ photo[(..., *source.slices)] @ columns.to(photo).T
    height, width = fitter.contract.size_hw
    right, below = width - target.left - target.width, height - target.top - target.height
    return F.pad(inner, (target.left, right, target.top, below), value=float(PAD_LEVEL))


def _resizer(side: int, wanted: int) -> Tensor:
    """(wanted, side): what `Fitter` does along one axis, found by doing it to the identity."""
    matrix = np.eye(side, dtype=np.float32)
    while len(matrix) > 2 * wanted:
        matrix = np.asarray(cv2.resize(matrix, (side, len(matrix) // 2), interpolation=cv2.INTER_AREA))
    return torch.from_numpy(np.asarray(cv2.resize(matrix, (side, wanted), interpolation=cv2.INTER_LINEAR)))
