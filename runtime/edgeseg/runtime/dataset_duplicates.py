"""Images of a dataset that are the same, or nearly: a network scored on what it was trained on looks better than it is.

Two images are nearly the same if the brightness steps between neighbouring cells of a coarse grid go together. Tried on
CamVid's 701 photos: a copy that was compressed, halved, brightened until highlights clipped, darkened, made noisy or
shifted by 8 of 480 pixels correlates by 0.94 or more, and 99.9 % of pairs of photos that are far apart in their drives
by less than 0.57. A hash of the signs of those steps (dHash) tells them apart less well: 0.76 or more, 0.37 or less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.runtime.frame import Image

GRID = 16
NEAR = 0.9
"""Correlation from which two images count as nearly the same."""
_FLAT = 0.25
"""Root mean square step, in levels, below which an image has nothing to be compared by."""
_NOT_EQUAL = 0.9999
_ROWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fingerprint:
    """What an image is compared by."""

    pixels: str
    """Digest of size and samples."""
    steps: npt.NDArray[np.float32] | None
    """Unit vector of brightness steps, (2 * GRID * GRID,); None for a flat image."""


def fingerprint(image: Image) -> Fingerprint:
    """Take the fingerprint of (H, W, 3) uint8 BGR. `steps` are the same whatever the image's size and contrast."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=16, person=f"{image.shape[1]}".encode())
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    coarse = cv2.resize(grey.astype(np.float32), (GRID + 1, GRID + 1), interpolation=cv2.INTER_AREA)
    across, down = np.diff(coarse, axis=1)[:GRID], np.diff(coarse, axis=0)[:, :GRID]
    steps = np.concatenate([across.ravel(), down.ravel()]).astype(np.float32)
    length = float(np.linalg.norm(steps))
    flat = length < _FLAT * np.sqrt(steps.size)
    return Fingerprint(pixels=digest.hexdigest(), steps=None if flat else steps / np.float32(length))


def alike(fingerprints: Sequence[Fingerprint]) -> Iterator[tuple[int, int, float]]:
    """Yield indices (i, j), i < j, and the likeness, from `NEAR` up, of all that are nearly the same; 1 if equal.

    Memory grows with the number of images, time with its square: 10,000 take seconds.
    """
    first: dict[str, int] = {}
    same = set()
    for index, one in enumerate(fingerprints):
        before = first.setdefault(one.pixels, index)
        if before != index:
            same.add((before, index))
            yield before, index, 1.0
    known = [index for index, one in enumerate(fingerprints) if one.steps is not None and first[one.pixels] == index]
    if not known:
        return
    steps = np.stack([s for index in known if (s := fingerprints[index].steps) is not None])
    for start in range(0, len(known), _ROWS):
        correlations = steps[start : start + _ROWS] @ steps.T
        for row, column in np.argwhere(np.triu(correlations >= NEAR, start + 1)):
            yield known[start + row], known[column], min(_NOT_EQUAL, float(correlations[row, column]))


def groups(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the indices below `count` in groups that `pairs` hold together, each sorted, by their first index."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    found: dict[int, list[int]] = {}
    for index in range(count):
        found.setdefault(root(index), []).append(index)
    return list(found.values())
