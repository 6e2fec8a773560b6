"""How the nano models are made from scratch: `make nano`.

    images   single perspective images: what a click is
    videos   a camera that turns by up to 20° a frame: what memory is for
    wider    wider angles and larger turns: what is small, and what is gone
    views    single images again, as wide as the scan's: most of the computation
    turns    the camera again
    sharp    single images with twice the pixels along an edge
    pans     the camera, with as many pixels
    sharper, pans-again
             the last two again, with other clips
             → sam2_nano.pt, which stands in for SAM2's pretrained weights
    scan     the scan, with the encoder frozen, as SAM2 becomes SAP
             → sap_nano.pt

Most is learnt at 128 × 128 pixels, at a quarter of the work. But half of the objects of a room
cover less than 64 pixels of such a view: the last phases, and the weights, are for 256 × 256.

Each phase is a separate training run and starts with the weights of the one before. All of it can
be stopped and called again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline import __version__
from pipeline.layout import read_json, write_json
from sap_model.model import checkpoints as weights_files
from sap_model.model.build import default_image_size
from sap_model.train.run_folder import export
from sap_model.train.scan_clips import ShardRows
from sap_model.train.settings import TrainSettings, Watch, to_json
from sap_model.train.train import train

WATCH = Watch(log_every=50, save_every=50, validate_every=100, clips=8, workers=0)
"""Nothing is gained by loader processes: a crop takes a millisecond."""


class Phase(NamedTuple):
    """A training run, and the file that its weights are given away as, if they are."""

    name: str
    settings: TrainSettings
    result: str | None = None


def phases(data: tuple[str, ...]) -> list[Phase]:
    """The recipe, over shards of panoramas of any width from 1024 pixels."""
    images = TrainSettings(
        data=data,
        mix=(("crops", 1.0),),
        size="nano",
        image_size=128,
        checkpoint=None,
        crop_frames=1,
        crop_fov=(30.0, 70.0),  # closer than the scan: objects are larger
        clip_objects=6,
        min_pixels=16,
        batch_size=16,
        micro_batch_size=16,
        steps=2400,
        warmup_steps=50,
        hold_fraction=0.3,
        balanced_fraction=0.3,
        lr=2e-3,
        final_lr_fraction=0.0,
        weight_decay=0.02,
        betas=(0.9, 0.98),
        optimizer="muon",
        max_grad_norm=1.0,
        precision="float32",
        checkpointing=False,
        freeze_encoder=False,
        loss="from-scratch",
        teacher_forced_presence=True,
        pixel_grouping_loss=True,
        point_probability=1.0,
        box_probability=0.1,
        correction_clicks=0,
    )
    videos = replace(
        images,
        crop_frames=3,
        crop_step=20.0,
        batch_size=6,
        micro_batch_size=6,
        steps=350,
        balanced_fraction=0.0,
        lr=1e-3,
        teacher_forced_memory=0.7,
        correction_clicks=1,
    )
    wider = replace(
        videos, crop_fov=(50.0, 100.0), crop_step=60.0, teacher_forced_memory=0.5, steps=300
    )
    views = replace(images, crop_fov=(40.0, 100.0), lr=1.5e-3, steps=4000)
    turns = replace(wider, steps=800)
    sharp = replace(
        views,
        image_size=256,
        batch_size=8,
        micro_batch_size=8,
        steps=1300,
        balanced_fraction=0.0,
        warmup_steps=20,
    )
    pans = replace(
        turns,
        image_size=256,
        min_pixels=64,
        micro_batch_size=3,
        steps=400,
        warmup_steps=10,
        hold_fraction=0.2,
    )
    sharper = replace(
        sharp, micro_batch_size=4, steps=1800, hold_fraction=0.6, final_lr_fraction=0.2, seed=3
    )
    pans_again = replace(pans, lr=6e-4, seed=4)
    scan = replace(
        pans_again,
        mix=(("panoramas", 3.0), ("crops", 1.0)),
        clip_objects=8,
        clip_frames=10,
        inference_prompt_fraction=0.75,
        batch_size=2,
        micro_batch_size=1,
        steps=240,
        hold_fraction=0.3,
        lr=8e-4,
        seed=5,
        freeze_encoder=True,
        teacher_forced_memory=0.3,
        pixel_grouping_loss=False,
    )
    return [
        Phase("images", images),
        Phase("videos", videos),
        Phase("wider", wider),
        Phase("views", views),
        Phase("turns", turns),
        Phase("sharp", sharp),
        Phase("pans", pans),
        Phase("sharper", sharper),
        Phase("pans-again", pans_again, "sam2-nano"),
        Phase("scan", scan, "sap-nano"),
    ]


def make(data: Sequence[str], run: Path, out: Path) -> None:
    """Do what is left of the recipe, and write its results.

    Args:
        data: Folders of shards.
        run: Where the phases have their runs.
        out: Where the weights go, in 16 bits, each with a record of how it was made.
    """
    weights: Path | None = None
    done: list[dict[str, Any]] = []
    for phase in phases(tuple(data)):
        settings = replace(phase.settings, checkpoint=None if weights is None else str(weights))
        folder = run / phase.name
        record = folder / "data.json"  # shards may grow between the phases of a long recipe
        if not record.is_file():
            write_json(record, contents(data))
        weights = train(settings, folder, WATCH)
        about = to_json(settings)
        for where in ("data", "checkpoint", "sa1b", "sav"):  # paths of this machine
            del about[where]
        done.append({"phase": phase.name, "settings": about, **read_json(record)})
        if phase.result is not None:
            give_away(weights, out / weights_files.SHIPPED[phase.result], done)


def contents(data: Sequence[str]) -> dict[str, Any]:
    """What shards hold, told from their annotations: scenes and panoramas to train on."""
    rows = ShardRows(data, "train")
    return {"panoramas": len(rows), "scenes": sorted(rows.scenes()), "version": __version__}


def give_away(weights: Path, path: Path, phases: list[dict[str, Any]]) -> None:
    """Store weights in 16 bits, and beside them how they were made."""
    network = weights_files.load("nano", weights, default_image_size("nano"), "cpu")
    export(network, path, torch.float16)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record = {"file": path.name, "sha256": digest, "bytes": path.stat().st_size, "phases": phases}
    write_json(path.with_suffix(".json"), record)
