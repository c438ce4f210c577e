"""The training loop: one linear script, a checkpoint after every epoch, resumable after any kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.errors import TrainError
from edgeseg.runtime.evaluate import evaluate
from edgeseg.train.config import TrainConfig
from edgeseg.train.network import SegmentationNetwork
from edgeseg.train.predict import Predictor
from edgeseg.train.run import Checkpoint, read_checkpoint, write_checkpoint
from edgeseg.train.samples import NETWORK_IGNORE, TrainingSamples

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


def class_weights(dataset: Dataset, splits: tuple[str, ...], classes: int) -> Tensor:
    """Weights of the loss, (classes,) float32: (median frequency / frequency)^0.4, held to 0.4 … 4.

    After Eigen and Fergus (ICCV 2015), who take the power 1; a softer one costs the large classes less. A class
    that no label shows gets weight 1.
    """
    counts = np.zeros(256, np.int64)
    for split in splits:
        for pair in dataset.pairs(split):
            counts += np.bincount(dataset.read_mask(pair).ravel(), minlength=256)
    pixels = counts[:classes].astype(np.float64)
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


def loss_of(logits: tuple[Tensor, Tensor], labels: Tensor, weights: Tensor, auxiliary: float) -> Tensor:
    """Weighted cross-entropy of the main and the auxiliary head, void left out. A batch of only void costs 0."""
    if not bool((labels != NETWORK_IGNORE).any()):
        return logits[0].sum() * 0.0
    main, aux = (F.cross_entropy(x, labels, weight=weights, ignore_index=NETWORK_IGNORE) for x in logits)
    return main + auxiliary * aux


def train_run(
    dataset: Dataset,
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    on_batch: Callable[[], None] = lambda: None,
    on_epoch: Report = lambda row: None,
) -> Checkpoint:
    """Train on `dataset` and leave `checkpoint.pt` in `out` after every epoch, whole or not at all.

    With `resume` goes on from that checkpoint, and the curve is the one an unbroken run gives. Returns the last
    checkpoint. Raises `TrainError` when a resumed run was started with other settings or classes.
    """
    contract = contract_of(dataset, config)
    digests = {split: dataset.digest(split) for split in config.splits}
    torch.manual_seed(config.seed)
    network = SegmentationNetwork(len(contract.classes))
    if config.pretrained:
        network.backbone.load_pretrained()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = AveragedModel(network, multi_avg_fn=_ema_update(config.ema), use_buffers=True)
    backbone = {id(parameter) for parameter in network.backbone.parameters()}
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if id(p) not in backbone], "lr": config.learning_rate},
            {"params": list(network.backbone.parameters()), "lr": config.learning_rate / 4},
        ],
        weight_decay=config.weight_decay,
    )
    peaks = [group["lr"] for group in optimiser.param_groups]
    weights = class_weights(dataset, config.splits, len(contract.classes))
    samples = TrainingSamples(dataset, contract, config)
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
            logits = network.forward_training(images.contiguous(memory_format=torch.channels_last))
            loss = loss_of(logits, labels, weights, config.auxiliary)
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
