"""Small networks to export."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn

from edgeseg.export.graph import export_graph
from edgeseg.runtime.contract import Contract
from edgeseg.train.network import SegmentationNetwork, fold_batch_norms
from edgeseg.train.run import LoadedRun


class ColourNetwork(nn.Module):
    """Normalised RGB to logits by colour alone: of each class, how near its palette colour is."""

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        colours = (torch.tensor(contract.palette, dtype=torch.float32) - 127) / 128
        self.classifier = nn.Conv2d(3, len(colours), 1)
        with torch.no_grad():
            self.classifier.weight.copy_(2 * colours[:, :, None, None])
            self.classifier.bias.copy_(-(colours**2).sum(dim=1))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits


@pytest.fixture(scope="session")
def colour_network(tiny_contract: Contract) -> nn.Module:
    """Segments by colour alone. Export copies it: nothing changes it."""
    return ColourNetwork(tiny_contract).eval()


@pytest.fixture(scope="session")
def make_run(tiny_contract: Contract) -> Callable[[nn.Module], LoadedRun]:
    """Wrap a network as `load_run` would give it."""

    def make(network: nn.Module) -> LoadedRun:
        metadata = {
            "dataset": "streets",
            "digests": {"train": "0" * 64},
            "seed": 3,
            "config": {"epochs": 1, "splits": ["train"]},
            "packages": {"numpy": "1"},
        }
        return LoadedRun(network=network, contract=tiny_contract, weights="0" * 64, metadata=metadata)

    return make


@pytest.fixture(scope="session")
def trained(tiny_contract: Contract) -> nn.Module:
    """The network that `edgeseg train` trains, folded, with its first weights. Read, never change."""
    torch.manual_seed(0)
    network = SegmentationNetwork(len(tiny_contract.classes)).eval()
    fold_batch_norms(network)
    return network


@pytest.fixture(scope="session")
def trained_model(trained: nn.Module, tiny_contract: Contract) -> ModelProto:
    """Its fp32 graph. Read, never change."""
    return onnx.load_from_string(export_graph(trained, tiny_contract))
