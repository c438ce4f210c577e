"""Training samples: decode, fit as the contract says, augment.

Augmentation is albumentations' (MIT; numpy and OpenCV, so it is quick on a CPU, and it moves masks with their
images). Every sample's randomness comes from (seed, epoch, index) alone: a resumed run sees what an unbroken one
would have seen, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from edgeseg.runtime.contract import PAD_LEVEL, Contract, Fitter
from edgeseg.runtime.dataset import Dataset, Pair
from edgeseg.runtime.errors import TrainError
from edgeseg.runtime.frame import Image, Mask
from edgeseg.runtime.street import STREET_CLASSES, StreetCamera
from edgeseg.train.config import TrainConfig

NETWORK_IGNORE = 255
"""Label that the loss leaves out."""


_FIRST_STREET = 1000
_STREETS_AN_EPOCH = 8  # building one costs as much as twenty of its frames


@dataclass(frozen=True, kw_only=True, slots=True)
class _Synthetic:
    """The `number`-th frame of the street camera in an epoch."""

    number: int


RARE_SHARE = 0.02
"""A class with less than this share of the labelled pixels is rare."""


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
                scale_limit=(config.scale_min - 1, config.scale_max - 1), interpolation=cv2.INTER_LINEAR, p=1.0
            ),
            A.PadIfNeeded(height, width, border_mode=cv2.BORDER_CONSTANT, fill=PAD_LEVEL, fill_mask=ignore_index),
            crop,
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.5, 1.5), hue=(-0.05, 0.05), p=0.8),
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


def to_network(fitted: Image) -> Tensor:
    """(H, W, 3) uint8 BGR → (3, H, W) float RGB by (x - 127) / 128, as the exported graph does it."""
    rgb = np.ascontiguousarray(fitted[..., ::-1].transpose(2, 0, 1))
    return (torch.from_numpy(rgb).float() - 127.0) / 128.0


class TrainingSamples(TorchDataset[tuple[Tensor, Tensor]]):
    """Pairs of the chosen splits, and frames of the street camera when asked for, one augmented crop each.

    `[i]` gives ((3, h, w) float32, (h, w) int64 with `NETWORK_IGNORE` for void). Call `set_epoch` before each epoch.
    Raises `TrainError` when synthetic frames are asked for and the classes are not the street camera's.
    """

    def __init__(self, dataset: Dataset, contract: Contract, config: TrainConfig, *, rare: Sequence[int] = ()) -> None:
        if config.synthetic and tuple(contract.classes) != tuple(STREET_CLASSES):
            raise TrainError(
                "synthetic frames were asked for, and the dataset has other classes",
                expected=", ".join(STREET_CLASSES),
                fix="leave --synthetic out",
            )
        self._dataset, self._contract, self._config = dataset, contract, config
        pairs = [pair for split in config.splits for pair in dataset.pairs(split)]
        self._items: Sequence[Pair | _Synthetic] = [
            *pairs,
            *(_Synthetic(number=i) for i in range(round(len(pairs) * config.synthetic))),
        ]
        self._augment = augmentation(config, contract.ignore_index, rare)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        seed = int(np.random.SeedSequence([self._config.seed, self._epoch, index]).generate_state(1)[0])
        image, mask = self._read(self._items[index], seed)
        fitter = Fitter(self._contract, (mask.shape[0], mask.shape[1]))
        self._augment.set_random_seed(seed)
        sample = self._augment(image=fitter.fit(image)[0], mask=fitter.fit_mask(mask))
        labels = sample["mask"].astype(np.int64)
        labels[labels == self._contract.ignore_index] = NETWORK_IGNORE
        return to_network(sample["image"]), torch.from_numpy(labels)

    def _read(self, item: Pair | _Synthetic, seed: int) -> tuple[Image, Mask]:
        if isinstance(item, _Synthetic):
            # Other streets each epoch; the demo's seeds are small, so these are streets that it never shows.
            street = _FIRST_STREET + self._epoch * _STREETS_AN_EPOCH + item.number % _STREETS_AN_EPOCH
            return _street(street).render(seed % 5000)
        return self._dataset.read_image(item), self._dataset.read_mask(item)


@lru_cache(maxsize=_STREETS_AN_EPOCH)
def _street(seed: int) -> StreetCamera:
    return StreetCamera(size_hw=(480, 640), seed=seed)
