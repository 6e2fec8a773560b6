"""A run with a few finished scenes, made once for all shard tests."""

import shutil

import pytest

from pipeline.outputs import RunFolder
from tests.synthetic import finish_scene

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
