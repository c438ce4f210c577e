"""Fitted pairs and their cache: the same bytes with and without, there whole or not at all, memory that stays."""

from __future__ import annotations

import os
import pickle
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgeseg.runtime.contract import Contract, Fit
from edgeseg.runtime.dataset import Dataset, load_dataset
from edgeseg.runtime.errors import UnreadablePairError
from edgeseg.train import fitted
from edgeseg.train.config import TrainConfig
from edgeseg.train.fitted import CachedPairs, DecodedPairs, FittedPairs, cache_root, open_pairs
from edgeseg.train.loop import contract_of


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def dataset(street_dataset: Path, tmp_path: Path) -> Dataset:
    """A copy whose third training image is cut short."""
    folder = tmp_path / "streets"
    shutil.copytree(street_dataset, folder)
    image = folder / "images" / "train" / "02.png"
    image.write_bytes(image.read_bytes()[:300])
    return load_dataset(folder)


def _contract(dataset: Dataset, fit: Fit = "letterbox", height: int = 96) -> Contract:
    return contract_of(dataset, TrainConfig(height=height, width=96, fit=fit))


def _content(pairs: FittedPairs) -> list[object]:
    found: list[object] = []
    for index in range(len(pairs.pairs)):
        try:
            found.append([part.tobytes() for part in pairs.read(index)])
        except UnreadablePairError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("fit", ["letterbox", "crop", "stretch"])
def test_cache_gives_the_bytes_that_decoding_gives_and_names_the_same_bad_pair(dataset: Dataset, fit: Fit) -> None:
    contract = _contract(dataset, fit)
    decoded, cached = DecodedPairs(dataset, contract, ("train", "val")), open_pairs(dataset, contract, ("train", "val"))
    again = pickle.loads(pickle.dumps(open_pairs(dataset, contract, ("train", "val"), fill=False)))
    assert isinstance(cached, CachedPairs) and isinstance(again, CachedPairs)
    assert _content(decoded) == _content(cached) == _content(again)
    assert [("02.png" in str(content)) for content in _content(cached)].index(True) == 2
    assert cached.labels.tolist() == decoded.labels.tolist() and cached.labels.sum() == 13 * 64 * 96
    assert cached.digests == decoded.digests


def test_reading_takes_no_more_memory_for_a_larger_cache(dataset: Dataset) -> None:
    """Only what is read is allocated: the peak over all pairs is that of one, and none comes along to a worker."""
    pairs = open_pairs(dataset, _contract(dataset, height=320), ("train",))
    one = 320 * 96 * 4
    assert len(pickle.dumps(pairs)) < one / 4
    tracemalloc.start()
    try:
        for index in (0, 1, 3, 4, 5, 6, 7, 8, 9):
            pairs.read(index)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * one


def test_interrupted_filling_leaves_nothing(dataset: Dataset) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_pairs(dataset, _contract(dataset), ("train",), advance=stop)
    assert not list(cache_root().iterdir())


def test_damaged_cache_is_made_again(dataset: Dataset) -> None:
    contract = _contract(dataset)
    before = _content(open_pairs(dataset, contract, ("train",)))
    (images,) = cache_root().glob("*/images.npy")
    images.write_bytes(images.read_bytes()[:1000])
    decoded: list[None] = []
    assert _content(open_pairs(dataset, contract, ("train",), advance=lambda: decoded.append(None))) == before
    assert len(decoded) == 10


def test_other_content_or_fitting_has_a_cache_of_its_own(dataset: Dataset) -> None:
    open_pairs(dataset, _contract(dataset), ("train",))
    open_pairs(dataset, _contract(dataset, height=64), ("train",))
    mask = dataset.pairs("train")[0].mask
    shutil.copy(dataset.pairs("train")[1].mask, mask)
    assert isinstance(open_pairs(dataset, _contract(dataset), ("train",)), CachedPairs)
    assert len(list(cache_root().iterdir())) == 3


def test_limit_is_kept_by_dropping_the_longest_unused(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (_contract(dataset, height=height) for height in (64, 96, 128))
    open_pairs(dataset, first, ("train",))
    held = open_pairs(dataset, second, ("train",))
    for index in cache_root().glob("*/index.json"):
        os.utime(index, (0, 0))
    open_pairs(dataset, first, ("train",))  # used last
    monkeypatch.setattr(fitted, "CACHE_BYTES", 10 * 96 * 4 * (64 + 128) + 10_000)
    content = _content(held)
    assert isinstance(open_pairs(dataset, third, ("train",)), CachedPairs)
    assert isinstance(open_pairs(dataset, first, ("train",), fill=False), CachedPairs)
    assert isinstance(open_pairs(dataset, second, ("train",), fill=False), DecodedPairs)
    assert _content(held) == content


def test_cache_that_has_no_room_is_done_without_in_one_line(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "CACHE_BYTES", 1000)
    said: list[str] = []
    pairs = open_pairs(dataset, _contract(dataset), ("train",), say=said.append)
    assert isinstance(pairs, DecodedPairs) and len(said) == 1 and "decoded anew" in said[0]
    assert np.array_equal(pairs.read(0)[1], DecodedPairs(dataset, _contract(dataset), ("train",)).read(0)[1])
