"""The test Hub against the real client and the real `datasets`, over Xet and over LFS."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.server import Hub
from tests.hub.wire import Fault, Request

NAME = "user/name"

CARD = """---
license: cc-by-4.0
size_categories: [n<1K]
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: validation
    path: data/validation-*.parquet
---
# Test
"""

PUBLISH = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
api, folder = HfApi(), sys.argv[1]
api.create_repo("user/name", repo_type="dataset", private=True, exist_ok=True)
add = [CommitOperationAdd(f"raw/{i}.bin", f"{folder}/raw/{i}.bin") for i in range(3)]
api.create_commit("user/name", add, commit_message="raw", repo_type="dataset")
api.upload_folder(repo_id="user/name", folder_path=folder, repo_type="dataset")
"""

READ = """
import sys
import datasets, pyarrow.parquet as pq
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download

print(snapshot_download("user/name", repo_type="dataset"))
whole = datasets.load_dataset("user/name")
assert {split: rows["x"][:] for split, rows in whole.items()} == {
    "train": [0, 1, 1, 2], "validation": [2, 3]
}, whole
streamed = datasets.load_dataset("user/name", split="train", streaming=True)
assert [row["data"] for row in streamed] == whole["train"]["data"][:]
files = HfFileSystem()
assert files.glob("datasets/user/name/data/train-*") == [
    f"datasets/user/name/data/train-0000{i}.parquet" for i in range(2)
]
table = pq.read_table("datasets/user/name/data/train-00001.parquet", filesystem=files)
assert table["x"].to_pylist() == [1, 2]
data = open(hf_hub_download("user/name", "raw/0.bin", repo_type="dataset"), "rb").read()
with files.open("datasets/user/name/raw/0.bin", block_size=1000) as file:
    file.seek(777_777)
    assert file.read(3000) == data[777_777:780_777]
"""

SMALL_FETCHES = {
    "HF_XET_RECONSTRUCTION_MIN_RECONSTRUCTION_FETCH_SIZE": "200kb",
    "HF_XET_RECONSTRUCTION_MAX_RECONSTRUCTION_FETCH_SIZE": "200kb",
}
"""So that hf_xet asks for parts of files, as it does for large ones."""


def make_folder(folder: Path) -> dict[str, bytes]:
    """A card, shards, and bytes that do not compress, do, and repeat. Returns what was written."""
    draw = random.Random(0)
    (folder / "data").mkdir(parents=True)
    (folder / "raw").mkdir()
    (folder / "README.md").write_text(CARD)
    for x, shard in enumerate(("train-00000", "train-00001", "validation-00000")):
        table = pa.table({"x": [x, x + 1], "data": [draw.randbytes(100_000) for _ in range(2)]})
        pq.write_table(table, folder / "data" / f"{shard}.parquet")
    noise = draw.randbytes(1_000_000)
    (folder / "raw/0.bin").write_bytes(noise)
    (folder / "raw/1.bin").write_bytes(b"".join(i.to_bytes(4, "little") for i in range(150_001)))
    (folder / "raw/2.bin").write_bytes(bytes(700_000) + noise[300_000:] + bytes(700_003))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_what_is_published_is_what_every_reader_gets(hub: Hub, tmp_path: Path, xet: bool) -> None:
    files = make_folder(tmp_path / "folder")
    hub.run(PUBLISH, tmp_path / "home", str(tmp_path / "folder"), xet=xet)
    repo = hub.repos[NAME]
    assert repo.private
    assert repo.files() == files | {".gitattributes": repo.files()[".gitattributes"]}
    assert [commit.title for commit in repo.commits[:2]] == ["initial commit", "raw"]
    assert {upload.kind for upload in hub.uploads} == ({"xorb", "shard"} if xet else {"lfs"})

    tree = {
        entry.path: entry
        for entry in hub.api().list_repo_tree(NAME, repo_type="dataset", recursive=True)
    }
    for path, data in files.items():
        assert tree[path].size == len(data)
        lfs = path != "README.md"
        assert (tree[path].lfs and tree[path].lfs.sha256) == (
            hashlib.sha256(data).hexdigest() if lfs else None
        )
        assert (tree[path].xet_hash is not None) == (xet and lfs)

    reader = tmp_path / "reader"
    out = hub.run(READ, reader, token=hub.read_token, xet=xet, **SMALL_FETCHES)
    snapshot = Path(out.splitlines()[0])
    assert {path: (snapshot / path).read_bytes() for path in files} == files
    asked = [request.headers["range"] for request in hub.seen("GET", "/v1/reconstructions/")]
    assert any(not asked_range.startswith("bytes=0-") for asked_range in asked) == xet

    before, commits = hub.stored_bytes, len(repo.commits)
    hub.run(PUBLISH, tmp_path / "elsewhere", str(tmp_path / "folder"), xet=xet)
    assert (hub.stored_bytes, len(repo.commits)) == (before, commits)  # all was there already


def test_a_publisher_killed_during_xet_sends_only_the_rest(hub: Hub, tmp_path: Path) -> None:
    code = """
import random
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo("user/name", repo_type="dataset", exist_ok=True)
add = [CommitOperationAdd(f"{i}.bin", random.Random(i).randbytes(300_000)) for i in range(3)]
for one in add:
    api.preupload_lfs_files("user/name", [one], repo_type="dataset")
api.create_commit("user/name", add, commit_message="all", repo_type="dataset")
"""
    home = tmp_path / "home"
    processes: list[subprocess.Popen] = []
    hub.faults.append(
        Fault("^/v1/xorbs/", skip=1, call=lambda _: processes[0].kill(), drop="request")
    )
    processes.append(subprocess.Popen([sys.executable, "-c", code], env=hub.environment(home)))
    assert processes[0].wait(60) == -9
    assert [upload.kind for upload in hub.uploads] == ["xorb", "shard"]
    assert list(hub.repos[NAME].files()) == [".gitattributes"]

    hub.run(code, home)
    assert sorted(hub.repos[NAME].files()) == [".gitattributes", "0.bin", "1.bin", "2.bin"]
    xorbs = [upload for upload in hub.uploads if upload.kind == "xorb"]
    assert len(xorbs) == 3
    assert all(upload.new for upload in xorbs)


def publish(hub: Hub, files: dict[str, bytes], private: bool = False, **more: object) -> str:
    """Commit files to the repository from this process; the commit's hash."""
    api = hub.api()
    api.create_repo(NAME, repo_type="dataset", private=private, exist_ok=True)
    add = [CommitOperationAdd(path, data) for path, data in files.items()]
    done = api.create_commit(NAME, add, commit_message="add", repo_type="dataset", **more)
    return done.oid


def test_tokens_open_what_they_should(hub: Hub) -> None:
    publish(hub, {"a.txt": b"a"}, private=True)
    for token in (hub.token, hub.read_token):
        assert hub.api(token).whoami()["name"] == "user"
        assert hub.api(token).file_exists(NAME, "a.txt", repo_type="dataset")
    for token, status in ((False, 401), (hub.other_token, 404)):
        with pytest.raises(RepositoryNotFoundError) as refused:
            hub.api(token).repo_info(NAME, repo_type="dataset")
        assert refused.value.response.status_code == status
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as refused:
        hub.api("hf_expired").repo_info(NAME, repo_type="dataset")
    assert refused.value.response.status_code == 401
    add = [CommitOperationAdd("b.txt", b"b")]
    with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
        hub.api(hub.read_token).create_commit(NAME, add, commit_message="b", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="rights to create a dataset"):
        hub.api(hub.read_token).create_repo("user/new", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="already created"):
        hub.api().create_repo(NAME, repo_type="dataset")

    hub.api().update_repo_settings(NAME, repo_type="dataset", private=False)
    assert hub.api(False).repo_info(NAME, repo_type="dataset").private is False
    hub.api().delete_repo(NAME, repo_type="dataset")
    assert not hub.repos


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("license: apache", '"license" must be one of'),
        ("size_categories: [1K]", '"size_categories" must be one of'),
        ("configs: [{config_name: default, data_files: [{split: train}]}]", "data_files"),
        ("license: [", "YAML metadata error"),
    ],
)
def test_a_card_that_the_hub_would_refuse_is_refused(hub: Hub, metadata: str, message: str) -> None:
    publish(hub, {"README.md": CARD.encode()})
    with pytest.raises(ValueError, match="Invalid metadata") as refused:
        publish(hub, {"README.md": f"---\n{metadata}\n---\n".encode()})
    assert message in str(refused.value)
    assert hub.repos[NAME].files()["README.md"] == CARD.encode()


def test_unchanged_files_are_neither_sent_nor_committed_again(hub: Hub) -> None:
    files = {"a.txt": b"a", "b.parquet": b"b" * 1000}
    first = publish(hub, files)
    assert publish(hub, files) == first
    assert [upload.bytes for upload in hub.uploads] == [1000]
    second = publish(hub, files | {"a.txt": b"other"})
    assert [request.body.count(b"\n") for request in hub.seen("POST", "/commit/")] == [3, 2]
    assert hub.api().list_repo_commits(NAME, repo_type="dataset")[0].commit_id == second


def test_a_commit_happens_whole_or_not_at_all(hub: Hub) -> None:
    first = publish(hub, {"a.txt": b"a", "data/b.parquet": b"b"})
    publish(hub, {"a.txt": b"other"})
    before = hub.repos[NAME].files()
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as refused:
        publish(hub, {"c.txt": b"c"}, parent_commit=first)
    assert refused.value.response.status_code == 412

    never_sent = CommitOperationAdd("d.parquet", b"d")
    never_sent._upload_mode, never_sent._is_uploaded = "lfs", True
    with pytest.raises(HfHubHTTPError, match="pointed to a file that does not exist"):
        hub.api().create_commit(
            NAME,
            [CommitOperationAdd("c.txt", b"c"), never_sent],
            commit_message="half",
            repo_type="dataset",
        )
    with pytest.raises(RemoteEntryNotFoundError):
        hub.api().delete_file("e.txt", NAME, repo_type="dataset")
    assert hub.repos[NAME].files() == before

    hub.api().create_commit(
        NAME, [CommitOperationDelete("data/")], commit_message="delete", repo_type="dataset"
    )
    assert sorted(hub.repos[NAME].files()) == [".gitattributes", "a.txt"]
    assert sorted(hub.repos[NAME].files(first)) == [".gitattributes", "a.txt", "data/b.parquet"]


def test_listings_come_in_pages_and_at_any_revision(hub: Hub) -> None:
    first = publish(hub, {f"data/{i}.txt": str(i).encode() for i in range(7)})
    hub.api().create_tag(NAME, tag="v1", repo_type="dataset")
    second = publish(hub, {"data/3.txt": b"new", "last.txt": b"last"})
    hub.page_size = 3
    names = [".gitattributes", *(f"data/{i}.txt" for i in range(7)), "last.txt"]
    assert hub.api().list_repo_files(NAME, repo_type="dataset") == names
    assert len(hub.seen("GET", "/tree/")) == 4  # 10 entries, the folder among them
    for revision in ("v1", first[:7]):
        files = hub.api().list_repo_files(NAME, repo_type="dataset", revision=revision)
        assert files == names[:-1]
    paths = ["data", "data/3.txt", "data/4.txt", "missing"]
    about = hub.api().get_paths_info(NAME, paths, repo_type="dataset", expand=True)
    assert [entry.last_commit.oid for entry in about] == [second, second, first]
    with pytest.raises(RevisionNotFoundError):
        hub.api().repo_info(NAME, repo_type="dataset", revision="v2")
    refs = hub.api().list_repo_refs(NAME, repo_type="dataset")
    assert [tag.target_commit for tag in refs.tags] == [first]


def test_faults_hit_the_requests_they_name(hub: Hub, tmp_path: Path) -> None:
    publish(hub, {"a.parquet": bytes(100_000)})

    hub.faults.append(Fault("/commit/", status=503))
    with pytest.raises(HfHubHTTPError, match="503"):
        publish(hub, {"b.txt": b"b"})
    hub.faults.append(Fault("/commit/", drop="request"))
    with pytest.raises(Exception, match="reset by peer"):
        publish(hub, {"b.txt": b"b"})
    assert "b.txt" not in hub.repos[NAME].files()

    arrived: list[Request] = []
    hub.faults.append(Fault("/commit/", drop="response", call=arrived.append))
    with pytest.raises(Exception, match="reset by peer"):
        publish(hub, {"b.txt": b"b"})
    assert hub.repos[NAME].files()["b.txt"] == b"b"  # done, but nobody was told
    assert b"b.txt" in arrived[0].body
    assert hub.seen("POST", "/commit/")[-1].status == 0

    # the client asks again by itself
    hub.faults.append(Fault("^/cdn/", method="GET", drop="response", gently=True))
    hub.faults.append(Fault("/tree/", delay=0.5))
    start = time.monotonic()
    folder = Path(
        snapshot_download(
            NAME,
            repo_type="dataset",
            endpoint=hub.url,
            token=hub.token,
            cache_dir=tmp_path / "cache",
        )
    )
    assert time.monotonic() - start > 0.5
    assert (folder / "a.parquet").read_bytes() == bytes(100_000)
    assert [request.status for request in hub.seen("GET", "/cdn/")] == [0, 200]
    assert all(fault.times == 0 for fault in hub.faults)


def test_the_users_token_never_leaves_the_hub(hub: Hub, tmp_path: Path) -> None:
    publish(hub, {"a.parquet": b"a"}, private=True)
    snapshot_download(
        NAME,
        repo_type="dataset",
        endpoint=hub.url,
        token=hub.token,
        cache_dir=tmp_path,
    )
    elsewhere = [r for r in hub.requests if r.path.startswith(("/lfs/", "/cdn/"))]
    assert [request.method for request in elsewhere] == ["PUT", "GET"]
    assert not any(request.token for request in elsewhere)
