"""Shards of small panoramas of discs, in both splits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.layout import RunFolder
from pipeline.shards.writer import pack
from sap_model.model.build import build
from sap_model.train.settings import TrainSettings
from tests.synthetic import SETTINGS, finish_scene


@pytest.fixture(scope="session")
def packed(tmp_path_factory) -> Callable[[float], Path]:
    """Packs the same four scenes of two panoramas, 256 × 128, with a share for validation."""
    run = RunFolder(tmp_path_factory.mktemp("trained"))
    for seed in range(4):
        finish_scene(run, seed=seed)

    def make(validation: float) -> Path:
        folder = tmp_path_factory.mktemp("shards")
        pack(run, SETTINGS, validation_fraction=validation)
        return shutil.copytree(run.shards, folder, dirs_exist_ok=True)

    return make


@pytest.fixture(scope="session")
def shards(packed) -> Path:
    """Four panoramas to train on and four to watch."""
    return packed(0.5)


@pytest.fixture(scope="session")
def settings(packed, tmp_path_factory) -> TrainSettings:
    """Two clips a step, from weights in a file, all of which the command line can say too."""
    weights = tmp_path_factory.mktemp("fresh") / "nano.pt"
    torch.save({"model": build("nano", 64, seed=1).state_dict()}, weights)
    return TrainSettings(
        data=(str(packed(0.0)),),
        size="nano",
        image_size=64,
        checkpoint=str(weights),
        clip_objects=2,
        clip_frames=3,
        batch_size=2,
        steps=4,
        lr=1e-3,
        min_pixels=16,
    )
