"""Quantisation-aware training: the graph goes on learning, with INT8's rounding in place, to say what fp32 says.

The teacher is the fp32 graph (Hinton et al. 2015), so that no label is needed and INT8 is drawn to what it is measured
against. Thresholds are trained with the weights (Jain et al., "Trained quantization thresholds", MLSys 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto

from edgeseg.export.quantise.network import GraphNetwork
from edgeseg.export.quantise.observe import Range, Ranges
from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.dataset import Dataset, Pair
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.frame import Image
from edgeseg.train.config import TrainConfig
from edgeseg.train.samples import augmentation

BATCH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What came out."""

    model: ModelProto
    """The fp32 graph with the learned weights."""
    reaches: dict[str, float]
    """Greatest magnitude of each quantised activation's integers."""

    def limit(self, observed: Ranges) -> dict[str, Range]:
        """Return what was `observed` of the learned graph, with the learned reaches where there are any.

        The side that reaches furthest takes the learned reach, so TensorRT's scale is what was trained.
        """
        return {name: self._limit(name, span) for name, span in observed.items()}

    def _limit(self, name: str, span: Range) -> Range:
        reach = self.reaches.get(name)
        if reach is None:
            return span
        if -span.low > span.high:
            return Range(low=-reach, high=min(span.high, reach))
        return Range(low=max(span.low, -reach), high=reach)


class Crops:
    """Augmented crops of training pictures, as `edgeseg train` makes them: of each (h, w, 3) uint8 BGR."""

    def __init__(self, dataset: Dataset, pairs: Sequence[Pair], contract: Contract, config: TrainConfig) -> None:
        self._dataset, self._pairs, self._contract, self._seed = dataset, pairs, contract, config.seed
        self._augment = augmentation(config, contract.ignore_index)

    def __len__(self) -> int:
        return len(self._pairs)

    def crop(self, epoch: int, index: int) -> Image:
        """Read, fit and augment; the same arguments give the same crop."""
        image = self._dataset.read_image(self._pairs[index])
        fitted = Fitter(self._contract, (image.shape[0], image.shape[1])).fit(image)
        self._augment.set_random_seed(int(np.random.SeedSequence([self._seed, epoch, index]).generate_state(1)[0]))
        crop: Image = self._augment(image=fitted[0])["image"]
        return crop

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the indices of the epoch's batches, in its own order."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self)).tolist()
        return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def learn(
    model: ModelProto,
    ranges: Ranges,
    peaks: Ranges,
    crops: Crops,
    *,
    epochs: int,
    rate: float = 1e-5,
    reach_rate: float = 2e-3,
    advance: Callable[[], None] = lambda: None,
) -> Learned:
    """Train the fp32 `model` from the quantisation that `ranges` give, for `epochs` over `crops`.

    No range outgrows `peaks`, what was observed: behind a ReLU6, integers that end at its bound are its clipping.
    `rate` is Adam's for weights and `reach_rate` for the logarithms of reaches, both by half a cosine; `advance` is
    called after each batch. Raises `ExportError` if the graph cannot be trained or the loss is not finite.
    """
    teacher, student = GraphNetwork(model), GraphNetwork(model, ranges)
    ceilings = student.find_log_reaches(peaks)
    groups = [{"params": list(student.weights), "lr": rate}, {"params": [student.log_reaches], "lr": reach_rate}]
    optimiser = torch.optim.Adam(groups)
    batches = [(epoch, batch) for epoch in range(epochs) for batch in crops.batches(epoch)]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / len(batches)))
    )
    for epoch, batch in batches:
        frames = torch.from_numpy(np.stack([crops.crop(epoch, index) for index in batch]))
        with torch.no_grad():
            expected = teacher(frames).log_softmax(dim=1)
        logits = student(frames)
        divergence = F.kl_div(logits.log_softmax(dim=1), expected, log_target=True, reduction="sum")
        loss = divergence / (logits.numel() / logits.shape[1])
        if not torch.isfinite(loss):
            raise ExportError(f"the loss of training in INT8 is {loss.item()}", fix="leave --qat out")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            student.log_reaches.copy_(torch.minimum(student.log_reaches, ceilings))
        advance()
    return Learned(model=student.to_model(), reaches=student.reaches())
