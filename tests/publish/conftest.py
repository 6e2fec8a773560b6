"""A Hub of one's own, and something to publish."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.publish.plan import LocalFile, local_files
from tests.hub.conftest import hub

__all__ = ["dataset", "hub"]


class Dataset:
    """Files as a packed run has them; what is in the shards does not matter to the Hub."""

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

    def shards(self, **counts: int) -> None:
        """Have so many shards of each split; the last one of each is not full."""
        for path in (self.folder / "data").iterdir():
            path.unlink()
        for split, count in counts.items():
            for number in range(count):
                size = 100_000 if number < count - 1 else 40_000 + 1000 * count
                data = bytes(np_bytes(f"{split}{number}", size))
                (self.folder / "data" / f"{split}-{number:05d}.parquet").write_bytes(data)
        manifest = {path.name: {} for path in sorted((self.folder / "data").iterdir())}
        (self.folder / "manifest.json").write_text(json.dumps(manifest))

    def files(self) -> list[LocalFile]:
        paths = (self.folder / "data").iterdir()
        sha256 = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        return local_files({"": self.folder}, sha256)

    def content(self) -> dict[str, bytes]:
        return {file.name: file.path.read_bytes() for file in self.files()}


def np_bytes(seed: str, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed; longer ones begin like shorter."""
    out = bytearray()
    block = hashlib.sha256(seed.encode()).digest()
    while len(out) < size:
        out += block
        block = hashlib.sha256(block).digest()
    return bytes(out[:size])


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "dataset")
