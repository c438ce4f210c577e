"""What a run takes from another network, out of a run's folder or a bundle: weights to begin with, or a teacher."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.errors import TrainError
from edgeseg.runtime.evaluate import is_run
from edgeseg.train.backbone import EARLY_STAGES, ConvNorm
from edgeseg.train.config import TrainConfig
from edgeseg.train.network import SegmentationNetwork, fold_batch_norms, swap_colours
from edgeseg.train.run import LoadedRun, averaged_weights, digest_of, load_run, read_checkpoint
from edgeseg.train.sizes import SIZES, Scale

_STAGE = re.compile(r"^(backbone\.stages\.)(\d+)")
_AUXILIARY = "auxiliary."
"""The head that only training has: no graph holds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a network lends to a run that begins with it."""

    state: dict[str, Tensor]
    """Its weights, batch norms apart."""
    classes: tuple[str, ...]
    scale: Scale
    weights: str
    """sha256 of what it was read from, or of `state`."""
    settled: bool = True
    """Whether the batch norms hold statistics of what they see; else `settle_batch_norms` must be called."""

    def lend(self, network: SegmentationNetwork, classes: tuple[str, ...]) -> None:
        """Give `network` these weights where it has the same layer in the same shape; its heads only for the same
        `classes`.
        """
        known = network.state_dict()
        heads = () if self.classes == classes else ("classifier.", _AUXILIARY)
        # A network behind a dense stem counts its stages from the first that it has.
        moved = (EARLY_STAGES if self.scale.dense_stem else 0) - network.backbone.first
        named = {_STAGE.sub(lambda m: f"{m[1]}{int(m[2]) + moved}", name): value for name, value in self.state.items()}
        fitting = {
            name: value
            for name, value in named.items()
            if name in known and value.shape == known[name].shape and not name.startswith(heads)
        }
        network.load_state_dict(fitting, strict=False)


def load_start(*paths: Path) -> Start:
    """Load the weights of a run's folder, of whatever architecture, or of a bundle, which may be a shipped network's
    name; of several, which must be of one architecture and know the same classes, the mean.

    Networks that were trained on from the same weights, each in another way, lie near enough for their mean to be
    better than they are: model soups, Wortsman et al., ICML 2022. It is taken of weights with their batch norms folded,
    so it does not depend on how long each network's filters are. Raises `TrainError` or `BundleError` when a path is
    neither run nor bundle, its graph is no network of this version, or networks differ in kind.
    """
    if len(paths) == 1 and is_run(paths[0]):
        checkpoint = read_checkpoint(paths[0])
        state = averaged_weights(checkpoint)
        classes, scale = checkpoint.contract.classes, checkpoint.config.scale
        return Start(state=state, classes=tuple(classes), scale=scale, weights=digest_of(state))
    found = [load_teacher(path) for path in paths]
    kinds = [
        (run.contract.classes, _scale_of(path.name, run.metadata["config"]))
        for path, run in zip(paths, found, strict=True)
    ]
    (classes, scale), *others = kinds
    for path, (other_classes, other_scale) in zip(paths[1:], others, strict=True):
        if (other_classes, other_scale) != (classes, scale):
            raise TrainError(
                f"{path} is a network of another size than {paths[0]}, or knows other classes",
                expected=f"{', '.join(classes)}; {scale.model_dump(exclude_defaults=True)}",
                fix="begin with the mean of networks of one kind, or with one of them",
            )
    states = [run.network.state_dict() for run in found]
    mean = {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}
    digests = [run.weights for run in found]
    weights = digests[0] if len(digests) == 1 else sha256("\n".join(sorted(digests)).encode()).hexdigest()
    return _unfold(mean, tuple(classes), scale, weights)


def load_teacher(path: Path) -> LoadedRun:
    """Load the network of a run's folder or of a bundle, to teach another one. Raises as `load_start` does."""
    if is_run(path):
        return load_run(path)
    with open_bundle(path) as bundle:
        provenance = bundle.manifest.provenance
        return LoadedRun(
            network=_read_network(bundle),
            contract=bundle.contract,
            weights=_graph_digest(bundle),
            metadata={
                "dataset": provenance.dataset,
                "digests": provenance.splits,
                "seed": provenance.seed,
                "config": provenance.training,
                "packages": provenance.packages,
            },
        )


@torch.no_grad()
def settle_batch_norms(network: SegmentationNetwork, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the statistics of what it sees in `batches`, each (n, 3, h, w) normalised RGB, in place.

    Scale and shift are changed with them, so that in eval mode the network computes what it did before. In training a
    batch's own statistics take their place: what the network computes then stays nearly the same if `batches` are like
    those that it will be trained on, crops and all. Variances are within a batch, as a batch norm's own are.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {norm: [] for norm in norms}

    def note(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].double()
        seen[norm].append((x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)))

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    was_training = network.training
    network.eval()
    try:
        for batch in batches:
            network(batch)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    for norm in norms:
        if not seen[norm]:
            continue
        mean, variance = (torch.stack(values).mean(dim=0) for values in zip(*seen[norm], strict=True))
        assert norm.running_mean is not None and norm.running_var is not None
        slope = norm.weight / (norm.running_var.double() + norm.eps).sqrt()
        norm.bias.add_(slope * (mean - norm.running_mean))
        norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _unfold(folded: dict[str, Tensor], classes: tuple[str, ...], scale: Scale, weights: str) -> Start:
    """Folded weights with a batch norm behind each convolution that computes nothing yet but its bias.

    Behind a batch norm only a filter's direction counts, but its length says how far a step of the optimiser turns it:
    folding changed the lengths, so each filter gets that of the one it began as.
    """
    with torch.random.fork_rng(devices=[]):  # lengths are the same whatever was drawn before
        torch.manual_seed(0)
        network = SegmentationNetwork(len(classes), size=scale)
    network.backbone.load_pretrained()
    state = network.state_dict()
    for name, layer in network.named_modules():
        if not isinstance(layer, ConvNorm):
            continue
        norm_at, norm = next((at, part) for at, part in enumerate(layer) if isinstance(part, nn.BatchNorm2d))
        conv, behind = f"{name}.{norm_at - 1}", f"{name}.{norm_at}"
        filters, bias = folded.pop(f"{conv}.weight"), folded.pop(f"{conv}.bias")
        lengths, began = (weight.flatten(1).norm(dim=1) for weight in (filters, state[f"{conv}.weight"]))
        stretch = torch.where((lengths > 0) & (began > 0), began / lengths, torch.ones(()))
        state |= {
            f"{conv}.weight": filters * stretch[:, None, None, None],
            f"{behind}.weight": 1 / stretch * (1 + norm.eps) ** 0.5,
            f"{behind}.bias": bias,
            f"{behind}.running_mean": torch.zeros_like(bias),
            f"{behind}.running_var": torch.ones_like(bias),
        }
    state |= folded
    return Start(
        state={name: value for name, value in state.items() if not name.startswith(_AUXILIARY)},
        classes=classes,
        scale=scale,
        weights=weights,
        settled=False,
    )


def _read_network(bundle: Bundle) -> SegmentationNetwork:
    """The network of a bundle's fp32 graph: eval mode, batch norms folded; its auxiliary head has learned nothing."""
    scale = _scale_of(bundle.name, bundle.manifest.provenance.training)
    network = SegmentationNetwork(len(bundle.contract.classes), size=scale).eval()
    fold_batch_norms(network)
    known = network.state_dict()
    graph = onnx.load(bundle.model_path("fp32")).graph
    tensors = {entry.name: entry for entry in graph.initializer if entry.name in known}
    for name, expected in known.items():
        if name.startswith(_AUXILIARY):
            continue
        found = tuple(tensors[name].dims) if name in tensors else None
        if found != tuple(expected.shape):
            raise TrainError(
                f"the graph of bundle {bundle.name!r} has {name} of shape {found}" if found else
                f"the graph of bundle {bundle.name!r} has no {name}",
                expected=f"{SegmentationNetwork.__name__} of this version, {name} of shape {tuple(expected.shape)}",
                fix="begin with a run's folder, or with a bundle that this version exported",
            )  # fmt: skip
    network.load_state_dict(
        {name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for name, entry in tensors.items()}, strict=False
    )
    swap_colours(network)  # a graph sees BGR
    return network


def _scale_of(name: str, training: Mapping[str, Any]) -> Scale:
    network = training.get("network")
    try:
        return TrainConfig.of(network=network).scale
    except TrainError:
        raise TrainError(
            f"bundle {name!r} says that its network is {network!r}",
            expected=f"{', '.join(SIZES)} or a described size, in its provenance.training.network",
            fix="begin with a run's folder, or with a bundle that this version exported",
        ) from None


def _graph_digest(bundle: Bundle) -> str:
    return bundle.manifest.files[bundle.model_path("fp32").name].sha256
