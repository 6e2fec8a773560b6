"""Small models with fresh weights whose answers vary, for tests that need no trained one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sap_model.model.build import build
from sap_model.model.lite0 import SmoothNeck
from sap_model.model.tracker import DEVIATION, MEAN, ScanTracker
from tests.synthetic import disc_ids, picture

WIDTH = 256
"""Of the panoramas, in pixels: their 45° are 32 whole columns."""

SOME, NONE = 0.25, -100.0
"""Biases at which nano misses the object in some frames and in all of them."""


def panorama(turn: float = 0.0) -> NDArray[np.uint8]:
    """A picture (WIDTH / 2, WIDTH, 3) of discs."""
    return picture(disc_ids(WIDTH, turn), seed=0)


def responsive(size: str = "nano", image_size: int = 64, presence: float = 2.0) -> ScanTracker:
    """A model whose masks depend on image and clicks more than fresh weights' would.

    Fresh weights give logits of about 0.1, nearly the same everywhere. Here the image's fine
    features and the mask's weights are scaled up, and logits are moved to both sides of 0.

    Args:
        size, image_size: See `build`.
        presence: Bias of the object score: the object is seen in all frames, or in SOME or NONE.
    """
    model = build(size, image_size)
    decoder = model.sam_mask_decoder
    offset = 3.0
    with torch.no_grad():
        if isinstance(model.image_encoder.neck, SmoothNeck):
            _standardise(model.image_encoder)
            offset = -2.5
            model.sam_prompt_encoder.mask_downscaling[-1].weight *= 10
        for convolution in (decoder.conv_s0, decoder.conv_s1):
            convolution.weight *= 4
        # one channel of the mask's features becomes the constant gelu(1) = 0.84, so that the
        # bias of its weight shifts all logits
        upscaling = decoder.output_upscaling[3]
        upscaling.weight[:, 0], upscaling.bias[0] = 0, 1
        decoder.conv_s0.weight[0], decoder.conv_s0.bias[0] = 0, 0
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 20
            head.layers[-1].weight[0], head.layers[-1].bias[0] = 0, offset
        # looking at memory changes more than it would
        for layer in model.memory_attention.layers:
            layer.cross_attn_image.out_proj.weight *= 4
        decoder.pred_obj_score_head.layers[-1].weight *= 4
        decoder.pred_obj_score_head.layers[-1].bias.fill_(presence)
    assert isinstance(model, ScanTracker)
    return model


def _standardise(encoder: nn.Module, deviation: float = 0.15) -> None:
    """Give the levels of a fresh nano's features mean 0 and a common deviation on `panorama`.

    Without training or statistics of batches, its trunk's features hardly depend on the image.
    """
    image = torch.from_numpy(panorama()[:, : WIDTH // 2]).permute(2, 0, 1)[None] / 255.0
    shown = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    for lateral, features in zip(encoder.neck.lateral, encoder.trunk(shown), strict=True):
        level = lateral(features)
        scale = deviation / level.std(dim=(0, 2, 3)).mean()
        lateral.weight *= scale
        lateral.bias -= level.mean(dim=(0, 2, 3))
        lateral.bias *= scale
