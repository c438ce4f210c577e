"""Whether the exported graph still is the network: both see the same real images, and their masks are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.dataset import Dataset, Pair
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.evaluate import spread
from edgeseg.runtime.frame import Image, Mask

MIN_AGREEMENT = 0.999
"""Share of pixels. Two correct engines differ only where two classes tie to the last bits of a float."""
MAX_IMAGES = 50

Predict = Callable[[Image], Mask]
"""(1, h, w, 3) uint8 BGR at the contract's size → (1, h, w) uint8 class indices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far the network and its graph agree."""

    agreement: float
    """Share of pixels of all images, 0 to 1."""
    images: int


def choose_pairs(dataset: Dataset, split: str) -> list[Pair]:
    """Return at most `MAX_IMAGES` pairs of the split, spread over it, that can be read."""
    return dataset.readable(spread(dataset.pairs(split), MAX_IMAGES))


def check_parity(
    network: Predict,
    graph: Predict,
    contract: Contract,
    dataset: Dataset,
    pairs: list[Pair],
    *,
    advance: Callable[[], None] = lambda: None,
) -> Parity:
    """Compare `network` with `graph` on the images of `pairs`; `advance` is called after each.

    Raises `ExportError` if they agree on fewer pixels than `MIN_AGREEMENT`.
    """
    agreeing = total = 0
    for pair in pairs:
        image = dataset.read_image(pair)
        fitted = Fitter(contract, (image.shape[0], image.shape[1])).fit(image)
        same = network(fitted) == graph(fitted)
        agreeing += int(np.count_nonzero(same))
        total += same.size
        advance()
    parity = Parity(agreement=agreeing / total, images=len(pairs))
    if parity.agreement < MIN_AGREEMENT:
        raise ExportError(
            f"graph and network agree on {parity.agreement:.3%} of the pixels of {len(pairs)} images",
            expected=f"at least {MIN_AGREEMENT:.1%}",
            fix="the network holds an operator that ONNX computes otherwise: replace it, or report it with the run",
        )
    return parity
