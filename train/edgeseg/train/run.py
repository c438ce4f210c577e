"""What training leaves behind: a folder with `checkpoint.pt`, `metrics.json`, `curves.png` and `predictions.png`."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import TrainError
from edgeseg.runtime.files import whole_file
from edgeseg.train.config import TrainConfig
from edgeseg.train.network import SegmentationNetwork, fold_batch_norms

CHECKPOINT_NAME = "checkpoint.pt"
CHECKPOINT_FORMAT = "edgeseg/checkpoint/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Everything that a run needs to go on, and that an export needs to begin."""

    config: TrainConfig
    contract: Contract
    dataset: str
    digests: dict[str, str]
    """Content digest of each training split."""
    network: dict[str, Any]
    averaged: dict[str, Any]
    optimiser: dict[str, Any]
    history: list[dict[str, Any]]
    """One row per epoch: epoch, loss, seconds, and of these waited_seconds for samples; miou, pixel_accuracy,
    per_class_iou where it was scored; unreadable, with what was found, where pairs were passed over."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """Of fp16's gradients; empty in other precisions."""

    def refuse_other(self, config: TrainConfig, contract: Contract, digests: dict[str, str]) -> None:
        """Raise `TrainError` unless a run with these settings would be the continuation of this one."""
        if contract != self.contract:
            raise TrainError(
                "the checkpoint has other classes, palette, size or fit",
                expected=f"{', '.join(self.contract.classes)} at {self.contract.height}x{self.contract.width}",
                fix="resume with the same dataset and size, or start in another folder",
            )
        ours, theirs = config.document(), self.config.document()
        if differing := [name for name in ours if ours[name] != theirs.get(name)]:
            raise TrainError(
                "; ".join(f"{name} is {ours[name]}" for name in differing),
                expected="; ".join(f"{name} {theirs.get(name)}" for name in differing) + ", as the run was started",
                fix="resume with the same settings, or start in another folder",
            )
        if differing := [split for split in digests if digests[split] != self.digests.get(split)]:
            raise TrainError(
                f"the images or masks of split {', '.join(differing)} have changed since the run was started",
                expected="the same data",
                fix="restore the data, or start in another folder",
            )


def write_checkpoint(out: Path, checkpoint: Checkpoint) -> None:
    """Write `out/checkpoint.pt`, whole or not at all: tensors and plain values only, so that it loads safely.

    Raises `TrainError` when it cannot be written; what was there before is kept.
    """
    document = {
        "format": CHECKPOINT_FORMAT,
        "config": checkpoint.config.document(),
        "contract": checkpoint.contract.model_dump(mode="json"),
        **{
            name: getattr(checkpoint, name)
            for name in ("dataset", "digests", "network", "averaged", "optimiser", "history", "scaler")
        },
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        with whole_file(out / CHECKPOINT_NAME) as partial:
            torch.save(document, partial)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        raise TrainError(
            f"cannot write {out / CHECKPOINT_NAME}: {getattr(error, 'strerror', None) or 'the disk may be full'}",
            fix="make room, or let this user write there; then go on from the last whole epoch with --resume",
        ) from error


def read_checkpoint(run: Path) -> Checkpoint:
    """Read `run/checkpoint.pt`. Raises `TrainError` when it is absent, damaged or of another format."""
    path = run / CHECKPOINT_NAME
    if not path.is_file():
        raise TrainError(
            f"no {CHECKPOINT_NAME} in {run}", expected="a run folder", fix="train one with `edgeseg train`"
        )
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        raise TrainError(
            f"{path} cannot be read ({str(error).splitlines()[0][:120] if str(error) else type(error).__name__})",
            expected="a checkpoint written by `edgeseg train`",
            fix="train again, or restore the file",
        ) from None
    if not isinstance(document, dict) or document.get("format") != CHECKPOINT_FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise TrainError(f"{path} has format {found}", expected=CHECKPOINT_FORMAT, fix="train with this version")
    document = {name: value for name, value in document.items() if name != "format"}
    try:
        TypeAdapter(Checkpoint).validate_python(document)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        found = f"{path}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
        raise TrainError(found, expected=CHECKPOINT_FORMAT, fix="train again, or restore the file") from None
    document["config"] = TrainConfig.of(**document["config"])
    document["contract"] = Contract(**document["contract"])
    return Checkpoint(**document)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedRun:
    """A trained network ready to predict or to export."""

    network: nn.Module
    """Averaged weights, eval mode, batch norms folded: (1, 3, H, W) normalised RGB → (1, classes, H, W) logits."""
    contract: Contract
    weights: str
    """sha256 of the averaged weights, or of a bundle's graph: what a run records of its teacher."""
    metadata: dict[str, Any]
    """dataset, digests, seed, config, packages: what a bundle's provenance records."""

    def to_teach(self, contract: Contract) -> nn.Module:
        """Return the network as the teacher of one that keeps `contract`. Raises `TrainError` for other classes."""
        if self.contract.classes != contract.classes:
            raise TrainError(
                f"the teacher knows {', '.join(self.contract.classes)}",
                expected=", ".join(contract.classes),
                fix="choose a --teacher that was trained on these classes",
            )
        return self.network.requires_grad_(False)


def load_run(path: Path) -> LoadedRun:
    """Load the averaged network of a run folder. Raises `TrainError` when it is not one."""
    checkpoint = read_checkpoint(path)
    network = SegmentationNetwork(len(checkpoint.contract.classes), size=checkpoint.config.network)
    state = averaged_weights(checkpoint)
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise TrainError(
            f"{path} holds a network of another architecture",
            expected=f"{SegmentationNetwork.__name__} of this version",
            fix="export it with the version that trained it, or train again",
        ) from None
    network.eval()
    fold_batch_norms(network)
    return LoadedRun(
        network=network,
        contract=checkpoint.contract,
        weights=digest_of(state),
        metadata={
            "dataset": checkpoint.dataset,
            "digests": checkpoint.digests,
            "seed": checkpoint.config.seed,
            "config": checkpoint.config.document(),
            "packages": environment()["packages"],
        },
    )


def averaged_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The averaged weights as they were trained, batch norms apart."""
    prefix = "module."
    return {name[len(prefix) :]: value for name, value in checkpoint.averaged.items() if name.startswith(prefix)}


def digest_of(state: dict[str, Any]) -> str:
    """sha256 of names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
