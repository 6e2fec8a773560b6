"""A dataset as on the Hub: shards in data/, and the card beside them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.card.card import write_card
from pipeline.layout import RunFolder
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import pack
from pipeline.statistics.measure import measure
from tests.synthetic import PASSES, finish_scene

REPO = "someone/panoramas"


@dataclass(frozen=True)
class Published:
    folder: Path
    statistics: dict

    @property
    def readme(self) -> str:
        return (self.folder / "README.md").read_text()


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Four scenes of two panoramas, with depth and normals, in both splits."""
    run = RunFolder(tmp_path_factory.mktemp("card") / "out")
    for seed in range(4):
        finish_scene(run, PASSES, seed)
    pack(run, PASSES, shard_bytes=300_000, validation_fraction=0.5)
    folder = tmp_path_factory.mktemp("hub")
    shutil.copytree(run.shards / "data", folder / "data")
    statistics = measure(ShardReader(folder))
    write_card(folder, folder, repo=REPO, licence="cc-by-4.0", statistics=statistics)
    return Published(folder, statistics)
