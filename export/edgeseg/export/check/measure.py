"""How far two tensors are apart, and how far they may be: decibels of signal to noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Powers = npt.NDArray[np.float64]

EXACT_DB = 120.0
"""What equal tensors are given: FP32 cannot tell more apart."""
_FAINT = 0.02
"""A channel's noise is held against its own power and this share of the mean channel's: faint ones round to nothing."""
_REACHES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2, 0.1, 0.05)
_SAMPLES = 1 << 16


class Noise:
    """Signal and noise power of one tensor, added up over frames, by channel where it has channels (axis 1)."""

    def __init__(self) -> None:
        self._signal: Powers | float = 0.0
        self._noise: Powers | float = 0.0
        self.max_error = 0.0
        self.reach = 0.0
        """The greatest magnitude of the reference."""

    def add(self, reference: Array, found: Array) -> None:
        """Compare two float tensors of one shape. What is not finite in `found` counts as an error of its reach."""
        error = found.astype(np.float32) - reference
        self.reach = max(self.reach, float(np.abs(reference).max(initial=0.0)))
        error = np.nan_to_num(error, nan=self.reach, posinf=self.reach, neginf=-self.reach)
        axes = tuple(axis for axis in range(reference.ndim) if axis != 1) if reference.ndim > 2 else None
        self._signal = self._signal + np.square(reference).sum(axis=axes, dtype=np.float64)
        self._noise = self._noise + np.square(error).sum(axis=axes, dtype=np.float64)
        self.max_error = max(self.max_error, float(np.abs(error).max(initial=0.0)))

    @property
    def sqnr_db(self) -> float:
        """Signal to noise of the whole tensor."""
        return _decibels(float(np.sum(self._signal)), float(np.sum(self._noise)))

    def worst_channel(self) -> tuple[int, float]:
        """Return the channel with the least signal to noise, and that."""
        signal, noise = np.atleast_1d(self._signal), np.atleast_1d(self._noise)
        power = signal + _FAINT * signal.mean()
        channel = int(np.argmax(noise / np.maximum(power, np.finfo(np.float64).tiny)))
        return channel, _decibels(float(power[channel]), float(noise[channel]))


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return EXACT_DB
    if signal == 0.0:
        return -EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10 * math.log10(signal / noise)))


def best_grid_db(values: Array, *, symmetric: bool) -> float:
    """Return the signal to noise that `values` keep on the best evenly spaced grid of 8 bits that was found.

    Grids of several reaches are tried: symmetric ones and, unless `symmetric`, from the least to the greatest value.
    """
    flat = values.reshape(-1)
    flat = flat[:: flat.size // _SAMPLES | 1].astype(np.float32)
    low, high = min(float(flat.min()), 0.0), max(float(flat.max()), 0.0)
    peak = max(-low, high)
    if peak == 0.0:
        return EXACT_DB
    found = [_grid_db(flat, 2.0 ** math.ceil(math.log2(peak)) / 128, -128)]
    for reach in _REACHES:
        found.append(_grid_db(flat, reach * peak / 127, -128))
        if not symmetric:
            step = reach * (high - low) / 255
            found.append(_grid_db(flat, step, round(reach * low / step)))
    return max(found)


def _grid_db(values: Array, step: float, least: int) -> float:
    rounded = np.clip(np.rint(values / step), least, least + 255) * step
    power, noise = (float(np.square(part).sum(dtype=np.float64)) for part in (values, values - rounded))
    return _decibels(power, noise)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """What a single step may add in noise, on inputs that carry none: `tensor_db` and `channel_db` at least.

    `grid_db` is by how much a pair of QuantizeLinear and DequantizeLinear may stay behind the best grid of 8 bits.
    """

    tensor_db: float
    channel_db: float
    grid_db: float = 12.0


FLOAT32 = Tolerance(tensor_db=60.0, channel_db=40.0)
FLOAT16 = Tolerance(tensor_db=40.0, channel_db=20.0)
INT8 = Tolerance(tensor_db=20.0, channel_db=6.0)
TOLERANCES = {"fp32": FLOAT32, "fp16": FLOAT16, "int8": INT8, "int8-cpu": INT8}
