"""What a training run is: typed, strict settings, with the paper's numbers where it gives them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline import __version__
from pipeline.errors import UserError
from pipeline.mix import Mix, parse_mix
from pipeline.setting import Settings, setting
from sap_model.names import SIZE_HELP, Precision, Prompted, TrainedMethod

SOURCES = ("panoramas", "crops", "sa1b", "sav")
"""Where clips come from: the scan over our shards; perspective crops of them (the stand-in for
SAM2's own data at nano scale); SAM2's own data."""

MAX_OBJECTS = 8
"""Objects of one clip: their masks share bytes, a bit for each."""

WARMUP_STEPS = 300
"""Steps of the warm-up of a run of at least ten times as many."""


def share(default: float, help: str) -> Any:
    """Declare a share of 1 or a probability."""
    return setting(default, help=help, at_least=0, at_most=1)


@dataclass(frozen=True)
class TrainSettings(Settings):
    """All that decides which weights come out. Weights of `mix` are kept as shares of 1."""

    data: tuple[str, ...] = setting(
        (), help="folders or URLs of shards; their train split is trained on, validation watched"
    )
    sa1b: str | None = setting(None, help="folder of SA-1B, for the source sa1b")
    sav: str | None = setting(None, help="folder of SA-V, for the source sav")
    mix: Mix = setting(
        (("panoramas", 1.0),),
        parse=parse_mix,
        default_text="panoramas",
        help=f"how often each source is drawn ({', '.join(SOURCES)}): panoramas:2,sa1b:1",
    )
    method: TrainedMethod = setting(
        "sap", help="what the weights are for; decides the views of a panorama"
    )
    size: str = setting("large", help=SIZE_HELP)
    image_size: int = setting(
        0,
        help="side of the model's input, a multiple of 32",
        unit="pixels",
        at_least=0,
        default_text="the size's own",
    )
    checkpoint: str | None = setting(
        "official",
        help="weights to start from: a file, a Hub id, official, or none for fresh ones",
        parse=lambda text: None if text == "none" else text,
    )
    clip_objects: int = setting(
        6,
        name="objects",
        help="objects of a clip; they share its encoded images",
        at_least=1,
        at_most=MAX_OBJECTS,
    )
    clip_frames: int = setting(
        24,
        name="frames",
        help="frames of a clip: 24 are one cycle of the scan",
        at_least=1,
    )
    inference_prompt_fraction: float = share(
        0.5, help="share of clips of panoramas that are prompted as at inference"
    )
    prompted: Prompted = setting(
        "every", help="visits to a view that sees the click that are prompted, as at inference"
    )
    augment: bool = setting(
        True, help="turn, mirror and recolour panoramas, and SAM2's own data as SAM2 does it"
    )
    min_pixels: int = setting(
        64, help="pixels of an object, at least, in the view from which it is followed", at_least=1
    )
    batch_size: int = setting(
        128, name="batch", help="clips of a step, over all processes", at_least=1
    )
    micro_batch_size: int = setting(
        1,
        name="micro_batch",
        help="clips of one forward pass; as many as memory allows",
        at_least=1,
    )
    steps: int = setting(10_000, help="optimiser steps", at_least=1)
    warmup_steps: int | None = setting(
        None,
        help="steps over which the learning rate rises",
        at_least=0,
        default_text=f"{WARMUP_STEPS}, or a tenth of STEPS if that is less",
    )
    lr: float = setting(2e-4, help="peak learning rate", above=0)
    final_lr_fraction: float = share(0.1, help="share of LR at the end of the cosine (SAM2: 0.1)")
    hold_fraction: float = share(
        0.0, help="share of the steps at the full rate, after the warm-up, before the cosine"
    )
    betas: tuple[float, float] = setting((0.9, 0.999), help="of AdamW", at_least=0, below=1)
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw", help="muon is for the matrices of a model without pretrained weights"
    )
    weight_decay: float = setting(
        0.1, help="of AdamW; biases and norms have none, as in SAM2's configuration", at_least=0
    )
    max_grad_norm: float = setting(0.1, help="the gradient is scaled down to this norm", above=0)
    seed: int = setting(
        0,
        help="of fresh weights, the order of clips, and all prompts",
        at_least=0,
        at_most=2**31 - 1,
    )
    precision: Precision = setting("auto", help="auto takes bf16 on GPUs and float32 on CPUs")
    checkpointing: bool = setting(
        True, help="recompute activations in the backward pass: less memory, more time"
    )
    freeze_encoder: bool = setting(True, help="keep the image encoder as it is (the paper's way)")
    loss: Literal["sam2", "from-scratch"] = setting(
        "sam2", help="from-scratch is for a model without pretrained weights"
    )
    balanced_fraction: float = share(
        0.2, help="share of the steps after which LOSS=from-scratch is no longer balanced"
    )
    teacher_forced_presence: bool = setting(
        False, help="the truth decides whether an object is seen; for fresh models"
    )
    teacher_forced_memory: float = share(
        0.0, help="share of frames whose true masks go to the memory; for fresh models"
    )
    pixel_grouping_loss: bool = setting(
        False, help="a further loss that groups pixels of one object; for fresh models"
    )
    correction_clicks: int = setting(
        7, help="clicks that correct a frame on which SAM2's training corrects", at_least=0
    )
    point_probability: float = share(
        0.5, help="probability that SAM2's own prompts are clicks or a box, not a mask"
    )
    box_probability: float = share(0.5, help="probability that the first of them is a box")
    crop_frames: int = setting(1, help="frames of a clip of the source crops", at_least=1)
    crop_step: float = setting(
        0.0,
        help="how far the camera of the source crops turns between frames, at most",
        unit="degrees",
        at_least=0,
        below=180,
    )
    crop_fov: tuple[float, float] = setting(
        (40.0, 100.0),
        help="range of the field of view of the source crops",
        unit="degrees",
        above=0,
        below=180,
    )

    def __post_init__(self) -> None:
        from sap_model.model.build import STRIDE, default_image_size  # late: loads torch

        super().__post_init__()
        for name, weight in self.mix:
            if name not in SOURCES:
                raise UserError(f"MIX names {name}; choose from {', '.join(SOURCES)}")
            if not 0 < weight < float("inf"):
                raise UserError(
                    f"the weight {weight} of {name} in MIX is out of range; choose a positive "
                    "number"
                )
            if name in ("sa1b", "sav") and not getattr(self, name):
                raise UserError(
                    f"MIX names {name}, and its folder is not given; give {name.upper()}"
                )
            if name in ("panoramas", "crops") and not self.data:
                raise UserError("DATA is not given; name the folder of shards to train on")
        if len({name for name, _ in self.mix}) != len(self.mix) or not self.mix:
            raise UserError("MIX names no source or one twice; name each source once")
        total = sum(weight for _, weight in self.mix)
        object.__setattr__(self, "mix", tuple((n, round(w / total, 9)) for n, w in self.mix))
        for name, weight in self.mix:
            if not weight:
                raise UserError(f"the weight of {name} in MIX is too small; leave {name} out")
        object.__setattr__(self, "image_size", self.image_size or default_image_size(self.size))
        if self.image_size % (2 * STRIDE):
            raise UserError(
                f"IMAGE_SIZE={self.image_size} does not fit the model; choose a multiple of "
                f"{2 * STRIDE}"
            )
        if self.warmup > self.steps:
            raise UserError(
                f"WARMUP_STEPS={self.warmup} is more than STEPS={self.steps}; choose less"
            )
        if self.crop_fov[0] > self.crop_fov[1]:
            raise UserError(
                f"CROP_FOV={self.crop_fov[0]:g},{self.crop_fov[1]:g} is no range; give the smaller "
                "angle first"
            )
        if self.batch_size % self.micro_batch_size:
            raise UserError(
                f"BATCH={self.batch_size} is not a multiple of "
                f"MICRO_BATCH={self.micro_batch_size}; change one of them"
            )

    @property
    def warmup(self) -> int:
        """Steps over which the learning rate rises."""
        if self.warmup_steps is None:
            return min(WARMUP_STEPS, self.steps // 10)
        return self.warmup_steps

    def chunks(self, world: int) -> int:
        """Forward passes of each of `world` processes in a step.

        Raises:
            UserError: The batch cannot be divided among them.
        """
        parts = self.batch_size // self.micro_batch_size
        if parts % world:
            raise UserError(
                f"BATCH={self.batch_size} cannot be divided among {world} processes with "
                f"MICRO_BATCH={self.micro_batch_size}; choose a multiple of "
                f"{self.micro_batch_size * world}"
            )
        return parts // world


@dataclass(frozen=True)
class Watch(Settings):
    """How a run is watched and kept. Changes nothing about the weights but which are best."""

    log_every: int = setting(10, help="steps between lines of progress", at_least=1)
    save_every: int = setting(200, help="steps between kept states", at_least=1)
    validate_every: int = setting(500, help="steps between validations", at_least=1)
    clips: int = setting(
        16, name="validation_clips", help="fixed validation clips; 0 validates nothing", at_least=0
    )
    frames: int = setting(24, name="validation_frames", help="frames of each of them", at_least=1)
    panoramas: int = setting(
        4,
        name="validation_panoramas",
        help="validation panoramas on which masks are predicted after one click",
        at_least=0,
    )
    panorama_objects: int = setting(
        8, name="validation_objects", help="objects of each of them, at most", at_least=1
    )
    workers: int = setting(
        min(4, os.cpu_count() or 1),
        help="processes that make clips",
        at_least=0,
        default_text="4, or the number of CPUs if that is less",
    )


@dataclass(frozen=True)
class Scored(Settings):
    """What is scored of the validation split for the ablations."""

    objects: int | None = setting(
        None,
        help="objects scored on each panorama, at most: evenly spaced by area",
        at_least=1,
        default_text="all",
    )
    limit: int | None = setting(
        None,
        help="panoramas scored of each folder, at most: evenly spaced ones",
        at_least=1,
        default_text="all",
    )
    clicks: int = setting(
        1, help="rounds of the protocol; the paper's ablations have 1", at_least=1
    )


def to_json(settings: TrainSettings) -> dict[str, Any]:
    """As plain JSON types, for checkpoints and records."""
    return json.loads(json.dumps(asdict(settings)))


def settings_hash(settings: TrainSettings) -> str:
    """Twelve hex digits that stand for the settings and our version."""
    text = json.dumps(to_json(settings) | {"version": __version__}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
