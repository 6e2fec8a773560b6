"""A run with a few finished scenes, made once for all shard tests."""

import shutil

import pytest

from pipeline.layout import RunFolder
from pipeline.shards.writer import pack
from tests.synthetic import SETTINGS, finish_scene

TWO_ROWS = 200_000
"""Shard size that takes two of the synthetic panoramas and little more."""

SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    run = RunFolder(tmp_path_factory.mktemp("finished"))
    for seed in SEEDS:
        finish_scene(run, seed=seed)
    return run


@pytest.fixture
def packable(finished, run):
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished.path, run.path)
    return run


@pytest.fixture(scope="package")
def packed(finished, tmp_path_factory):
    """The finished run, packed; not to be changed."""
    run = RunFolder(tmp_path_factory.mktemp("packed") / "out")
    shutil.copytree(finished.path, run.path)
    pack(run, SETTINGS, shard_bytes=TWO_ROWS, validation_fraction=0.5)
    return run


@pytest.fixture
def copy(packable):
    """Shards of a test's own."""
    pack(packable, SETTINGS, shard_bytes=TWO_ROWS, validation_fraction=0)
    return packable.shards
