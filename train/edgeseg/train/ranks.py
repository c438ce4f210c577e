"""The processes that train one network together: this one alone, several of a machine, or those of several machines.

The engine is PyTorch's own, torchrun with DistributedDataParallel: it comes with torch, on aarch64 too, where Lightning
Fabric would be one more dependency over the same calls. Losses and batch norms are over the whole batch, whatever
number of processes share it, so the curve is one process's but for rounding.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgeseg.runtime.errors import TrainError

PATIENCE = timedelta(hours=2)
"""How long the others wait while the first scores a split or prepares a stem."""

_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)

_Value = TypeVar("_Value")


class _Total(torch.autograd.Function):
    """Sum over all processes; so is its gradient, for each of them depends on every part."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _total_with_gradient(value: Tensor) -> Tensor:
    total: Tensor = _Total.apply(value)  # type: ignore[no-untyped-call]
    return total


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm by the statistics of all processes' batches together, in float32.

    nn.SyncBatchNorm does the same on a GPU only; this one is tested without.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        pixels = values.new_full((1,), values.numel() / values.shape[1])
        sums = _total_with_gradient(torch.cat([values.sum((0, 2, 3)), pixels]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]
        variance = _total_with_gradient(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None and self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_batch_norms(network: nn.Module) -> None:
    """Let every batch norm of `network` take its statistics over all processes. In place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
                shared.load_state_dict(child.state_dict())
                setattr(module, name, shared)


class _Forward(nn.Module):
    """What DistributedDataParallel wraps: its own `forward` is the only door that it has."""

    def __init__(self, network: nn.Module, forward: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.network = network
        self._forward = forward

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self._forward(*inputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Which of the processes this one is. The first leads: it alone writes files and speaks."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """Sum of every process's `value`, any shape, the same on all. No gradient flows through it."""
        value = value.detach().clone()
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (n, …) of all processes in order of rank; n may differ. Gradient flows to this one's own rows only."""
        if self.count == 1:
            return rows
        sizes = torch.zeros(self.count, dtype=torch.int64, device=rows.device)
        sizes[self.rank] = len(rows)
        lengths = self.total(sizes).tolist()
        padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        cut = [part[:length] for part, length in zip(parts, lengths, strict=True)]
        cut[self.rank] = rows
        return torch.cat(cut)

    def share(self, value: _Value) -> _Value:
        """Return the leader's `value`, anything that can be pickled."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def collect(self, value: _Value) -> list[_Value]:
        """Return every process's `value`, in order of rank."""
        if self.count == 1:
            return [value]
        values: list[_Value | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def wait(self) -> None:
        """Return once every process is here."""
        if self.count > 1:
            dist.barrier()

    def spread(
        self, network: nn.Module, forward: Callable[..., tuple[Tensor, Tensor]]
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        """Return `forward`, a method of `network`, such that gradients come out as the mean over all processes.

        The leader's weights and statistics become everyone's.
        """
        if self.count == 1:
            return forward
        return DistributedDataParallel(_Forward(network, forward), broadcast_buffers=False)


ALONE = Ranks()


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started beside this one, if it did, over NCCL on GPUs and gloo on CPUs.

    Raises `TrainError` where another of them is lost.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        ranks = Ranks(rank=dist.get_rank(), count=dist.get_world_size())
        yield ranks
        dist.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        raise TrainError(
            "another process of this run was lost",
            expected="all of them until the end",
            fix="see what it said before; go on from the last whole epoch with the same command and --resume",
        ) from error


def choose_device(name: str) -> torch.device:
    """Return the device called `auto`, `cpu` or `cuda`: of a machine's GPUs, the one that is this process's turn.

    `auto` is a GPU where PyTorch can use one. Raises `TrainError` where it was asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not has_gpu):
        return torch.device("cpu")
    turn = int(os.environ.get("LOCAL_RANK", "0"))
    if not has_gpu or turn >= torch.cuda.device_count():
        raise TrainError(
            f"process {turn} has no GPU: PyTorch {torch.__version__} sees {torch.cuda.device_count()}",
            expected="a GPU for each process of a machine",
            fix="use --device cpu, fewer processes, or a build of PyTorch for this GPU",
        )
    torch.cuda.set_device(turn)
    return torch.device("cuda", turn)
