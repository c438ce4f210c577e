"""How weights move: the rate over a run, the optimiser, and the average that is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgeseg.train.config import TrainConfig
from edgeseg.train.network import SegmentationNetwork


def learning_rate_at(progress: float) -> float:
    """Share of the peak rate at `progress` 0…1: 4 % of linear warm-up, then half a cosine."""
    warm = 0.04
    if progress < warm:
        return (progress + 1e-3) / (warm + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def make_optimiser(network: SegmentationNetwork, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, by which layers with pretrained weights take a quarter of the rate."""
    learned = network.backbone.stages if config.pretrained and network.backbone.first else network.backbone
    slow = {id(parameter) for parameter in learned.parameters()}
    return torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if id(p) not in slow], "lr": config.learning_rate},
            {"params": list(learned.parameters()), "lr": config.learning_rate / 4},
        ],
        weight_decay=config.weight_decay,
    )


def make_average(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """Exponential moving average of weights and batch-norm statistics, warmed up as (1 + n) / (10 + n)."""

    @torch.no_grad()
    def update(averages: Any, currents: Any, count: Tensor | int) -> None:
        n = float(count)
        share = 1 - min(decay, (1 + n) / (10 + n))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, share)
            else:
                average.copy_(current)

    return update
