"""The network: a Lite backbone under a feature pyramid, all of it convolutions that TensorRT runs in INT8.

Source: Feature Pyramid Networks (Lin et al., CVPR 2017); for the backbone see there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.train.backbone import ConvNorm, Lite
from edgeseg.train.sizes import SIZES, Scale, Size


class Pyramid(nn.Module):
    """Top-down pyramid: each level is projected to `width` channels and added to the upsampled level below it.

    Every level ends in a 3x3 convolution to `width` channels, the finest in one to `fine`: at a quarter of the
    input's resolution it is the costliest of the whole network.
    """

    def __init__(self, channels: Sequence[int], width: int, fine: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([ConvNorm(c, width, 1) for c in channels])
        widths = [fine] + [width] * (len(channels) - 1)
        self.smooth = nn.ModuleList([ConvNorm(width, outputs, 3, act=nn.ReLU()) for outputs in widths])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return (N, fine, H/4, W/4) and (N, width, H/s, W/s) at the coarser strides, as the features came."""
        levels: list[Tensor] = []
        for lateral, smooth, feature in zip(
            reversed(list(self.lateral)), reversed(list(self.smooth)), reversed(list(features)), strict=True
        ):
            x = lateral(feature)
            if levels:
                x = x + F.interpolate(levels[0], scale_factor=2.0, mode="bilinear", align_corners=False)
            levels.insert(0, smooth(x))
        return levels


class SegmentationNetwork(nn.Module):
    """Lite backbone, pyramid and a classifier that gives each cell of stride 4 its four quarters.

    (N, 3, H, W) float RGB normalised by (x - 127) / 128, H and W multiples of 32 → (N, classes, H/2, W/2) logits.
    The classifier predicts a stride of 2 from features at 4 (sub-pixel convolution, Shi et al., CVPR 2016): thin
    things survive, and nothing is computed at the finer resolution but the argmax.
    """

    def __init__(self, classes: int, *, size: Size | Scale = "small", dropout: float = 0.1) -> None:
        super().__init__()
        chosen = size if isinstance(size, Scale) else SIZES[size]
        self.backbone = Lite(
            lite=chosen.lite,
            stages=chosen.stages,
            trimmed=chosen.trimmed,
            dense_stem=chosen.dense_stem,
            fused=chosen.fused,
        )
        self.pyramid = Pyramid(self.backbone.channels, chosen.width, chosen.fine)
        self.dropout = dropout
        self.classifier = nn.Conv2d(chosen.fine, 4 * classes, 1)
        with torch.no_grad():  # quarters begin alike (Aitken et al., 2017): what one learns of a class, all do
            for parameter in self.classifier.parameters():
                parameter.copy_(parameter[::4].repeat_interleave(4, dim=0))
        self.auxiliary = nn.Conv2d(chosen.width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self._classify(self.pyramid(self.backbone(x))[0])

    def forward_training(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and an auxiliary head's at stride 16: (N, classes, H/2, W/2), (N, classes, H/16, W/16).

        `kept` is what `draw_kept` gave for these samples.
        """
        levels = self.pyramid(self.backbone(x))
        return self._classify(levels[0] * kept[:, :, None, None]), self.auxiliary(levels[2])

    def draw_kept(self, seeds: Sequence[int]) -> Tensor:
        """What dropout leaves of the finest level's channels, (N, fine) float32: drawn for each sample by its own seed,
        so that it does not depend on what else is in the batch. 0, or 1 / (1 - dropout).
        """
        kept = [
            torch.rand(self.classifier.in_channels, generator=torch.Generator().manual_seed(seed)) >= self.dropout
            for seed in seeds
        ]
        return torch.stack(kept).float() / (1 - self.dropout)

    def _classify(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.classifier(x), 2)


def mask_of(logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Class indices (N, H, W) float32 from (N, classes, h, w) logits, at `size_hw`.

    The argmax is taken at the logits' own stride and its outcome enlarged: at stride 2 that costs a quarter. Twice as
    large, slanting outlines are smoothed (`enlarge_mask`); otherwise each pixel gets the nearest cell.
    """
    mask = logits.argmax(dim=1, keepdim=True).to(torch.float32)
    height, width = mask.shape[2:]
    if size_hw == (2 * height, 2 * width):
        mask = enlarge_mask(mask)
    elif size_hw != (height, width):
        mask = F.interpolate(mask, size=size_hw, mode="nearest")
    return mask.squeeze(1)


def enlarge_mask(mask: Tensor) -> Tensor:
    """(N, 1, h, w) class indices → (N, 1, 2h, 2w): a quarter of a cell whose two neighbours agree takes their class.

    So a slanting outline gets steps of half the size, nearly as if scores were interpolated before the argmax, at the
    price of a few comparisons of masks. Scale2x (Mazzoleni, 2001) without its two other conditions.
    """
    above = torch.cat([mask[:, :, :1], mask[:, :, :-1]], dim=2)
    below = torch.cat([mask[:, :, 1:], mask[:, :, -1:]], dim=2)
    left = torch.cat([mask[..., :1], mask[..., :-1]], dim=3)
    right = torch.cat([mask[..., 1:], mask[..., -1:]], dim=3)
    corners = ((above, left), (above, right), (below, left), (below, right))
    quarters = [torch.where(one == other, one, mask) for one, other in corners]
    return F.pixel_shuffle(torch.cat(quarters, dim=1), 2)


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch norm of `module`, which must be in eval mode, into the convolution before it. In place."""
    for layer in module.modules():
        if isinstance(layer, ConvNorm):
            layer.fold()


@torch.no_grad()
def swap_colours(network: nn.Module) -> bool:
    """Swap the channels of the first convolution's weights, in place: RGB for BGR, and back again.

    Returns whether there was a convolution over three channels.
    """
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    first = next((module for module in convolutions if module.in_channels == 3 and module.groups == 1), None)
    if first is not None:
        first.weight.copy_(first.weight.flip(1))
    return first is not None
