"""The training loop: one linear script, a checkpoint after every epoch, resumable after any kill.

It runs unchanged in one process and in several: what they share is in `ranks`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.dataset_bad_pairs import BadPairs
from edgeseg.runtime.errors import TrainError
from edgeseg.runtime.evaluate import evaluate
from edgeseg.train.borrowed import Start, settle_batch_norms
from edgeseg.train.config import TrainConfig
from edgeseg.train.fitted import DecodedPairs, FittedPairs, read_some
from edgeseg.train.losses import class_weights, distillation_loss, segmentation_loss
from edgeseg.train.network import SegmentationNetwork
from edgeseg.train.offsets import find_offsets, shift_classes
from edgeseg.train.optimise import learning_rate_at, make_average, make_optimiser
from edgeseg.train.predict import Predictor
from edgeseg.train.ranks import ALONE, Ranks, share_batch_norms
from edgeseg.train.run import Checkpoint, LoadedRun, read_checkpoint, write_checkpoint
from edgeseg.train.samples import (
    RARE_SHARE,
    Batch,
    Deal,
    Sample,
    TrainingSamples,
    count_samples,
    count_steps,
    load_batches,
)
from edgeseg.train.stem import STEPS as STEM_STEPS
from edgeseg.train.stem import imitate_stem

STEM_IMAGES = 128
"""Images that a dense stem learns from, kept in memory while it does."""
SETTLING_BATCHES = 24
"""Batches that the batch norms of a bundle's network get their statistics from."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What this machine lends to a run: it changes how long a run takes, and the last bits of its figures."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    channels_last: bool = True
    workers: int = 1
    """Processes that make samples; 0 makes them in this one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watcher:
    """Who is told how a run goes, in the leading process, and who may stop it, in any."""

    on_batch: Callable[[], None] = lambda: None
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None
    """Gets the epoch's row of the history."""
    on_unreadable: Callable[[str], None] = lambda line: None
    should_stop: Callable[[], bool] = lambda: False
    """Asked before every batch; the run then ends with `KeyboardInterrupt`."""


def contract_of(dataset: Dataset, config: TrainConfig) -> Contract:
    """The contract that a network trained on `dataset` with `config` keeps."""
    return Contract(
        height=config.height,
        width=config.width,
        fit=config.fit,
        classes=dataset.classes,
        palette=dataset.palette,
        ignore_index=dataset.ignore_index,
        white_level=dataset.spec.white_level,
    )


def train_run(
    dataset: Dataset,
    config: TrainConfig,
    out: Path,
    *,
    pairs: FittedPairs | None = None,
    host: Host | None = None,
    ranks: Ranks = ALONE,
    resume: bool = False,
    teacher: LoadedRun | None = None,
    start: Start | None = None,
    watcher: Watcher | None = None,
) -> Checkpoint:
    """Train on `dataset` and leave `checkpoint.pt` in `out` after every epoch, whole or not at all.

    `pairs` are the training splits, decoded anew each time unless given. With `resume` goes on from the checkpoint, and
    the curve is the one an unbroken run gives. A `teacher`, whose weights `config.teacher` names, sees every crop that
    the network sees; `start`, whose weights `config.start` names, lends what fits. Returns the last checkpoint. Raises
    `TrainError` when a resumed run was started with other settings or classes, or the teacher knows others, and
    `DatasetError` when too many pairs cannot be read.
    """
    host, watcher = host or Host(), watcher or Watcher()
    contract = contract_of(dataset, config)
    teaching = teacher.to_teach(contract).to(host.device) if teacher else None
    pairs = pairs or DecodedPairs(dataset, contract, config.splits)
    if any(digests != pairs.digests for digests in ranks.collect(pairs.digests)):
        raise TrainError("the processes see different data", expected="the same", fix="give each machine a whole copy")
    previous = ranks.share(read_checkpoint(out) if resume and ranks.leads else None)
    if previous:
        previous.refuse_other(config, contract, pairs.digests)

    pixels = pairs.labels[: len(contract.classes)].astype(np.float64)
    rare = [int(index) for index in np.flatnonzero((pixels > 0) & (pixels < RARE_SHARE * pixels.sum()))]
    samples = TrainingSamples(pairs, contract, config, rare=rare)

    torch.manual_seed(config.seed)
    network = SegmentationNetwork(len(contract.classes), size=config.network)
    if config.pretrained:
        network.backbone.load_pretrained()
    if start:
        start.lend(network, tuple(contract.classes))
    layout = torch.channels_last if host.channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)  # type: ignore[call-overload]
    stem_error = None
    if has_stem_to_train(config, start) and not resume and ranks.leads:
        pictures = [image for image, _ in read_some(pairs, STEM_IMAGES)]
        stem_error = imitate_stem(network.backbone, pictures, seed=config.seed, on_step=lambda: _pause(watcher))
    if start and not start.settled and not resume and ranks.leads:
        settle_batch_norms(network, _first_batches(samples, config))
    if ranks.count > 1:
        share_batch_norms(network)
    network = network.to(host.device)
    frozen = config.frozen if config.pretrained else 0
    network.backbone.freeze(frozen)
    forward = ranks.spread(network, network.forward_training)
    averaged = AveragedModel(network, multi_avg_fn=make_average(config.ema), use_buffers=True)
    optimiser = make_optimiser(network, config)
    peaks = [group["lr"] for group in optimiser.param_groups]
    scaler = torch.amp.GradScaler(host.device.type, enabled=config.precision == "fp16")

    weights = class_weights(pixels, config.balance).to(host.device)
    deal = Deal(len(samples), config, ranks)
    loader = load_batches(samples, deal, workers=host.workers, pin=host.device.type == "cuda")
    scored = len(dataset.pairs(config.select)) if config.select else 0
    bad = BadPairs(len(pairs.pairs) + scored, report=watcher.on_unreadable if ranks.leads else lambda line: None)

    history: list[dict[str, Any]] = []
    if previous:
        network.load_state_dict(previous.network)
        averaged.load_state_dict(previous.averaged)
        optimiser.load_state_dict(previous.optimiser)
        scaler.load_state_dict(previous.scaler)
        history = list(previous.history)
        checkpoint = previous

    def whole() -> Checkpoint:
        return Checkpoint(
            config=config,
            contract=contract,
            dataset=dataset.name,
            digests=pairs.digests,
            network=network.state_dict(),
            averaged=averaged.state_dict(),
            optimiser=optimiser.state_dict(),
            scaler=scaler.state_dict(),
            history=history,
        )

    if not config.epochs:
        checkpoint = whole()
        if ranks.leads:
            write_checkpoint(out, checkpoint)
    for epoch in range(len(history), config.epochs):
        started = time.monotonic()
        # The losses' own draws are seeded by the epoch, so that a resumed run repeats what an unbroken one does.
        torch.manual_seed(config.seed * 1_000_003 + epoch)
        deal.epoch = epoch
        network.train()
        network.backbone.freeze(frozen)
        losses, waits = list[float](), list[float]()
        for step, batch in enumerate(_clock(loader, waits)):
            news = torch.tensor([not batch.seeds, watcher.should_stop(), len(batch.unreadable)], device=host.device)
            lacking, stopping, unreadable = ranks.total(news.float()).tolist()
            if stopping:
                raise KeyboardInterrupt
            if unreadable:
                for error in (error for errors in ranks.collect(batch.unreadable) for error in errors):
                    bad.add(error)
            if lacking:  # a process without a sample has no gradient to give
                continue
            factor = learning_rate_at((epoch + step / len(deal)) / config.epochs)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            images = batch.images.to(host.device, non_blocking=True, memory_format=layout)
            labels = batch.labels.to(host.device, non_blocking=True)
            kept = network.draw_kept(batch.seeds).to(host.device)
            with torch.autocast(host.device.type, _DTYPES[config.precision], enabled=config.precision != "fp32"):
                logits = forward(images, kept)
                taught = _look(teaching, images, config.teacher_scale)
            part = segmentation_loss(
                logits, labels, weights, auxiliary=config.auxiliary, lovasz=config.lovasz, ranks=ranks
            )
            if taught is not None:
                part = part + config.distillation * distillation_loss(logits[0], taught, ranks)
            loss = float(ranks.total(part))
            if not math.isfinite(loss):
                raise TrainError(
                    f"loss is {loss} in epoch {epoch + 1}",
                    expected="a finite number",
                    fix="lower --learning-rate, or look at the data with `edgeseg data check`; "
                    f"the last whole checkpoint is in {out}",
                )
            optimiser.zero_grad(set_to_none=True)
            # Parts sum to the loss, and the processes' gradients come out as their mean.
            scaler.scale(part * ranks.count).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            scaler.step(optimiser)
            scaler.update()
            averaged.update_parameters(network)
            losses.append(loss)
            watcher.on_batch()
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": float(np.mean(losses))}
        if stem_error is not None:
            row["stem_error"], stem_error = stem_error, None
        is_last = epoch + 1 == config.epochs
        if is_last and config.offsets:
            shifted = _network_of(averaged)
            row["offsets"] = ranks.share(find_offsets(shifted, pairs, contract) if ranks.leads else None)
            shift_classes(shifted, row["offsets"])
        if config.select and ranks.leads and ((epoch + 1) % config.score_every == 0 or is_last):
            with Predictor(averaged.module, contract) as predictor:
                score = evaluate(predictor, dataset, config.select, on_unreadable=bad.add).document()
            row |= {key: score[key] for key in ("miou", "pixel_accuracy", "per_class_iou") if key in score}
        row |= bad.document()
        row["waited_seconds"] = round(sum(waits), 2)
        row["seconds"] = round(time.monotonic() - started, 1)
        history.append(ranks.share(row))
        checkpoint = whole()
        if ranks.leads:
            write_checkpoint(out, checkpoint)
            watcher.on_epoch(row)
    return checkpoint


def steps_of(pairs: int, config: TrainConfig, start: Start | None = None) -> int:
    """How often `train_run` calls `on_batch` in an unbroken run over so many pairs."""
    steps = count_steps(count_samples(pairs, config), config) * config.epochs
    return steps + (STEM_STEPS if has_stem_to_train(config, start) else 0)


def has_stem_to_train(config: TrainConfig, start: Start | None = None) -> bool:
    """Whether the network's stem has no weights of its own to begin with, while the rest has."""
    stem = config.scale.dense_stem
    return config.pretrained and stem is not None and not (start and start.scale.dense_stem == stem)


def _first_batches(samples: TrainingSamples, config: TrainConfig) -> Iterator[Tensor]:
    """Images of the first epoch's first batches, made in this process."""
    deal = Deal(len(samples), config)
    for keys in islice(deal, SETTLING_BATCHES):
        found = [samples[key] for key in keys]
        if images := [sample.image for sample in found if isinstance(sample, Sample)]:
            yield torch.stack(images)


def _network_of(averaged: AveragedModel) -> SegmentationNetwork:
    assert isinstance(averaged.module, SegmentationNetwork)
    return averaged.module


def _pause(watcher: Watcher) -> None:
    watcher.on_batch()
    if watcher.should_stop():
        raise KeyboardInterrupt


def _clock(batches: Iterable[Batch], waits: list[float]) -> Iterator[Batch]:
    """Give the batches, and note in `waits` how many seconds each was waited for."""
    source = iter(batches)
    while True:
        asked = time.monotonic()
        batch = next(source, None)
        waits.append(time.monotonic() - asked)
        if batch is None:
            return
        yield batch


@torch.no_grad()
def _look(teacher: torch.nn.Module | None, images: Tensor, scale: float) -> Tensor | None:
    if teacher is None:
        return None
    if scale != 1.0:
        size = [max(32, round(side * scale / 32) * 32) for side in images.shape[2:]]
        images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    taught: Tensor = teacher(images)
    return taught
