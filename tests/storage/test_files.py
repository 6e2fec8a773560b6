"""The adapter to files, on folders and on an S3 server of this machine."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import UserError
from pipeline.layout import RunFolder
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import pack
from pipeline.storage import errors
from tests.storage.s3 import S3, SECRET
from tests.synthetic import SETTINGS, finish_scene

CHECKOUT = Path(__file__).parents[2]

FILES = ("a.json", "b.bin", "d/a.json", "d/b.bin", "d/e/a.json", "f/a.json")
FOLDERS = ("", "d", "d/e", "f", "g")

ODD_NAMES = [
    "with space",
    "quo'te\"s",
    "[a]",
    "star*",
    "ünï 全景",
    "-dash",
    "a#b",
    "a?b=c",
    "100%41",
    "$HOME",
    "semi;colon",
    "a:b",
]
"""Names of folders that a shell, a URL or a pattern would take for something else."""

operation = st.one_of(
    st.tuples(st.sampled_from(["write", "put", "stream"]), st.sampled_from(FILES), st.binary()),
    st.tuples(st.just("remove"), st.sampled_from(FILES)),
    st.tuples(st.just("remove_folder"), st.sampled_from(FOLDERS[1:])),
)


def apply(root: Path, local: Path, what: str, name: str, data: bytes = b"") -> None:
    path = root / name
    if what == "write":
        storage.write_atomic(path, data)
    elif what == "stream":
        with storage.open_atomic(path) as file:
            file.write(data)
    elif what == "put":
        (local / "file").write_bytes(data)
        storage.put(local / "file", path)
        assert not (local / "file").exists()
    elif what == "remove":
        storage.remove(path)
    else:
        storage.remove_folder(path, "a.json")


def seen(root: Path, local: Path) -> dict[str, object]:
    """The content of a folder through every function that reads."""
    found: dict[str, object] = {}
    for name in FILES:
        path = root / name
        found[name] = storage.exists(path), storage.size(path)
        if storage.exists(path):
            got = local / "got"
            storage.get(path, got)
            assert got.read_bytes() == storage.read_bytes(path)
            got.unlink()
    found["read"] = storage.read_many([root / name for name in FILES])
    full = {name for name in FILES if storage.exists(root / name)}
    for folder in FOLDERS:
        inside = folder + "/" if folder else ""

        def holds_a_file(name: str, inside: str = inside) -> bool:
            return any(f == inside + name or f.startswith(inside + name + "/") for f in full)

        # an empty folder exists on a disk, and not in a store
        path = root / folder if folder else root
        found[f"names of {folder}"] = set(filter(holds_a_file, storage.names(path)))
        listed = storage.listing(path)
        found[f"files of {folder}"] = listed.files
        found[f"folders of {folder}"] = set(filter(holds_a_file, listed.folders))
    return found


@settings(max_examples=6, deadline=None)
@given(operations=st.lists(operation, max_size=8))
def test_a_store_does_what_a_folder_does(
    server: S3, tmp_path_factory: pytest.TempPathFactory, operations: list[tuple]
) -> None:
    here, local = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("local")
    there = storage.open_path(f"s3://{server.bucket}/{uuid.uuid4().hex}")
    for one in operations:
        apply(here, local, *one)
        apply(there, local, *one)
    assert seen(there, local) == seen(here, local)


def test_missing_files(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(root / "a.json")
    with pytest.raises(FileNotFoundError):
        storage.get(root / "a.json", tmp_path / "got")
    assert not (tmp_path / "got").exists()
    assert storage.names(root) == []
    assert storage.listing(root) == storage.Listing()
    assert storage.size(root / "a.json") == 0
    assert storage.read_many([root / "a.json", root / "b"]) == [None, None]
    storage.remove(root / "a.json")
    storage.remove_folder(root, "a.json")


@pytest.mark.usefixtures("quick_lease")
@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_taken_literally(root: Path, tmp_path: Path, name: str) -> None:
    folder, other = root / name, root / "a"
    for path in (folder / "x.json", folder / f"{name}.bin", other / "x.json"):
        storage.write_atomic(path, str(path).encode())
    (tmp_path / "file").write_bytes(b"moved")
    storage.put(tmp_path / "file", folder / "moved")
    with storage.open_atomic(folder / "stream") as file:
        file.write(b"piece by piece")
    assert storage.open_path(str(folder)) == folder
    assert set(storage.names(folder)) == {"x.json", f"{name}.bin", "moved", "stream"}
    assert set(storage.names(root)) == {name, "a"}
    assert storage.listing(folder).files["moved"] == 5
    paths = [folder / "x.json", folder / f"{name}.bin", folder / "nothing"]
    assert storage.read_many(paths) == [str(path).encode() for path in paths[:2]] + [None]
    assert storage.exists(folder / "stream") and storage.size(folder / "stream") == 14
    storage.get(folder / f"{name}.bin", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == str(folder / f"{name}.bin").encode()
    with storage.exclusive_lock(folder / ".lock", "testing") as lock:
        lock.check()
        with pytest.raises(storage.LockedError), storage.exclusive_lock(folder / ".lock", "again"):
            pass
    storage.remove(folder / "moved")
    storage.remove_folder(folder, "x.json")
    assert set(storage.names(root)) == {"a"} and storage.names(other) == ["x.json"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("finished"))
    finish_scene(run)
    return run


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_run_is_packed_and_read_under_any_name(
    root: Path, finished: RunFolder, name: str
) -> None:
    run = RunFolder(root / name)
    for path in finished.path.rglob("*"):
        if path.is_file():
            storage.write_atomic(
                run.path / path.relative_to(finished.path).as_posix(), path.read_bytes()
            )
    assert pack(run, SETTINGS)["train"] == 2
    reader = ShardReader(str(run.path))
    assert len(reader) == 2 and reader.row(1)["objects"]
    assert reader.paths == [
        str(path) if storage.is_remote(path) else path
        for path in [run.shards / "data" / "train-00000.parquet"]
    ]


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert storage.open_path("~/out") == storage.open_path(Path("~/out")) == tmp_path / "out"
    assert storage.open_path("out/~") == Path("out/~")
    literal = storage.open_path("./~")
    assert literal == storage.open_path(literal) == tmp_path / "~"
    with pytest.raises(UserError, match=r"^~nobody-of-this-name/out "):
        storage.open_path("~nobody-of-this-name/out")


def test_a_url_that_pathlib_has_cut_is_refused() -> None:
    with pytest.raises(UserError, match="s3:/bucket/run "):
        storage.open_path(Path("s3://bucket/run"))


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ("nowhere://x", "nowhere://"),
        ("s3://", "s3://bucket/folder"),
        ("https://host/run", "https://"),
    ],
)
def test_an_unusable_address_is_refused(address: str, value: str) -> None:
    with pytest.raises(UserError, match=value):
        storage.open_path(address)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ftp://me:password@host/dataset/", "ftp://host/dataset"),
        ("https://me:password@host/x?token=secret", "https://host/x"),
        ("https://host?token=secret", "https://host/"),
        ("hf://datasets/me/x@main", "hf://datasets/me/x@main"),
        ("s3://bucket/a?b", "s3://bucket/a?b"),
    ],
)
def test_credentials_are_not_shown(address: str, shown: str) -> None:
    path = storage.open_path(address, {"token": SECRET}, read_only=True)
    assert storage.show(path) == shown
    assert SECRET not in repr(path) + str(storage.user_error(OSError(SECRET), path))


def test_transient_errors_are_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "FIRST_WAIT", 0.01)
    calls = []

    def call() -> str:
        calls.append(1)
        if len(calls) < 4:
            raise OSError(errno.ESTALE, "stale")
        return "done"

    assert storage.retry(call, tmp_path) == "done"
    assert len(calls) == 4
    calls.clear()
    with pytest.raises(OSError, match="stale"):
        storage.retry(call, tmp_path, seconds=0.0)
    assert len(calls) == 1


def test_a_store_that_stays_down_is_one_line(
    store: S3, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "RETRY_SECONDS", 0.0)
    at_once = {"config_kwargs": {"retries": {"max_attempts": 0}}}
    path = storage.open_path(address, at_once) / "a.json"
    store.down = True
    for call in (storage.read_bytes, storage.exists, storage.listing):
        with pytest.raises(UserError, match=r"a\.json cannot be used .*503") as caught:
            call(path)
        assert "\n" not in str(caught.value) and caught.value.__cause__ is None
    store.down = False
    assert not storage.exists(path)


def test_an_impossible_bucket_is_reported_at_once(store: S3) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match="Bad Bucket"):
        storage.names(storage.open_path("s3://Bad Bucket/run"))
    assert time.monotonic() - begun < 10


def test_missing_credentials_are_reported_at_once(tmp_path: Path) -> None:
    nowhere = {name: str(tmp_path) for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "status", "--out", "s3://bucket/run"],
        env={**kept, **nowhere, "AWS_EC2_METADATA_DISABLED": "true"},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no credentials for s3://bucket/run"), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_paths_survive_pickling_and_forks(address: str, method: str) -> None:
    path = storage.open_path(address) / "a.json"
    storage.write_atomic(path, b"here")  # opens a connection
    assert b"s3fs" not in pickle.dumps(path)
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        assert pool.apply(storage.read_bytes, (path,)) == b"here"
    assert storage.read_bytes(path) == b"here"
