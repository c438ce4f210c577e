"""Convolution weights as 8-bit integers, one scale per output channel."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]

WeightRule = Literal["8-bit", "7-bit", "paired"]
"""How large integers may be: up to 127, up to 63, or up to 127 while neighbours that are added in 16 bits fit them."""
NEVER_SATURATING: frozenset[WeightRule] = frozenset({"7-bit", "paired"})
"""The rules that give the same on every processor; `8-bit` saturates on an x86 without VNNI."""

SMALLEST_HALF = 2.0**-14
"""The smallest number that FP16 holds with all its bits."""
_PAIR_LIMIT = 127.0
"""Two u8 × s8 products fit 16 bits if the weights of one sign add up to 128: 255 × 128 < 2¹⁵. One is for rounding."""


def quantise_weights(
    weights: Float32, *, rule: WeightRule = "8-bit", half_scales: bool = False
) -> tuple[Int8, Float32]:
    """Round `weights` (channels out, channels in, height, width) to symmetric int8; returns integers and scales.

    With `half_scales` each scale is a number that FP16 holds exactly and with all its bits: the channels that this
    makes coarser have weights below 0.008, and are dead (0.7 % of a Lite0's, around 1e-9).
    """
    channels = len(weights)
    flat = np.abs(weights.reshape(channels, -1))
    scales = flat.max(axis=1) / (63.0 if rule == "7-bit" else 127.0)
    if rule == "paired":
        scales = np.maximum(scales, _greatest_pair(weights) / _PAIR_LIMIT)
    if half_scales:
        scales = _halves(np.maximum(scales, SMALLEST_HALF))
    scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
    integers = np.rint(weights / scales.reshape(-1, 1, 1, 1))
    return np.clip(integers, -127, 127).astype(np.int8), scales


def half_scale(scale: float) -> float:
    """Return the nearest scale that FP16 holds exactly and with all its bits."""
    return float(np.float16(max(scale, SMALLEST_HALF)))


def _halves(scales: Float32) -> Float32:
    return scales.astype(np.float16).astype(np.float32)


def _greatest_pair(weights: Float32) -> Float32:
    """Return per output channel the greatest sum of two neighbours of one sign.

    Neighbours in both orders that a convolution is laid out in as a matrix: channels last, and channels first.
    """
    greatest = np.zeros(len(weights), np.float32)
    for laid in (weights, weights.transpose(0, 2, 3, 1)):
        flat = laid.reshape(len(weights), -1)
        flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
        for sign in (1, -1):
            pairs = np.maximum(sign * flat, 0).reshape(len(weights), -1, 2).sum(axis=2)
            greatest = np.maximum(greatest, pairs.max(axis=1))
    return greatest
