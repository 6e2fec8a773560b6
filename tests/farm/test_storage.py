"""OUT on a real S3 server of this machine: every operation, the lease, whole runs, an outage."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import lease, storage
from pipeline.errors import UserError
from pipeline.farm.attempt import read_attempts
from pipeline.farm.claim import read_claim
from pipeline.farm.records import names_of
from pipeline.layout import RunFolder
from tests.farm.clusters_here import CHECKOUT, QUICK_RAY, Cluster, start_driver, wait_for
from tests.farm.stores_here import BUCKET, Proxy, Store
from tests.soak.__main__ import files_of, hashes

FILES = ("a.json", "b.bin", "d/a.json", "d/b.bin", "d/e/a.json", "f/a.json")
FOLDERS = ("", "d", "d/e", "f", "g")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """An S3 that this process reaches too."""
    from s3fs import S3FileSystem

    with Store() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.env().items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield store
        S3FileSystem.clear_instance_cache()


@pytest.fixture
def there(store: Store) -> Path:
    """An empty folder in the store."""
    return storage.open_path(new_address())


def new_address() -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def quick_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.3)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.2)


operation = st.one_of(
    st.tuples(st.sampled_from(["write", "put", "stream"]), st.sampled_from(FILES), st.binary()),
    st.tuples(st.just("remove"), st.sampled_from(FILES)),
    st.tuples(st.just("remove_folder"), st.sampled_from(FOLDERS[1:])),
)


def do(root: Path, local: Path, what: str, name: str, data: bytes = b"") -> None:
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
    """All that can be seen of a folder."""
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
        # a folder of a disk may be empty, one of a store then is not there
        found[f"names of {folder}"] = {
            name
            for name in storage.names(root / folder if folder else root)
            if any(file == inside + name or file.startswith(inside + name + "/") for file in full)
        }
    return found


@settings(max_examples=10, deadline=None)
@given(operations=st.lists(operation, max_size=8))
def test_a_store_does_what_a_folder_does(
    store: Store, tmp_path_factory: pytest.TempPathFactory, operations: list[tuple]
) -> None:
    here, local = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("local")
    there = storage.open_path(new_address())
    for one in operations:
        do(here, local, *one)
        do(there, local, *one)
    ours = seen(there, local)
    assert ours == seen(here, local)
    files = {name for name in FILES if ours[name][0]}
    assert set(files_of(there)) == set(files_of(here)) == files


def test_what_is_not_there(there: Path, tmp_path: Path) -> None:
    for root in (there, tmp_path / "none"):
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(root / "a.json")
        with pytest.raises(FileNotFoundError):
            storage.get(root / "a.json", tmp_path / "got")
        assert not (tmp_path / "got").exists()
        assert storage.names(root) == []
        assert storage.read_many([root / "a.json", root / "b"]) == [None, None]
        storage.remove(root / "a.json")
        storage.remove_folder(root, "a.json")


def test_what_may_pass_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.01)
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


def test_missing_credentials_are_told_at_once(tmp_path: Path) -> None:
    nowhere = {name: str(tmp_path) for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    told = subprocess.run(
        [sys.executable, "-m", "pipeline", "status", "--out", "s3://bucket/run"],
        env={**kept, **nowhere, "AWS_EC2_METADATA_DISABLED": "true"},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 2
    assert told.stderr.startswith("error: no credentials for s3://bucket/run"), told.stderr
    assert told.stderr.count("\n") == 1


def test_a_store_without_its_bucket_or_its_package_is_told() -> None:
    for address, match in (
        ("nowhere://x", "nowhere://x cannot be used"),
        ("s3://", "s3:// names no bucket or folder; write s3://bucket/folder"),
        ("https://host/run", "can only be read"),
    ):
        with pytest.raises(UserError, match=match):
            storage.open_path(address)


@pytest.mark.usefixtures("quick_lease")
def test_one_holds_a_lease(there: Path) -> None:
    path = there / "lock"
    with lease.lease(path, "working in", {"scenes": 7}) as check:
        assert lease.is_held(path)
        with (
            pytest.raises(UserError, match=f"another process .{os.getpid()} on .* is working in"),
            lease.lease(path, "packing"),
        ):
            raise AssertionError("two hold it")
        check()
        about = json.loads(storage.read_bytes(path))
        assert (about["scenes"], about["released"]) == (7, False)
    assert not lease.is_held(path)
    started = time.monotonic()
    with lease.lease(path, "packing"):  # released, so nobody waits
        pass
    assert time.monotonic() - started < 2


@pytest.mark.usefixtures("quick_lease")
def test_a_lease_whose_holder_is_gone_is_taken_over(there: Path) -> None:
    path = there / "lock"
    storage.write_atomic(path, b'{"token": "x", "beat": 1.0, "released": false}')
    assert not lease.is_held(path)
    started = time.monotonic()
    with lease.lease(path, "working in"):
        assert time.monotonic() - started > 2
        assert lease.is_held(path)


@pytest.mark.usefixtures("quick_lease")
def test_a_holder_that_was_taken_for_gone_stops(there: Path) -> None:
    path = there / "lock"
    with lease.lease(path, "working in") as check:
        other = {"token": "x", "beat": 1.0, "released": False, "pid": 5, "host": "h", "doing": "y"}
        storage.write_atomic(path, json.dumps(other).encode())

        def is_told() -> bool:
            try:
                check()
            except UserError:
                return True
            return False

        wait_for(is_told, 10)
    assert json.loads(storage.read_bytes(path))["beat"] == 1.0  # and it is not overwritten


@pytest.mark.usefixtures("quick_lease")
def test_of_several_at_once_one_gets_a_lease(there: Path) -> None:
    path, held, told = there / "lock", [], []

    def take() -> None:
        try:
            with lease.lease(path, "working in"):
                held.append(1)
                time.sleep(1)
        except UserError as error:
            told.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(told) == 3


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


def plan(folder: Path, faults: dict) -> Path:
    """Faults of the fake Blender; returns the folder for scratch that goes with them."""
    (folder / "faults.json").write_text(json.dumps(faults))
    return folder / "out" / "scratch"


def test_drivers_on_a_store(store: Store, head: Cluster, tmp_path: Path) -> None:
    """A second driver is refused; one that was killed is taken over from, and its work kept."""
    out = new_address()
    run = RunFolder(storage.open_path(out))
    scratch = plan(tmp_path, {"render1:1": "wait"})
    head.env = store.env()
    head.add()
    try:
        first = start_driver(head, out, 3, scratch=scratch)
        wait_for(lambda: names_of(run.done_folder) and run.scene(name(1)).is_rendered(0))
        second = start_driver(head, out, 3, scratch=scratch)
        said = second.communicate(timeout=120)[0]
        assert second.returncode == 1
        assert said.strip().splitlines()[-1].startswith(f"another process ({first.pid} on ")
        assert first.poll() is None
        claim = read_claim(run)
        assert claim is not None and claim.held and claim.pid == first.pid
        first.kill()
        first.communicate()
        (tmp_path / "go").touch()
        third = start_driver(head, out, 3, scratch=scratch)
        said = third.communicate(timeout=180)[0]
        assert third.returncode == 0, said
        assert names_of(run.done_folder) == {name(0), name(1), name(2)}
        assert [(one.reason, one.brought) for one in tried(run, 1, "render")] == [
            ("interrupted", 0),
            ("ok", 1),
        ]
        kept = {file for file in files_of(run.path) if name(0) in file}
        assert kept == {
            f"done/{name(0)}.json",
            f"scenes/{name(0)}/scene.json",
            *(f"scenes/{name(0)}/panoramas/{index}/row.json" for index in range(2)),
            *(
                f"scenes/{name(0)}/attempts/{stage}-1.{kind}"
                for stage in ("generate", "render", "annotate")
                for kind in ("json", "log")
            ),
        }
        assert not list(scratch.iterdir())
    finally:
        head.without_nodes()


def test_a_store_that_does_not_answer_for_a_while(
    store: Store, head: Cluster, tmp_path: Path
) -> None:
    """The run goes on by itself, and no attempt fails for it."""
    out = new_address()
    run = RunFolder(storage.open_path(out))
    scratch = plan(tmp_path, {"seconds": 0.5})
    with Proxy(store.port) as proxy:
        head.env = store.env(proxy.port)
        head.add()
        try:
            driver = start_driver(head, out, 5, scratch=scratch)
            wait_for(lambda: names_of(run.done_folder))
            proxy.off()
            time.sleep(1)
            before = files_of(run.path)
            time.sleep(20)
            assert files_of(run.path) == before  # nobody reaches it
            assert driver.poll() is None
            proxy.on()
            said = driver.communicate(timeout=240)[0]
            assert driver.returncode == 0, said
        finally:
            head.without_nodes()
    assert names_of(run.done_folder) == {name(seed) for seed in range(5)}
    ends = [one.reason for seed in range(5) for one in read_attempts(run.scene(name(seed)))]
    assert ends == ["ok"] * 15


def test_a_store_and_a_folder_give_the_same_shards(store: Store, tmp_path: Path) -> None:
    """Two scenes of real Blender each, by the command itself."""
    ran = {}
    for out in (str(tmp_path / "out"), new_address()):
        options = {"generator": "spheres", "profile": "draft", "width": 64, "panos": 1, "scenes": 2}
        options |= {"workers": 2, "render-cpus": 1, "scratch": tmp_path / "scratch", "out": out}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "render", *arguments],
            env={**os.environ, **QUICK_RAY},
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        ran[out] = RunFolder(storage.open_path(out))
        assert out in done.stdout.partition("look:")[2]
    folder, remote = ran.values()
    assert set(hashes(folder)) == {"train-00000.parquet"}
    assert hashes(remote) == hashes(folder)
    # a folder has the lock of packing and the empty folders as well
    assert {file for file in files_of(folder.path) if not file.startswith(".")} == set(
        files_of(remote.path)
    )


def name(seed: int) -> str:
    return f"spheres-{seed:010d}"


def tried(run: RunFolder, seed: int, stage: str) -> list:
    return [one for one in read_attempts(run.scene(name(seed))) if one.stage == stage]
