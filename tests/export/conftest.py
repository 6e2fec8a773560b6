"""A finished run, its rows, and their export."""

from __future__ import annotations

import pytest

from pipeline.export.coco import export_coco
from pipeline.layout import RunFolder
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import pack
from tests.synthetic import SETTINGS, finish_scene


@pytest.fixture(scope="package")
def finished(tmp_path_factory):
    """Four finished scenes of two panoramas, of which `pack` puts two into each split."""
    run = RunFolder(tmp_path_factory.mktemp("finished") / "out")
    for seed in range(4):
        finish_scene(run, seed=seed)
    pack(run, SETTINGS, shard_bytes=160_000, validation_fraction=0.5)
    return run


@pytest.fixture(scope="package")
def rows(finished):
    """All rows of the finished run, by seed."""
    reader = ShardReader(finished.shards)
    return sorted(map(reader.row, range(len(reader))), key=lambda row: row["image_id"])


@pytest.fixture(scope="package")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export_coco(finished.shards, folder)
    return folder
