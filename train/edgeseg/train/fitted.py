"""Pictures and masks at the contract's size, decoded once and kept on disk as arrays that are mapped into memory.

A cache lies under `$XDG_CACHE_HOME/edgeseg/train` (else below `~/.cache`), named by what it holds: the content digests
of its splits, the contract's fitting, and the decoder. It is there whole or not at all; all of them together keep below
`CACHE_BYTES`, the longest unused going first. What is mapped is the kernel's to drop: memory does not grow with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.dataset import Dataset, Pair
from edgeseg.runtime.errors import UnreadablePairError
from edgeseg.runtime.evaluate import spread
from edgeseg.runtime.files import whole_folder, write_json
from edgeseg.runtime.frame import Image, Mask

CACHE_BYTES = 16 << 30
_STALE_SECONDS = 24 * 3600
_INDEX, _IMAGES, _MASKS = "index.json", "images.npy", "masks.npy"


class FittedPairs(Protocol):
    """Pairs of some splits, taken together, at the contract's size. Safe to give to other processes."""

    @property
    def pairs(self) -> Sequence[Pair]: ...

    @property
    def digests(self) -> dict[str, str]:
        """Content digest of each split."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Pixels of every label value at the labels' own resolution, (256,); pairs that cannot be read left out."""

    def read(self, index: int) -> tuple[Image, Mask]:
        """(h, w, 3) uint8 BGR and (h, w) uint8, the caller's own. Raises `UnreadablePairError`."""


def read_some(pairs: FittedPairs, count: int) -> Iterator[tuple[Image, Mask]]:
    """Yield up to `count` of the pairs, spread evenly; those that cannot be read are left out."""
    for index in spread(range(len(pairs.pairs)), count):
        try:
            yield pairs.read(index)
        except UnreadablePairError:
            continue


class DecodedPairs:
    """Reads the files anew each time."""

    def __init__(self, dataset: Dataset, contract: Contract, splits: Sequence[str]) -> None:
        self._dataset, self._contract = dataset, contract
        self.pairs: Sequence[Pair] = [pair for split in splits for pair in dataset.pairs(split)]
        self.digests = {split: dataset.digest(split) for split in splits}
        self._labels: npt.NDArray[np.int64] | None = None

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        if self._labels is None:
            counts = np.zeros(256, np.int64)
            for pair in self.pairs:
                try:
                    counts += _count(self._dataset.read_pair(pair)[1])
                except UnreadablePairError:
                    continue
            self._labels = counts
        return self._labels

    def read(self, index: int) -> tuple[Image, Mask]:
        return self.fit(index)[:2]

    def fit(self, index: int) -> tuple[Image, Mask, npt.NDArray[np.int64]]:
        """What `read` gives, and the pixels of every label value before fitting."""
        image, mask = self._dataset.read_pair(self.pairs[index])
        fitter = Fitter(self._contract, (mask.shape[0], mask.shape[1]))
        return fitter.fit(image)[0], fitter.fit_mask(mask), _count(mask)


class CachedPairs:
    """Reads what `DecodedPairs` gave once. Raises `OSError` or `ValueError` where `folder` holds no whole cache."""

    def __init__(self, folder: Path, decoded: DecodedPairs) -> None:
        self._folder, self.pairs, self.digests = folder, decoded.pairs, decoded.digests
        index = json.loads((folder / _INDEX).read_bytes())
        self.labels = np.array(index["labels"], np.int64)
        self._unreadable: dict[str, dict[str, str]] = index["unreadable"]
        self._map()
        os.utime(folder / _INDEX)  # used now

    def _map(self) -> None:
        self._images: npt.NDArray[np.uint8] = np.load(self._folder / _IMAGES, mmap_mode="r")
        self._masks: npt.NDArray[np.uint8] = np.load(self._folder / _MASKS, mmap_mode="r")
        if not len(self._images) == len(self._masks) == len(self.pairs):
            raise ValueError(f"{self._folder} holds {len(self._images)} pairs")

    def read(self, index: int) -> tuple[Image, Mask]:
        if (found := self._unreadable.get(str(index))) is not None:
            raise UnreadablePairError(**found)
        return np.array(self._images[index]), np.array(self._masks[index])

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array would be sent to another process as its whole content.
        return {name: value for name, value in vars(self).items() if name not in ("_images", "_masks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()


def open_pairs(
    dataset: Dataset,
    contract: Contract,
    splits: Sequence[str],
    *,
    fill: bool = True,
    advance: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
) -> FittedPairs:
    """Open the pairs of `splits` from their cache, which is made first where `fill` is given and there is room.

    `advance` is called after each pair that is decoded for it. Where it cannot be kept, one line to `say` tells why,
    and pictures are decoded each time.
    """
    decoded = DecodedPairs(dataset, contract, splits)
    folder = cache_root() / _name(decoded, contract)
    try:
        return CachedPairs(folder, decoded)
    except (OSError, ValueError, KeyError):
        pass
    if not fill:
        return decoded
    height, width = contract.size_hw
    need = len(decoded.pairs) * height * width * 4
    try:
        _make_room(cache_root(), need)
        _fill(folder, decoded, contract, advance)
        return CachedPairs(folder, decoded)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        say(
            f"pictures are decoded anew in every epoch: no cache of {need / 2**20:.0f} MiB in {cache_root()} ({reason})"
        )
        return decoded


def cache_root() -> Path:
    """Return where caches are kept: `$XDG_CACHE_HOME/edgeseg/train`, else below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeseg" / "train"


def _name(decoded: DecodedPairs, contract: Contract) -> str:
    stems = [pair.stem for pair in decoded.pairs]
    held = [
        list(decoded.digests.values()),
        stems,
        contract.size_hw,
        contract.fit,
        contract.ignore_index,
        cv2.__version__,
    ]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()[:32]


def _count(mask: Mask) -> npt.NDArray[np.int64]:
    return np.bincount(mask.ravel(), minlength=256)


def _make_room(root: Path, need: int) -> None:
    """Remove what was longest unused until `need` more bytes keep to the limit. Raises `OSError` where they cannot."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(".*.partial"):
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    kept = sorted(root.glob(f"*/{_INDEX}"), key=lambda index: index.stat().st_mtime)
    sizes = {index: sum(file.stat().st_size for file in index.parent.iterdir()) for index in kept}
    while kept and sum(sizes.values()) + need > CACHE_BYTES:
        del sizes[kept[0]]
        # A run that has it mapped keeps it: the kernel frees the files when the last one ends.
        shutil.rmtree(kept.pop(0).parent, ignore_errors=True)
    if need > CACHE_BYTES:
        raise OSError(f"the limit is {CACHE_BYTES >> 20} MiB")
    if need > shutil.disk_usage(root).free // 2:
        raise OSError("more than half of the free disk")


def _fill(folder: Path, decoded: DecodedPairs, contract: Contract, advance: Callable[[], None]) -> None:
    count, (height, width) = len(decoded.pairs), contract.size_hw
    with whole_folder(folder) as partial:
        images = _create(partial / _IMAGES, (count, height, width, 3))
        masks = _create(partial / _MASKS, (count, height, width))
        labels, unreadable = np.zeros(256, np.int64), dict[str, dict[str, str]]()

        def keep(index: int) -> npt.NDArray[np.int64] | UnreadablePairError:
            try:
                images[index], masks[index], counts = decoded.fit(index)
            except UnreadablePairError as error:
                return error
            return counts

        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            for index, found in enumerate(pool.map(keep, range(count))):
                if isinstance(found, UnreadablePairError):
                    unreadable[str(index)] = {"found": found.found, "expected": found.expected, "fix": found.fix}
                else:
                    labels += found
                advance()
        finally:
            pool.shutdown(cancel_futures=True)
        write_json(partial / _INDEX, {"labels": labels.tolist(), "unreadable": unreadable})
        images.flush()
        masks.flush()


def _create(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    # Its blocks are taken now: a disk that fills up under a mapped file is a signal that kills, this is an error.
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
