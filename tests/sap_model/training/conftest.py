"""Shards of small panoramas of discs, in both splits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.outputs import RunFolder
from pipeline.shards.writer import pack
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
