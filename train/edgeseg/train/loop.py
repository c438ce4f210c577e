"""The training loop: one linear script, a checkpoint after every epoch, resumable after any kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.errors import TrainError
from edgeseg.runtime.evaluate import evaluate
from edgeseg.runtime.frame import Image
from edgeseg.train.config import TrainConfig
from edgeseg.train.losses import distillation_loss, segmentation_loss
from edgeseg.train.network import SIZES, SegmentationNetwork
from edgeseg.train.predict import Predictor
from edgeseg.train.run import Checkpoint, LoadedRun, read_checkpoint, write_checkpoint
from edgeseg.train.samples import RARE_SHARE, TrainingSamples
from edgeseg.train.stem import STEPS as STEM_STEPS
from edgeseg.train.stem import imitate_stem

STEM_IMAGES = 128
"""Images that a dense stem learns from, kept in memory while it does."""

Report = Callable[[dict[str, Any]], None]
"""Called after every epoch with its row of the history."""


def contract_of(dataset: Dataset, config: TrainConfig) -> Contract:
    """The contract that a network trained on `dataset` with `config` keeps."""
    return Contract(
        height=config.height,
        width=config.width,
        fit=config.fit,
        classes=dataset.classes,
        palette=dataset.palette,
        ignore_index=dataset.ignore_index,
    )


def class_pixels(dataset: Dataset, splits: tuple[str, ...], classes: int) -> npt.NDArray[np.float64]:
    """Labelled pixels of every class, (classes,) float64."""
    counts = np.zeros(256, np.int64)
    for split in splits:
        for pair in dataset.pairs(split):
            counts += np.bincount(dataset.read_mask(pair).ravel(), minlength=256)
    return counts[:classes].astype(np.float64)


def class_weights(pixels: npt.NDArray[np.float64]) -> Tensor:
    """Weights of the loss, (classes,) float32: (median frequency / frequency)^0.4, held to 0.4 … 4.

    After Eigen and Fergus (ICCV 2015), who take the power 1; a softer one costs the large classes less. A class
    that no label shows gets weight 1.
    """
    if not pixels.any():
        raise TrainError(
            "no labelled pixel in the training splits", expected="masks with classes", fix="see data check"
        )
    median = np.median(pixels[pixels > 0])
    weights = np.where(pixels > 0, (median / np.maximum(pixels, 1)) ** 0.4, 1.0)
    return torch.from_numpy(np.clip(weights, 0.4, 4.0)).float()


def learning_rate_at(progress: float) -> float:
    """Share of the peak rate at `progress` 0…1: 4 % of linear warm-up, then half a cosine."""
    warm = 0.04
    if progress < warm:
        return (progress + 1e-3) / (warm + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def train_run(
    dataset: Dataset,
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    teacher: LoadedRun | None = None,
    on_batch: Callable[[], None] = lambda: None,
    on_epoch: Report = lambda row: None,
) -> Checkpoint:
    """Train on `dataset` and leave `checkpoint.pt` in `out` after every epoch, whole or not at all.

    With `resume` goes on from that checkpoint, and the curve is the one an unbroken run gives. A `teacher`, whose
    weights `config.teacher` names, sees every crop that the network sees. Returns the last checkpoint. Raises
    `TrainError` when a resumed run was started with other settings or classes, or the teacher knows others.
    """
    contract = contract_of(dataset, config)
    teaching = teacher.to_teach(contract) if teacher else None
    digests = {split: dataset.digest(split) for split in config.splits}
    torch.manual_seed(config.seed)
    network = SegmentationNetwork(len(contract.classes), size=config.network)
    if config.pretrained:
        network.backbone.load_pretrained()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stem_error = None
    if has_stem_to_train(config) and not resume:
        images = [Fitter(contract, _size_hw(image)).fit(image)[0] for image in _first_images(dataset, config)]
        stem_error = imitate_stem(network.backbone, images, seed=config.seed, on_step=on_batch)
    averaged = AveragedModel(network, multi_avg_fn=_ema_update(config.ema), use_buffers=True)
    learned = network.backbone.stages if config.pretrained and network.backbone.first else network.backbone
    backbone = {id(parameter) for parameter in learned.parameters()}
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if id(p) not in backbone], "lr": config.learning_rate},
            {"params": list(learned.parameters()), "lr": config.learning_rate / 4},
        ],
        weight_decay=config.weight_decay,
    )
    peaks = [group["lr"] for group in optimiser.param_groups]
    pixels = class_pixels(dataset, config.splits, len(contract.classes))
    weights = class_weights(pixels)
    rare = [int(index) for index in np.flatnonzero((pixels > 0) & (pixels < RARE_SHARE * pixels.sum()))]
    samples = TrainingSamples(dataset, contract, config, rare=rare)
    steps_per_epoch = math.ceil(len(samples) / config.batch)

    history: list[dict[str, Any]] = []
    if resume:
        previous = read_checkpoint(out)
        previous.refuse_other(config, contract, digests)
        network.load_state_dict(previous.network)
        averaged.load_state_dict(previous.averaged)
        optimiser.load_state_dict(previous.optimiser)
        history = list(previous.history)

    for epoch in range(len(history), config.epochs):
        started = time.monotonic()
        # Dropout and order are seeded by the epoch, so that a resumed run repeats what an unbroken one does.
        torch.manual_seed(config.seed * 1_000_003 + epoch)
        samples.set_epoch(epoch)
        loader = DataLoader(samples, batch_size=config.batch, shuffle=True, num_workers=1)
        network.train()
        network.backbone.freeze(config.frozen if config.pretrained else 0)
        losses = []
        for step, (images, labels) in enumerate(loader):
            factor = learning_rate_at((epoch + step / steps_per_epoch) / config.epochs)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            images = images.contiguous(memory_format=torch.channels_last)
            logits = network.forward_training(images)
            loss = segmentation_loss(logits, labels, weights, auxiliary=config.auxiliary, lovasz=config.lovasz)
            if teaching is not None:
                with torch.no_grad():
                    taught = teaching(images)
                loss = loss + config.distillation * distillation_loss(logits[0], taught)
            if not torch.isfinite(loss):
                raise TrainError(
                    f"loss is {loss.item()} in epoch {epoch + 1}",
                    expected="a finite number",
                    fix="lower --learning-rate, or look at the data with `edgeseg data check`; "
                    f"the last whole checkpoint is in {out}",
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            averaged.update_parameters(network)
            losses.append(loss.item())
            on_batch()
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": float(np.mean(losses))}
        if stem_error is not None:
            row["stem_error"], stem_error = stem_error, None
        is_last = epoch + 1 == config.epochs
        if config.select and ((epoch + 1) % config.score_every == 0 or is_last):
            with Predictor(averaged.module, contract) as predictor:
                score = evaluate(predictor, dataset, config.select).document()
            row |= {key: score[key] for key in ("miou", "pixel_accuracy", "per_class_iou") if key in score}
        row["seconds"] = round(time.monotonic() - started, 1)
        history.append(row)
        checkpoint = Checkpoint(
            config=config,
            contract=contract,
            dataset=dataset.name,
            digests=digests,
            network=network.state_dict(),
            averaged=averaged.state_dict(),
            optimiser=optimiser.state_dict(),
            history=history,
        )
        write_checkpoint(out, checkpoint)
        on_epoch(row)
    return read_checkpoint(out)


def steps_of(dataset: Dataset, config: TrainConfig) -> int:
    """How often `train_run` calls `on_batch` in an unbroken run."""
    images = sum(len(dataset.pairs(split)) for split in config.splits)
    samples = images + round(images * config.synthetic)
    return math.ceil(samples / config.batch) * config.epochs + (STEM_STEPS if has_stem_to_train(config) else 0)


def has_stem_to_train(config: TrainConfig) -> bool:
    """Whether the network's stem has no pretrained weights of its own, while the rest has."""
    return config.pretrained and SIZES[config.network].has_dense_stem


def _first_images(dataset: Dataset, config: TrainConfig) -> Iterator[Image]:
    """Up to `STEM_IMAGES` images, spread over the training splits."""
    pairs = [pair for split in config.splits for pair in dataset.pairs(split)]
    for pair in pairs[:: max(1, len(pairs) // STEM_IMAGES)][:STEM_IMAGES]:
        yield dataset.read_image(pair)


def _size_hw(image: Image) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _ema_update(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """Exponential moving average of weights and batch-norm statistics, warmed up as (1 + n) / (10 + n)."""

    @torch.no_grad()
    def update(averages: Any, currents: Any, count: Tensor | int) -> None:
        n = float(count)
        share = 1 - min(decay, (1 + n) / (10 + n))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, share)
            else:
                average.copy_(current)

    return update
