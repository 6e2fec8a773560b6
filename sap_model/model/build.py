"""Building SAM2.1 in one of its sizes, and in one of ours. Weights are loaded by `checkpoints`.

tiny, small, base_plus and large are what the `sam2` package's own configuration files say. nano is
ours (`configs/sam2.1_lite0_nano.yaml`), for CPUs and tests.

No size's weights depend on the input size, so that every size can be built for any
`image_size` that is a multiple of 32. Unless told otherwise it is the one that weights of that size
were made for: 1024 for the official ones, 256 for nano's.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from sam2.modeling.sam.transformer import Attention, TwoWayTransformer
from sam2.modeling.sam2_base import SAM2Base

from pipeline.errors import UserError
from sap_model.model.lite0 import STAGES, STEM, Lite0

CONFIGS = {
    "nano": ("sap_model.model", "configs/sam2.1_lite0_nano.yaml"),
    "tiny": ("sam2", "configs/sam2.1/sam2.1_hiera_t.yaml"),
    "small": ("sam2", "configs/sam2.1/sam2.1_hiera_s.yaml"),
    "base_plus": ("sam2", "configs/sam2.1/sam2.1_hiera_b+.yaml"),
    "large": ("sam2", "configs/sam2.1/sam2.1_hiera_l.yaml"),
}
"""Size: the package and the file in it that describe it."""

SIZES = tuple(CONFIGS)

OFFICIAL_IMAGE_SIZE = 1024
"""Side of the input in pixels that SAM2's weights were trained at; also for YAML files."""

IMAGE_SIZES = {"nano": 256}
"""Size: side of the input unless told otherwise, where it is not SAM2's own."""

PREDICTOR = "sap_model.model.tracker.ScanTracker"
"""The class that `build` makes unless told otherwise."""

STRIDE = 16
"""Pixels of the input per pixel of the features that memory works on (SAM2's backbone_stride)."""

TARGETS = ("sam2.modeling.", "sam2.sam2_video_predictor.", "sap_model.", "training.model.")
"""Where classes that a configuration names may come from: it may be a stranger's."""

LITE0 = f"{Lite0.__module__}.{Lite0.__name__}"
"""How a configuration names the nano's trunk."""

CLEAR_MATCH = 1.5
"""Square of the scale of a nano decoder's tied query and key weights at the start: a token that
matches a place then has a logit of about 6 there. Measured on 128 × 128 images."""

CLEAR_MEMORY = 2.0
"""The same for what a frame looks for in memories."""

FAST_TURNS = 12
"""Of 32 rotary frequencies, those that turn by more than about 2° from one place to the next."""


def read_config(size: str) -> DictConfig:
    """The configuration of a size of `SIZES`, or of a YAML file laid out like SAM2's own.

    Raises:
        UserError: There is no such size or file, or the file has no `model`.
    """
    if size in CONFIGS:
        package, name = CONFIGS[size]
        text = files(package).joinpath(name).read_text()
    elif Path(size).is_file():
        text = Path(size).read_text()
    else:
        raise UserError(f"model size {size!r}: choose one of {', '.join(SIZES)}, or a YAML file")
    try:
        config = OmegaConf.create(text)
    except Exception as error:  # of the YAML parser
        reason = (str(error).splitlines() or ["no message"])[0]
        raise UserError(f"{size} is no YAML file: {reason}") from None
    if not isinstance(config, DictConfig) or "model" not in config:
        raise UserError(f"{size} does not describe a model: it has no `model:` at its top level")
    _refuse_foreign(OmegaConf.to_container(config), size)
    return config


def _refuse_foreign(node: Any, size: str) -> None:
    """A configuration names classes that are called: none but those of models may be."""
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and not str(target).startswith(TARGETS):
            raise UserError(f"{size} names {target}, which is no part of a model: refused")
        for part in node.values():
            _refuse_foreign(part, size)
    elif isinstance(node, list):
        for part in node:
            _refuse_foreign(part, size)


def build(
    size: str,
    image_size: int | None = None,
    target: str = PREDICTOR,
    seed: int = 0,
    **options: Any,
) -> SAM2Base:
    """A model with fresh weights, on the CPU, in evaluation mode.

    Args:
        size: One of `SIZES`, or the path of a YAML file.
        image_size: Side S of the square input in pixels, a multiple of 32; `default_image_size`
            unless told otherwise.
        target: Dotted name of the class, `SAM2Base` or below; for training "training.model.sam2
            .SAM2Train" or a subclass. All give state dicts that fit each other.
        seed: Of the fresh weights. The global random state is left as it was.
        options: Arguments of the class beyond the configuration's, or other values for its.

    Raises:
        UserError: The size or image_size does not exist.
    """
    if image_size is None:
        image_size = default_image_size(size)
    if image_size < 32 or image_size % 32:
        raise UserError(f"image_size {image_size}: choose a multiple of 32, such as 1024 or 256")
    config = read_config(size)
    model = config.model
    model._target_ = target
    model.image_size = image_size
    for attention in ("self_attention", "cross_attention"):
        model.memory_attention.layer[attention].feat_sizes = [image_size // STRIDE] * 2
    # what `sam2.build_sam` switches on for prediction; neither acts while a model trains. Its third
    # setting, to fill small holes, needs SAM2's CUDA extension, which is not installed here
    model.binarize_mask_from_pts_for_mem_enc = True
    if model.get("multimask_output_in_sam"):
        stability = {"via_stability": True, "stability_delta": 0.05, "stability_thresh": 0.98}
        model.sam_mask_decoder_extra_args = {
            f"dynamic_multimask_{name}": value for name, value in stability.items()
        }
    model.update(options)
    OmegaConf.resolve(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: SAM2Base = instantiate(model)
        if "decoder" in config:
            decoder: Any = OmegaConf.to_container(config.decoder)
            _widen_decoder(network, **decoder)
            _match_memories(network)
    return network.eval()


def default_image_size(size: str) -> int:
    """Side of the square input in pixels of a size of `SIZES` or a YAML file.

    >>> default_image_size("nano"), default_image_size("mine.yaml")
    (256, 1024)
    """
    return IMAGE_SIZES.get(size, OFFICIAL_IMAGE_SIZE)


def signature(size: str) -> tuple[int, int]:
    """Channels of the image encoder's first layer and number of its blocks: both differ by size."""
    trunk = read_config(size).model.image_encoder.trunk
    if trunk._target_ == LITE0:
        return STEM, len(STAGES)
    # Hiera's own default, which the base_plus configuration leaves as it is
    return trunk.embed_dim, sum(trunk.get("stages", (2, 3, 16, 3)))


def _widen_decoder(network: SAM2Base, **arguments: Any) -> None:
    """Give the mask decoder another two-way transformer, one that can be trained from scratch.

    In every attention between tokens and image, queries and keys start with one and the same
    orthogonal weight, so that a click's position code matches the image's from the first step. With
    independent weights a thin decoder does not learn where the click is.
    """
    width = network.hidden_dim
    transformer = TwoWayTransformer(depth=2, embedding_dim=width, **arguments)
    crossings: list[Attention] = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        crossings += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in crossings:
        torch.nn.init.orthogonal_(attention.q_proj.weight, gain=CLEAR_MATCH**0.5)
        attention.k_proj.weight.data.copy_(attention.q_proj.weight.data)
        torch.nn.init.zeros_(attention.q_proj.bias)
        torch.nn.init.zeros_(attention.k_proj.bias)
    network.sam_mask_decoder.transformer = transformer
    trunk = network.image_encoder.trunk
    if hasattr(trunk, "pos_embed"):  # SAM2 starts it at zero and counts on pretrained weights
        torch.nn.init.trunc_normal_(trunk.pos_embed, std=0.2)


def _match_memories(network: SAM2Base) -> None:
    """Let a frame find its own contents in the memories of other frames from the first step.

    A memory is the sum of image features and an embedding of the mask, narrowed to a few channels.
    Here the narrowing starts as a rotation cut off, and queries and keys of the attention to
    memories start as the same projection of the same features, into channels that the rotary
    position code turns slowly: what looks similar matches, wherever it has moved to. With
    independent weights a thin model does not learn within hours to carry a mask to the next view.
    """
    encoder, width, memory = network.memory_encoder, network.hidden_dim, network.mem_dim
    narrowing = torch.linalg.qr(torch.randn(width, width))[0][:memory]
    with torch.no_grad():
        encoder.pix_feat_proj.weight.copy_(torch.eye(width)[:, :, None, None])
        encoder.out_proj.weight.copy_(narrowing[:, :, None, None])
        encoder.pix_feat_proj.bias.zero_()
        encoder.out_proj.bias.zero_()
        # rotary codes: pairs of channels, a quarter of the width for each axis, fast ones first
        pairs = width // 4
        slow = [
            2 * (axis * pairs + k) + part
            for axis in (0, 1)
            for k in range(FAST_TURNS * pairs // 32, pairs)
            for part in (0, 1)
        ]
        contents = 3 * memory // 4  # the rest is left to the mask
        for layer in network.memory_attention.layers:
            attention = layer.cross_attn_image
            keys = torch.zeros(width, memory)
            keys[slow, :contents] = torch.linalg.qr(torch.randn(len(slow), contents))[0]
            keys *= CLEAR_MEMORY**0.5
            attention.k_proj.weight.copy_(keys)
            attention.q_proj.weight.copy_(keys @ narrowing)
            attention.k_proj.bias.zero_()
            attention.q_proj.bias.zero_()
