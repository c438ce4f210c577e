"""Training samples: fitted as the contract says, augmented, and dealt to steps and processes.

Augmentation is albumentations' (MIT; numpy and OpenCV, so it is quick on a CPU, and it moves masks with their
images). Every sample's randomness comes from (seed, epoch, number) alone: a resumed run sees what an unbroken one
would have seen, whatever the number of workers and processes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from edgeseg.runtime.contract import PAD_LEVEL, Contract, Fitter
from edgeseg.runtime.errors import TrainError, UnreadablePairError
from edgeseg.runtime.frame import Image, Mask
from edgeseg.runtime.street import STREET_CLASSES, StreetCamera
from edgeseg.train.config import TrainConfig
from edgeseg.train.fitted import FittedPairs
from edgeseg.train.ranks import ALONE, Ranks
from edgeseg.train.robustness.augment import robust_augmentation

NETWORK_IGNORE = 255
"""Label that the loss leaves out."""

_FIRST_STREET = 1000
_STREETS_AN_EPOCH = 8  # building one costs as much as twenty of its frames

RARE_SHARE = 0.02
"""A class with less than this share of the labelled pixels is rare."""
ENOUGH_STEPS = 800
"""Steps that a run takes at least, unless it is told its epochs: few images need more passes."""


def augmentation(config: TrainConfig, ignore_index: int, rare: Sequence[int] = ()) -> A.Compose:
    """Random scale, crop, flip, colour, and now and then blur, noise or JPEG.

    A share `config.rare` of the crops is placed over a pixel of the class indices in `rare`, where there is one.
    """
    height, width = config.crop_hw
    crop: A.BasicTransform | A.BaseCompose = A.RandomCrop(height, width)
    if rare and config.rare:
        common = [index for index in range(256) if index not in rare]
        over = A.CropNonEmptyMaskIfExists(height, width, ignore_values=common, p=config.rare)
        crop = A.OneOf([over, A.RandomCrop(height, width, p=1 - config.rare)], p=1.0)
    return A.Compose(
        [
            A.RandomScale(
                scale_limit=(config.scale_min - 1, config.scale_max - 1),
                interpolation=cv2.INTER_LINEAR,
                # OpenCV's plain one takes the pixel before the centre: labels half a pixel beside their image
                mask_interpolation=cv2.INTER_NEAREST_EXACT,
                p=1.0,
            ),
            A.PadIfNeeded(height, width, border_mode=cv2.BORDER_CONSTANT, fill=PAD_LEVEL, fill_mask=ignore_index),
            crop,
            A.HorizontalFlip(p=0.5),
            *([_colour_jitter(config.colour)] if config.colour else []),
            *([robust_augmentation(config.robust)] if config.robust else []),
            A.OneOf(
                [
                    A.GaussianBlur(blur_limit=(3, 5)),
                    A.GaussNoise(std_range=(0.01, 0.05)),
                    A.ImageCompression(quality_range=(40, 90)),
                ],
                p=0.2,
            ),
        ]
    )


def _colour_jitter(strength: float) -> A.BasicTransform:
    levels, saturation = (max(0.0, 1 - 0.4 * strength), 1 + 0.4 * strength), 0.5 * strength
    return A.ColorJitter(
        brightness=levels,
        contrast=levels,
        saturation=(max(0.0, 1 - saturation), 1 + saturation),
        hue=(-0.05 * strength, 0.05 * strength),
        p=0.8,
    )


def to_network(fitted: Image) -> Tensor:
    """(H, W, 3) uint8 BGR → (3, H, W) float RGB by (x - 127) / 128, as the exported graph does it."""
    rgb = np.ascontiguousarray(fitted[..., ::-1].transpose(2, 0, 1))
    return (torch.from_numpy(rgb).float() - 127.0) / 128.0


class Key(NamedTuple):
    """Which sample of which epoch."""

    epoch: int
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One augmented crop."""

    image: Tensor
    """(3, h, w) float32."""
    labels: Tensor
    """(h, w) int64, `NETWORK_IGNORE` for void."""
    seed: int
    """Of what the network itself draws for this sample."""


class Batch(NamedTuple):
    """One process's share of a step; what could not be read is left out."""

    images: Tensor
    """(n, 3, h, w) float32."""
    labels: Tensor
    """(n, h, w) int64."""
    seeds: list[int]
    unreadable: list[UnreadablePairError]


class TrainingSamples(TorchDataset[Sample | UnreadablePairError]):
    """Fitted pairs, and frames of the street camera when asked for, one augmented crop each.

    `[Key(epoch, number)]` gives a `Sample`, or the error of a pair that cannot be read. Raises `TrainError` when
    synthetic frames are asked for and the classes are not the street camera's.
    """

    def __init__(
        self, pairs: FittedPairs, contract: Contract, config: TrainConfig, *, rare: Sequence[int] = ()
    ) -> None:
        if config.synthetic and tuple(contract.classes) != tuple(STREET_CLASSES):
            raise TrainError(
                "synthetic frames were asked for, and the dataset has other classes",
                expected=", ".join(STREET_CLASSES),
                fix="leave --synthetic out",
            )
        self._pairs, self._contract, self._config = pairs, contract, config
        self._augment = augmentation(config, contract.ignore_index, rare)
        self._rare = rare

    def __len__(self) -> int:
        return count_samples(len(self._pairs.pairs), self._config)

    def __getitem__(self, key: Key) -> Sample | UnreadablePairError:
        seed, other = _seeds(self._config.seed, *key)
        try:
            image, mask = self._crop(key, seed)
        except UnreadablePairError as error:
            return error
        self._paste(key, other, image, mask)
        labels = mask.astype(np.int64)
        labels[labels == self._contract.ignore_index] = NETWORK_IGNORE
        return Sample(image=to_network(image), labels=torch.from_numpy(labels), seed=seed)

    def _crop(self, key: Key, seed: int) -> tuple[Image, Mask]:
        image, mask = self._read(key, seed)
        self._augment.set_random_seed(seed)
        sample = self._augment(image=image, mask=mask)
        return sample["image"], sample["mask"]

    def _paste(self, key: Key, seed: int, image: Image, mask: Mask) -> None:
        """Now and then put the rare classes of another sample's crop onto this one, in place."""
        random = np.random.default_rng(seed)
        if not self._rare or random.random() >= self._config.paste:
            return
        try:
            others, classes = self._crop(Key(key.epoch, int(random.integers(len(self)))), seed)
        except UnreadablePairError:  # it is named when its own turn comes
            return
        pasted = np.isin(classes, self._rare)
        image[pasted], mask[pasted] = others[pasted], classes[pasted]

    def _read(self, key: Key, seed: int) -> tuple[Image, Mask]:
        number = key.number - len(self._pairs.pairs)
        if number < 0:
            return self._pairs.read(key.number)
        # Other streets each epoch; the demo's seeds are small, so these are streets that it never shows.
        street = _FIRST_STREET + key.epoch * _STREETS_AN_EPOCH + number % _STREETS_AN_EPOCH
        image, mask = _street(street).render(seed % 5000)
        fitter = Fitter(self._contract, (mask.shape[0], mask.shape[1]))
        return fitter.fit(image)[0], fitter.fit_mask(mask)


def count_samples(pairs: int, config: TrainConfig) -> int:
    """Samples of an epoch over so many pairs: those, and the synthetic frames beside them."""
    return pairs + round(pairs * config.synthetic)


def count_steps(samples: int, config: TrainConfig) -> int:
    """Steps of an epoch."""
    return -(-samples // config.batch)


def enough_epochs(pairs: int, config: TrainConfig) -> int:
    """`config.epochs`, or as many more as make `ENOUGH_STEPS` of so few pairs."""
    steps = count_steps(count_samples(pairs, config), config)
    return max(config.epochs, -(-ENOUGH_STEPS // max(1, steps)))


class Deal(Sampler[list[Key]]):
    """The order of an epoch, by its seed and number alone, dealt to steps and to this process.

    Steps differ by one sample at most, so that none is too small for its statistics. Of a step's samples each process
    takes every n-th. Set `epoch` before each. Raises `TrainError` where a step has fewer samples than processes.
    """

    def __init__(self, samples: int, config: TrainConfig, ranks: Ranks = ALONE) -> None:
        self.epoch = 0
        self._samples, self._seed, self._ranks = samples, config.seed, ranks
        self._steps = count_steps(samples, config)
        if samples // self._steps < ranks.count:
            raise TrainError(
                f"{ranks.count} processes share steps of {samples // self._steps} samples",
                expected="one sample at least for each",
                fix="raise --batch, or start fewer processes",
            )

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._samples)
        for step in np.array_split(order, self._steps):
            yield [Key(self.epoch, int(index)) for index in step[self._ranks.rank :: self._ranks.count]]


def load_batches(samples: TrainingSamples, deal: Deal, *, workers: int, pin: bool) -> DataLoader[Batch]:
    """Return what gives each epoch's batches, made by so many processes, which stay for the next epoch.

    With `pin` they lie in memory that a GPU can copy from. OpenCV is left with one thread.
    """
    # Its threads do not outlive a fork, and a worker that waits for them waits for ever.
    cv2.setNumThreads(1)
    return DataLoader(
        samples,  # type: ignore[arg-type]
        batch_sampler=deal,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_collate,
        worker_init_fn=_begin_worker,
        pin_memory=pin,
        generator=torch.Generator(),  # no sample depends on it, and the global one stays as it is
    )


def _collate(found: list[Sample | UnreadablePairError]) -> Batch:
    samples = [sample for sample in found if isinstance(sample, Sample)]
    unreadable = [error for error in found if isinstance(error, UnreadablePairError)]
    if not samples:
        return Batch(torch.empty(0), torch.empty(0), [], unreadable)
    images, labels = (torch.stack(parts) for parts in zip(*((s.image, s.labels) for s in samples), strict=True))
    return Batch(images, labels, [sample.seed for sample in samples], unreadable)


def _begin_worker(number: int) -> None:
    # A Ctrl-C reaches every process of the terminal: the one that trains decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _seeds(*entropy: int) -> list[int]:
    return [int(word) for word in np.random.SeedSequence(entropy).generate_state(2)]


@lru_cache(maxsize=_STREETS_AN_EPOCH)
def _street(seed: int) -> StreetCamera:
    return StreetCamera(size_hw=(480, 640), seed=seed)
