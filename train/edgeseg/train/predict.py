"""A network in PyTorch behind the same door as a bundle's backend."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

from edgeseg.runtime.contract import CONFIDENCE_LEVELS, Contract
from edgeseg.runtime.frame import Confidence, Image, Mask
from edgeseg.train.network import mask_of
from edgeseg.train.run import load_run
from edgeseg.train.samples import to_network


class Predictor:
    """Predicts with `network`, which is put in eval mode and given back in the mode it came in."""

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        self._network, self.contract = network, contract
        self._logits: Tensor | None = None
        self._was_training = network.training
        network.eval()

    def infer(self, fitted: Image) -> Mask:
        """(1, H, W, 3) uint8 BGR at the contract's size → (1, H, W) uint8 class indices."""
        with torch.inference_mode():
            x = to_network(fitted[0])[None].contiguous(memory_format=torch.channels_last)
            self._logits = self._network(x.to(next(self._network.parameters()).device))
            mask: Mask = mask_of(self._logits, self.contract.size_hw).to(torch.uint8).cpu().numpy()
        return mask

    @property
    def confidence(self) -> Confidence | None:
        """How sure the network was in its latest `infer`, in 255ths as a graph tells it, at the logits' resolution.

        (1, rows, columns) uint8; None before the first.
        """
        if self._logits is None:
            return None
        highest: Confidence = (
            self._logits.softmax(dim=1).amax(dim=1).mul(CONFIDENCE_LEVELS).to(torch.uint8).cpu().numpy()
        )
        return highest

    def close(self) -> None:
        self._network.train(self._was_training)

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_run_predictor(run: Path) -> Predictor:
    """Open the trained network of a run folder. Raises `TrainError` when it is not one."""
    loaded = load_run(run)
    return Predictor(loaded.network, loaded.contract)
