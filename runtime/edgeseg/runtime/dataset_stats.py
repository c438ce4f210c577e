"""What a dataset consists of, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.runtime.dataset import Dataset, Pair
from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.image_files import read_samples
from edgeseg.runtime.threads import mapped


@dataclass(kw_only=True, slots=True, eq=False)
class SplitStats:
    """Figures of one split."""

    classes: tuple[str, ...]
    ignore_index: int
    images: int = 0
    unreadable: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Images by (width, height)."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Images by bits and colour, such as `8-bit colour`."""
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Pixels of every label value, (256,)."""
    shown_in: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Images that have every label value, (256,)."""

    @property
    def shares(self) -> dict[str, float]:
        """Percent of the labelled pixels by class; empty if none is labelled."""
        labelled = int(self.pixels[: len(self.classes)].sum())
        return {name: 100 * int(self.pixels[i]) / labelled for i, name in enumerate(self.classes)} if labelled else {}

    @property
    def void(self) -> float:
        """Percent of all pixels that is not labelled."""
        return 100 * int(self.pixels[self.ignore_index]) / max(1, int(self.pixels.sum()))

    def document(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        shares = self.shares
        per_class = {
            name: {
                "pixels": int(self.pixels[i]),
                "images": int(self.shown_in[i]),
                **({"percent": round(shares[name], 4)} if shares else {}),
            }
            for i, name in enumerate(self.classes)
        }
        sizes = [{"width": w, "height": h, "images": count} for (w, h), count in self.sizes.most_common()]
        return {
            "images": self.images,
            **({"unreadable": self.unreadable} if self.unreadable else {}),
            "sizes": sizes,
            "kinds": dict(self.kinds.most_common()),
            "per_class": per_class,
            "void_percent": round(self.void, 4),
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Look:
    size_wh: tuple[int, int]
    kind: str
    pixels: npt.NDArray[np.int64]


def gather(
    dataset: Dataset, splits: Sequence[str], advance: Callable[[], object] = lambda: None
) -> Mapping[str, SplitStats]:
    """Read every pair of `splits` and return the figures of each. `advance` is called after each pair.

    Pairs that cannot be read are counted apart. Raises `DatasetError` if a split is unknown, empty or unpaired.
    """
    found = {split: SplitStats(classes=dataset.classes, ignore_index=dataset.ignore_index) for split in splits}
    for split, stats in found.items():
        for look in mapped(lambda pair: _look(dataset, pair), dataset.pairs(split)):
            advance()
            if look is None:
                stats.unreadable += 1
                continue
            stats.images += 1
            stats.sizes[look.size_wh] += 1
            stats.kinds[look.kind] += 1
            stats.pixels += look.pixels
            stats.shown_in += look.pixels > 0
    return found


def _look(dataset: Dataset, pair: Pair) -> _Look | None:
    try:
        samples, mask = read_samples(pair.image), dataset.read_mask(pair)
    except DatasetError:
        return None
    if samples.shape[:2] != mask.shape:
        return None
    blue, green, red = samples[..., 0], samples[..., 1], samples[..., 2]
    grey = np.array_equal(blue, green) and np.array_equal(green, red)
    return _Look(
        size_wh=(mask.shape[1], mask.shape[0]),
        kind=f"{8 * samples.itemsize}-bit {'grey' if grey else 'colour'}",
        pixels=np.bincount(mask.ravel(), minlength=256),
    )
