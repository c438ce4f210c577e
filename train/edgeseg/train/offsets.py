"""Where one class ends and the next begins: offsets of the logits that lift IoU, found once a network is trained.

Class weights, crops over rare classes and the Jaccard loss make a network say rare classes more often than they are
there. That helps it to learn them; for the mask a false pixel costs as much as a missed one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Image, Mask
from edgeseg.train.fitted import FittedPairs, read_some
from edgeseg.train.network import SegmentationNetwork
from edgeseg.train.samples import NETWORK_IGNORE, to_network

PICTURES = 160
"""Training pictures that offsets are found on, as they are, spread evenly."""
STRIDE = 2
"""Of every block of so many cells squared one is looked at."""
STEPS = (0.5, 0.25)
LARGEST = 2.0
"""An offset stays below this, in logits: 2 is a factor of 7 in the chances."""


def find_offsets(network: SegmentationNetwork, pairs: FittedPairs, contract: Contract) -> list[float]:
    """Return the offset of each class that pictures of `pairs` speak for; `network` is left in the mode it came in."""
    was_training = network.training
    network.eval()
    found = [_look(network, image, mask, contract.ignore_index) for image, mask in read_some(pairs, PICTURES)]
    network.train(was_training)
    if not found:
        return [0.0] * len(contract.classes)
    offsets = best_offsets(torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found]))
    return [float(offset) for offset in offsets]


def shift_classes(network: SegmentationNetwork, offsets: Sequence[float]) -> None:
    """Add them to the classifier's bias, in place."""
    bias = network.classifier.bias
    assert bias is not None
    with torch.no_grad():  # the four quarters of a cell lie beside each other
        bias.add_(bias.new_tensor(offsets).repeat_interleave(len(bias) // len(offsets)))


def best_offsets(logits: Tensor, labels: Tensor) -> Tensor:
    """Offsets (classes,) of a high mean IoU: coordinate ascent, once over the classes with each of `STEPS`.

    `logits` (pixels, classes), `labels` (pixels,) uint8 with `NETWORK_IGNORE` for void; IoU counts the classes that
    `labels` hold. Never worse than none.
    """
    known = labels != NETWORK_IGNORE
    logits, labels = logits[known], labels[known]
    offsets = torch.zeros(logits.shape[1])
    best = _mean_iou(logits, labels)
    for step in STEPS:
        for index in range(len(offsets)):
            for move in (step, -step):
                while abs(float(offsets[index]) + move) < LARGEST:
                    tried = offsets.clone()
                    tried[index] += move
                    iou = _mean_iou(logits + tried, labels)
                    if iou <= best:
                        break
                    best, offsets = iou, tried
    return offsets


def _mean_iou(logits: Tensor, labels: Tensor) -> float:
    matrix = ConfusionMatrix([str(index) for index in range(logits.shape[1])], NETWORK_IGNORE)
    matrix.add(labels.numpy(), logits.argmax(dim=1).to(torch.uint8).numpy())
    return matrix.miou or 0.0


@torch.inference_mode()
def _look(network: SegmentationNetwork, image: Image, mask: Mask, ignore_index: int) -> tuple[Tensor, Tensor]:
    x = to_network(image)[None].contiguous(memory_format=torch.channels_last)
    logits = network(x.to(next(network.parameters()).device))[0].float().cpu()
    labels = torch.from_numpy(mask)
    labels[labels == ignore_index] = NETWORK_IGNORE
    stride = labels.shape[0] // logits.shape[1]
    cells, pixels = logits[:, ::STRIDE, ::STRIDE], labels[:: STRIDE * stride, :: STRIDE * stride]
    return cells.flatten(1).T.contiguous(), pixels.flatten()
