"""Shards of a few small panoramas, and weights for a nano model that knows nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.layout import RunFolder
from pipeline.shards.writer import pack
from sap_model.evaluate.eval_settings import EvalSettings
from tests.sap_model.models import responsive
from tests.synthetic import SETTINGS, finish_scene


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """Two scenes of two panoramas, 256 × 128."""
    run = RunFolder(tmp_path_factory.mktemp("evaluated"))
    for seed in range(2):
        finish_scene(run, seed=seed)
    pack(run, SETTINGS, validation_fraction=1)
    return run.shards


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.pt"
    torch.save({"model": responsive().state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def settings(shards, weights) -> EvalSettings:
    """The oracle and SAM2 on the whole panorama, for one click: quick."""
    return EvalSettings(
        data=str(shards),
        methods=("oracle", "sam2"),
        size="nano",
        sam2=str(weights),
        image_size=64,
        clicks=1,
    )
