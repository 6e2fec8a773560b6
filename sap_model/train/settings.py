"""What a training run is: typed, strict settings, with the paper's numbers where it gives them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline import __version__
from pipeline.errors import UserError
from sap_model.model.build import STRIDE, default_image_size
from sap_model.predict.methods import METHODS
from sap_model.train.clip import MAX_OBJECTS

SOURCES = ("panoramas", "crops", "sa1b", "sav")
"""Where clips come from: the scan over our shards; perspective crops of them (the stand-in for
SAM2's own data at nano scale); SAM2's own data."""

TRAINED = tuple(name for name, about in METHODS.items() if about.weights == "fine-tuned")
"""Methods that have weights of their own, which is what is trained for: sap, and the ablations."""

Precision = Literal["auto", "bf16", "float32"]


@dataclass(frozen=True)
class TrainSettings:
    """All that decides which weights come out.

    Attributes:
        data: Folders or URLs of shards; their `train` split is trained on, `validation` watched.
        sa1b, sav: Folders of SAM2's own data, for the sources of these names.
        mix: (source, weight) pairs: how often each is drawn. Kept as shares of 1.
        method: What the weights are for, one of `TRAINED`; decides the views of a panorama.
        size, image_size: Of the model, as in `sap_model.model.build`; 0 is the size's own.
        checkpoint: Weights to start from: a file, a Hub id or "official"; None for fresh ones.
        clip_objects: Objects of a clip (K), which share its encoded images.
        clip_frames: Frames of a clip (T): 24 is one cycle, 48 the paper's two.
        inference_prompt_fraction: Share of clips of panoramas that are prompted as at inference.
        min_pixels: Pixels that an object has at least in the view from which it is followed.
        batch_size: Clips per step, over all processes (the paper's 128).
        micro_batch_size: Clips of one forward pass; as many as memory allows.
        steps: Optimiser steps.
        warmup_steps: Steps over which the learning rate rises.
        lr: Peak learning rate.
        final_lr_fraction: Share of `lr` at the end of the cosine (SAM2: a tenth).
        hold_fraction: Share of the steps after the warm-up, before the cosine, at the full rate.
        betas: Of AdamW.
        optimizer: "adamw", or "muon" for the matrices of a model without pretrained weights.
        weight_decay: Of AdamW; biases and norms have none, as in SAM2's configuration.
        max_grad_norm: The gradient is scaled down to this norm.
        seed: Of fresh weights, the order of clips, and all prompts.
        precision: bf16 on GPUs and float32 on CPUs, or one of them.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        freeze_encoder: Keep the image encoder (the paper's way). Without, everything is trained.
        loss: "sam2", or "from-scratch" for a model without pretrained weights.
        balanced_fraction: Share of the steps after which the loss "from-scratch" is no longer
            balanced.
        teacher_forced_presence, teacher_forced_memory, pixel_grouping_loss: See `SapTrain`; for
            models without pretrained weights.
        correction_clicks: Clicks that correct a frame on which SAM2's training corrects (SAM2: 7).
        point_probability: Probability that a clip with SAM2's own prompts gets clicks or boxes
            rather than a mask (SAM2: 0.5).
        box_probability: Probability that its first click is a box (SAM2: 0.5).
        crop_frames, crop_step, crop_fov: Of the source "crops".
    """

    data: tuple[str, ...] = ()
    sa1b: str | None = None
    sav: str | None = None
    mix: tuple[tuple[str, float], ...] = (("panoramas", 1.0),)
    method: str = "sap"
    size: str = "large"
    image_size: int = 0
    checkpoint: str | None = "official"
    clip_objects: int = 6
    clip_frames: int = 24
    inference_prompt_fraction: float = 0.5
    min_pixels: int = 64
    batch_size: int = 128
    micro_batch_size: int = 1
    steps: int = 10_000
    warmup_steps: int = 0
    lr: float = 2e-4
    final_lr_fraction: float = 0.1
    hold_fraction: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.1
    max_grad_norm: float = 0.1
    seed: int = 0
    precision: Precision = "auto"
    checkpointing: bool = True
    freeze_encoder: bool = True
    loss: Literal["sam2", "from-scratch"] = "sam2"
    balanced_fraction: float = 0.2
    teacher_forced_presence: bool = False
    teacher_forced_memory: float = 0.0
    pixel_grouping_loss: bool = False
    correction_clicks: int = 7
    point_probability: float = 0.5
    box_probability: float = 0.5
    crop_frames: int = 1
    crop_step: float = 0.0
    crop_fov: tuple[float, float] = (40.0, 100.0)

    def __post_init__(self) -> None:
        for name, weight in self.mix:
            if name not in SOURCES:
                raise UserError(f"MIX names {name!r}; choose from {', '.join(SOURCES)}")
            if not 0 < weight < float("inf"):
                raise UserError(f"the weight of {name} in MIX must be positive, not {weight}")
            if name in ("sa1b", "sav") and not getattr(self, name):
                raise UserError(f"MIX names {name}: give its folder as {name.upper()}=")
            if name in ("panoramas", "crops") and not self.data:
                raise UserError("no shards to train on: give their folder as DATA=")
        if len({name for name, _ in self.mix}) != len(self.mix) or not self.mix:
            raise UserError("MIX must name at least one source, and none of them twice")
        total = sum(weight for _, weight in self.mix)
        object.__setattr__(self, "mix", tuple((n, round(w / total, 9)) for n, w in self.mix))
        for name, weight in self.mix:
            if not weight:
                raise UserError(f"the weight of {name} in MIX is too small beside the others")
        if self.method not in TRAINED:
            raise UserError(f"METHOD {self.method!r}: choose from {', '.join(TRAINED)}")
        if not 1 <= self.clip_objects <= MAX_OBJECTS:
            raise UserError(
                f"CLIP_OBJECTS must be from 1 to {MAX_OBJECTS}, not {self.clip_objects}"
            )
        object.__setattr__(self, "image_size", self.image_size or default_image_size(self.size))
        if self.image_size < 1 or self.image_size % (2 * STRIDE):
            raise UserError(f"IMAGE_SIZE {self.image_size}: choose a multiple of {2 * STRIDE}")
        for name in (
            "clip_frames",
            "batch_size",
            "micro_batch_size",
            "steps",
            "min_pixels",
            "crop_frames",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name.upper()} must be at least 1, not {getattr(self, name)}")
        for name in (
            "inference_prompt_fraction",
            "final_lr_fraction",
            "hold_fraction",
            "balanced_fraction",
            "teacher_forced_memory",
            "point_probability",
            "box_probability",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name.upper()} must be from 0 to 1, not {getattr(self, name)}")
        for name in ("lr", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name.upper()} must be positive, not {getattr(self, name)}")
        if self.correction_clicks < 0:
            raise UserError(f"CORRECTION_CLICKS must not be negative: {self.correction_clicks}")
        if not 0 <= self.warmup_steps <= self.steps or not 0 <= self.weight_decay < float("inf"):
            raise UserError("WARMUP_STEPS must be from 0 to STEPS, and WEIGHT_DECAY not negative")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"BETAS must be from 0 to less than 1, not {self.betas}")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"SEED must be from 0 to {2**31 - 1}, not {self.seed}")
        if not 0 <= self.crop_step < 180 or not 0 < self.crop_fov[0] <= self.crop_fov[1] < 180:
            raise UserError(
                "CROP_STEP must be from 0 to less than 180 degrees, and CROP_FOV a range within 0 "
                f"to 180, not {self.crop_step} and {self.crop_fov}"
            )
        if self.precision not in ("auto", "bf16", "float32"):
            raise UserError(f"PRECISION {self.precision!r}: choose auto, bf16 or float32")
        if self.loss not in ("sam2", "from-scratch"):
            raise UserError(f"LOSS {self.loss!r}: choose sam2 or from-scratch")
        if self.optimizer not in ("adamw", "muon"):
            raise UserError(f"OPTIMIZER {self.optimizer!r}: choose adamw or muon")
        if self.batch_size % self.micro_batch_size:
            raise UserError(
                f"BATCH_SIZE {self.batch_size} is no multiple of MICRO_BATCH_SIZE "
                f"{self.micro_batch_size}"
            )

    def chunks(self, world: int) -> int:
        """Forward passes of each of `world` processes in a step.

        Raises:
            UserError: The batch cannot be divided among them.
        """
        share = self.batch_size // self.micro_batch_size
        if share % world:
            raise UserError(
                f"BATCH_SIZE {self.batch_size} in parts of {self.micro_batch_size} cannot be split "
                f"among {world} processes: choose a multiple of {self.micro_batch_size * world}"
            )
        return share // world


def to_json(settings: TrainSettings) -> dict[str, Any]:
    """As plain JSON types, for checkpoints and records."""
    return json.loads(json.dumps(asdict(settings)))


def settings_hash(settings: TrainSettings) -> str:
    """Twelve hex digits that stand for the settings and our version."""
    text = json.dumps(to_json(settings) | {"version": __version__}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
