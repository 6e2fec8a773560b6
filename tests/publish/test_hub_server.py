"""The test Hub against the real client and the real `datasets`, over LFS and over Xet."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import snapshot_download

from tests.hub.server import Hub

NAME = "user/name"
CARD = b"---\nlicense: cc-by-4.0\n---\n# Test\n"

PUBLISH = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("user/name", repo_type="dataset", private=True, exist_ok=True)
HfApi().upload_folder(repo_id="user/name", folder_path=sys.argv[1], repo_type="dataset")
"""

READ = """
import datasets, pyarrow.parquet as pq
from huggingface_hub import HfFileSystem, snapshot_download

print(snapshot_download("user/name", repo_type="dataset"))
loaded = datasets.load_dataset("user/name", split="train")
streamed = datasets.load_dataset("user/name", split="train", streaming=True)
assert [row["data"] for row in streamed] == loaded["data"][:]
files = HfFileSystem()
(path, _) = files.glob("datasets/user/name/data/train-*")
assert pq.read_table(path, filesystem=files)["x"].to_pylist() == [0, 1]
with files.open("datasets/user/name/raw/noise.bin", block_size=1000) as file:
    file.seek(777_777)
    part = file.read(3000)
assert part == files.cat("datasets/user/name/raw/noise.bin")[777_777:780_777]
"""


def make_folder(folder: Path) -> dict[str, bytes]:
    """A card, shards, and bytes that compress, that do not, and that repeat."""
    draw = random.Random(0)
    for path in ("data", "raw"):
        (folder / path).mkdir(parents=True)
    (folder / "README.md").write_bytes(CARD)
    for x, shard in enumerate(("train-00000", "train-00001")):
        table = pa.table({"x": [x, x + 1], "data": [draw.randbytes(100_000) for _ in range(2)]})
        pq.write_table(table, folder / "data" / f"{shard}.parquet")
    noise = draw.randbytes(1_000_000)
    counter = b"".join(i.to_bytes(4, "little") for i in range(150_001))
    (folder / "raw/noise.bin").write_bytes(noise)
    (folder / "raw/counter.bin").write_bytes(counter)
    (folder / "raw/repeated.bin").write_bytes(bytes(700_000) + noise[300_000:] + bytes(700_003))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_readers_get_what_was_published(hub: Hub, tmp_path: Path, xet: bool) -> None:
    files = make_folder(tmp_path / "folder")
    hub.run(PUBLISH, tmp_path / "home", str(tmp_path / "folder"), xet=xet)
    repo = hub.repos[NAME]
    assert repo.private
    assert {path: data for path, data in repo.files().items() if path in files} == files
    assert {upload.kind for upload in hub.uploads} == {"xorb" if xet else "lfs"}
    for entry in hub.api().list_repo_tree(NAME, repo_type="dataset", path_in_repo="raw"):
        assert entry.lfs.sha256 == hashlib.sha256(files[entry.path]).hexdigest()
        assert (entry.xet_hash is not None) == xet

    out = hub.run(READ, tmp_path / "reader", token=hub.read_token, xet=xet)
    snapshot = Path(out.splitlines()[0])
    assert {path: (snapshot / path).read_bytes() for path in files} == files


def test_the_storage_host_never_sees_the_token(hub: Hub, tmp_path: Path) -> None:
    api = hub.api()
    api.create_repo(NAME, repo_type="dataset", private=True)
    api.upload_file(
        path_or_fileobj=b"a", path_in_repo="a.parquet", repo_id=NAME, repo_type="dataset"
    )
    snapshot_download(
        NAME, repo_type="dataset", endpoint=hub.url, token=hub.token, cache_dir=tmp_path
    )
    storage = [r for r in hub.requests if r.path.startswith(("/lfs/", "/cdn/"))]
    assert [request.method for request in storage] == ["PUT", "GET"]
    assert not any(request.token for request in storage)
