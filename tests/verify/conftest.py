"""A packed run of a few shards, and copies of it to forge."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.layout import RunFolder
from pipeline.shards.schema import make_schema
from pipeline.shards.writer import pack
from pipeline.verify.verify import verify
from tests.synthetic import PASSES, finish_scene

FIRST = "train-00000.parquet"
SEEDS = range(10)  # one of ten scenes is drawn for validation


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """20 panoramas with depth and normals in several shards."""
    run = RunFolder(tmp_path_factory.mktemp("good") / "out")
    for seed in SEEDS:
        finish_scene(run, PASSES, seed)
    pack(run, PASSES, shard_bytes=1_500_000)
    return run


def findings(address: Path | str, **options: Any) -> list[str]:
    """What `verify` finds, a line for each finding."""
    return [str(finding) for finding in verify(address, **options).findings]


class Forgery:
    """A copy of a dataset that a test changes."""

    def __init__(self, shards: Path) -> None:
        self.shards = shards

    def path(self, name: str) -> Path:
        return self.shards / "data" / name

    def rows(self, name: str) -> list[dict]:
        return pq.read_table(self.path(name)).to_pylist()

    def write(self, name: str, rows: list[dict], *, in_manifest: bool = True) -> None:
        """Write a shard as packing does, complete and with correct checksums, of forged rows."""
        schema = make_schema(PASSES.passes)
        with pq.ParquetWriter(self.path(name), schema, write_page_checksum=True) as writer:
            for row in rows:
                writer.write_table(pa.Table.from_pylist([row], schema))
        if in_manifest:
            data = self.path(name).read_bytes()
            footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
            hashes = {"sha256": data, "footer_sha256": footer}
            entry = {key: hashlib.sha256(part).hexdigest() for key, part in hashes.items()}
            self.edit_manifest(name, {**entry, "panoramas": len(rows), "bytes": len(data)})

    def edit_manifest(self, name: str, entry: dict) -> None:
        """Change entries of a shard in the manifest."""
        path = self.shards / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest.setdefault(name, {}).update(entry)
        path.write_text(json.dumps(manifest))

    def change(self, name: str, number: int, forge: Callable[[dict], None]) -> None:
        """Change one row of a shard, consistently with the manifest."""
        rows = self.rows(name)
        forge(rows[number])
        self.write(name, rows)


@pytest.fixture
def forgery(good: RunFolder, tmp_path: Path) -> Forgery:
    shutil.copytree(good.shards, tmp_path / "shards")
    return Forgery(tmp_path / "shards")
