"""A dense stem has no ImageNet weights: without labels it learns from the layers that it stands in for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from edgeseg.runtime.frame import Image
from edgeseg.train.backbone import EARLY_STAGES, Lite
from edgeseg.train.samples import to_network

STEPS = 2000
PATCHES, PATCH = 8, 96
"""Patches a step, and their side in pixels."""
EDGE = 2
"""Border of the features that is not compared: the two stems pad differently."""
LEARNING_RATE = 1e-2


def imitate_stem(
    backbone: Lite, images: Sequence[Image], *, seed: int, on_step: Callable[[], None] = lambda: None
) -> float:
    """Train the dense stem of `backbone`, in place, to give what the pretrained stem and first stages give.

    On `STEPS` batches of patches out of `images` (each (H, W, 3) uint8 BGR, all of one size) under random
    brightness, contrast and flips. Returns what is left: the last tenth's mean squared error over the features'
    variance, 0 … about 1. Feature regression: FitNets, Romero et al., ICLR 2015.
    """
    teacher = Lite(lite=backbone.lite, stages=EARLY_STAGES)
    teacher.load_pretrained()
    teacher.eval()
    stem = backbone.stem.train()
    optimiser = torch.optim.Adam(stem.parameters(), lr=LEARNING_RATE)
    rng = np.random.default_rng(seed)
    left: list[float] = []
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS)) + 1e-5
        x = torch.stack([_patch(images, rng) for _ in range(PATCHES)]).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            wanted = _inner(teacher(x)[0])
        error = (_inner(stem(x)[1]) - wanted).square().mean() / wanted.var()
        optimiser.zero_grad(set_to_none=True)
        error.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        left.append(error.item())
        on_step()
    return float(np.mean(left[-STEPS // 10 :]))


def _patch(images: Sequence[Image], rng: np.random.Generator) -> Tensor:
    image = images[int(rng.integers(len(images)))]
    patch = min(PATCH, *image.shape[:2])
    top, across = (int(rng.integers(side - patch + 1)) for side in image.shape[:2])
    cut = image[top : top + patch, across : across + patch]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    levels = cut.astype(np.float32) * rng.uniform(0.6, 1.4) + rng.uniform(-20, 20)
    return to_network(np.clip(levels, 0, 255).astype(np.uint8))


def _inner(features: Tensor) -> Tensor:
    return features[:, :, EDGE:-EDGE, EDGE:-EDGE]
