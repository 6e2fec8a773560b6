"""How the nano models are made from nothing: `make nano`.

    images   single perspective images: what a click is
    videos   a camera that turns in steps of up to 45°: what memory is for
             → sam2_nano.pt, which stands in for SAM2's pretrained weights
    scan     the scan, with the encoder frozen, as SAM2 becomes SAP
             → sap_nano.pt

Each phase starts with the weights of the one before. All of it can be stopped and called again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sap_model.training.settings import TrainSettings
from sap_model.training.train import Watch, train


class Phase(NamedTuple):
    """A training run, and the file its result is given away as, if it is."""

    name: str
    settings: TrainSettings
    result: str | None = None


def phases(data: tuple[str, ...]) -> list[Phase]:
    """The recipe over shards of draft panoramas; CPU hours are those of one core."""
    images = TrainSettings(
        data=data,
        mix=(("crops", 1.0),),
        size="nano",
        image_size=128,
        checkpoint=None,
        crop_frames=1,
        crop_fov=(30.0, 70.0),  # 128 pixels for 53° are what 256 are for a view of the scan
        objects=6,
        min_pixels=16,
        batch=16,
        together=16,
        steps=3600,
        warmup=50,
        flat=0.2,
        lr=2e-3,
        last_lr=0.0,
        weight_decay=0.02,
        betas=(0.9, 0.98),
        optimizer="muon",
        clip=1.0,
        precision="float32",
        checkpointing=False,
        frozen=False,
        loss="from-nothing",
        true_presence=True,
        grouping=True,
        clicks=1.0,
        boxes=0.1,
        corrections=0,
    )
    return [Phase("images", images)]


def make(data: tuple[str, ...], run: Path, out: Path) -> None:
    """Run what is left of the recipe, and write the results as 16-bit files with a record each.

    Args:
        data: Folders of shards.
        run: Where the phases leave their runs.
        out: Where sam2_nano.pt, sap_nano.pt and nano.json go.
    """
    weights: str | None = None
    for phase in phases(data):
        settings = replace(phase.settings, checkpoint=weights)
        weights = str(
            train(
                settings,
                run / phase.name,
                Watch(log_every=50, save_every=200, validate_every=400, clips=8, workers=0),
            )
        )
