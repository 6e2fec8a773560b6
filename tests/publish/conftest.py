"""A Hub for one test, and a dataset to publish."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.publish.changes import LocalFile, local_files
from pipeline.shards.manifest import Shard, parse_manifest
from tests.hub.server import Hub


class Dataset:
    """The files of a packed run; the content of the shards does not matter to the Hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "data").mkdir(parents=True)
        self.card("first")
        (folder / "figures").mkdir()
        (folder / "figures" / "sizes.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        self.shards(train=3, validation=1)

    def card(self, text: str) -> None:
        head = "---\nlicense: cc-by-4.0\ntask_categories:\n- image-segmentation\n---\n"
        (self.folder / "README.md").write_text(head + text)

    def shards(self, run: str = "", **counts: int) -> None:
        """Write this number of shards per split; the last shard of each split is not full.

        Args:
            run: Another name gives other rows.
            counts: Number of shards by split.
        """
        manifest = {}
        for path in (self.folder / "data").iterdir():
            path.unlink()
        for split, count in counts.items():
            for number in range(count):
                name, full = f"{split}-{number:05d}.parquet", number < count - 1
                data = noise(run + name, 100_000 if full else 40_000 + 1000 * count)
                (self.folder / "data" / name).write_bytes(data)
                rows = [f"{run}{split}{number}.{row}" for row in range(4 if full else 2)]
                manifest[name] = {"panoramas": len(rows), "rows": rows, "bytes": len(data)}
        (self.folder / "manifest.json").write_text(json.dumps(manifest))

    def files(self) -> list[LocalFile]:
        paths = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        sha256 = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        return local_files({str(path.relative_to(self.folder)): path for path in paths}, sha256)

    def packed(self) -> list[Shard]:
        return parse_manifest((self.folder / "manifest.json").read_bytes())

    def content(self) -> dict[str, bytes]:
        return {file.name: file.path.read_bytes() for file in self.files()}


def noise(seed: str, size: int) -> bytes:
    """Reproducible incompressible bytes; longer ones of a seed start with the shorter ones."""
    out = bytearray()
    block = hashlib.sha256(seed.encode()).digest()
    while len(out) < size:
        out += block
        block = hashlib.sha256(block).digest()
    return bytes(out[:size])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub. Clients in this process use LFS, because Xet keeps a cache in the home."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with Hub() as hub:
        yield hub


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "dataset")
