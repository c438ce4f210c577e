"""A backend that computes nothing: what is left is the pipeline's own cost."""

from __future__ import annotations

import numpy as np

from edgeseg.runtime.backends.options import DEFAULTS, BackendOptions
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.contract import CONFIDENCE_LEVELS
from edgeseg.runtime.frame import Image, Mask


class NullBackend:
    """Gives every pixel class 0, at once, and is sure of it."""

    name = "null"

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "auto",
        threads: int | None = None,
        options: BackendOptions = DEFAULTS,
    ) -> None:
        options.refuse_for(self.name)
        self.precision = bundle.precisions[0] if precision == "auto" else precision
        self._mask = np.zeros((1, *bundle.contract.size_hw), np.uint8)
        cells = bundle.contract.confidence_hw
        self.confidence = None if cells is None else np.full((1, *cells), CONFIDENCE_LEVELS, np.uint8)

    def infer(self, frame: Image) -> Mask:
        """Return (1, H, W) zeros."""
        return self._mask

    def warm_up(self) -> None:
        """Nothing to warm."""

    def close(self) -> None:
        """Nothing to give back."""
