"""Locks of folders (the kernel's) and of stores (leases): one holder, refusal, succession."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import LockedError, exclusive_lock, lease, read_lock
from tests.storage.contend import contend
from tests.storage.s3 import S3

CHECKOUT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("quick_lease")

HOLD = """
import sys, time
from pipeline import storage
from pipeline.storage import lease
lease.BEAT_SECONDS, lease.LEASE_SECONDS = 0.3, 2.0
with storage.exclusive_lock(storage.open_path(sys.argv[1]) / "lock", "holding"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["folder", "conditional", "unconditional"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder; one in a store that creates exclusively; one in a store that overlooks it."""
    if request.param == "folder":
        return tmp_path / "root"
    store: S3 = request.getfixturevalue("store")
    store.conditions = request.param == "conditional"
    return storage.open_path(request.getfixturevalue("address"))


def test_one_process_holds_a_lock(root: Path) -> None:
    path = root / "lock"
    assert read_lock(path) is None
    with exclusive_lock(path, "working in", {"scenes": 7}) as lock:
        lock.check()
        state = read_lock(path)
        assert state is not None and state.held
        assert (state.about["scenes"], state.about["pid"]) == (7, os.getpid())
        with (
            pytest.raises(LockedError, match=f"{os.getpid()} .* {root}"),
            exclusive_lock(path, "x"),
        ):
            pass
        lock.check()
    state = read_lock(path)
    assert state is not None and not state.held and state.about["scenes"] == 7
    begun = time.monotonic()
    with exclusive_lock(path, "packing"):  # released, so nobody waits
        pass
    assert time.monotonic() - begun < 1.5


def test_a_store_is_asked_whether_it_creates_exclusively(store: S3, address: str) -> None:
    path = storage.open_path(address) / "lock.1"
    assert lease._is_conditional(path)
    lease._conditional.clear()
    store.conditions = False
    assert not lease._is_conditional(path)
    assert storage.names(path.parent) == []


def test_the_lock_of_a_killed_process_is_taken_over(root: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"{holder.pid} "), exclusive_lock(root / "lock", "x"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    begun = time.monotonic()
    with exclusive_lock(root / "lock", "working in") as lock:
        waited = time.monotonic() - begun
        lock.check()
        assert waited > 1.5 if storage.is_remote(root) else waited < 0.5
        state = read_lock(root / "lock")
        assert state is not None and state.held and state.about["pid"] == os.getpid()


def test_a_removed_or_replaced_folder_ends_the_lock(root: Path) -> None:
    with exclusive_lock(root / "lock", "working in") as lock:
        lock.check()
        storage.remove_folder(root)
        if not storage.is_remote(root):
            root.mkdir()
            (root / "lock").touch()
        else:
            time.sleep(1)
        with pytest.raises(UserError, match=str(root)):
            lock.check()


def write_claim(path: Path, number: int, **claim: Any) -> None:
    """Another process writes a claim."""
    other = {"token": "x", "beat": time.time(), "released": False, "pid": 5, "host": "h"}
    storage.write_atomic(lease._claim(path, number), json.dumps({**other, **claim}).encode())


def test_a_holder_that_was_succeeded_stops(address: str) -> None:
    path = storage.open_path(address) / "lock"
    with exclusive_lock(path, "working in") as lock:
        write_claim(path, 2)
        time.sleep(1)
        with pytest.raises(LockedError, match="5 on h"):
            lock.check()
    state = read_lock(path)
    assert state is not None and state.held and state.about["pid"] == 5


def test_a_holder_that_was_suspended_notices_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 100.0)  # its thread does not run
    path = storage.open_path(address) / "lock"
    with exclusive_lock(path, "working in") as lock:
        time.sleep(1.5)
        lock.check()
        write_claim(path, 2)
        time.sleep(1.5)
        with pytest.raises(LockedError, match="5 on h"):
            lock.check()


def between(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], after: Callable[[], None]
) -> None:
    """Let others act right before and right after the next claim is created."""
    create = lease._create

    def slow(*args: Any) -> bool:
        before()
        created = create(*args)
        after()
        return created

    monkeypatch.setattr(lease, "_create", slow)


def test_a_successor_yields_to_a_holder_that_lives_after_all(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = storage.open_path(address) / "lock"
    write_claim(path, 1)
    between(monkeypatch, lambda: write_claim(path, 1, beat=time.time()), lambda: None)
    with pytest.raises(LockedError, match="5 on h"), exclusive_lock(path, "working in"):
        pass
    assert storage.names(path.parent) == ["lock.1"]


def test_a_slow_successor_yields_to_a_later_one(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = storage.open_path(address) / "lock"
    write_claim(path, 1, released=True)

    def others() -> None:  # one took number 2 and is through, the next has removed its claim
        write_claim(path, 3)
        storage.remove(lease._claim(path, 1))

    between(monkeypatch, others, lambda: None)
    with pytest.raises(LockedError, match="5 on h"), exclusive_lock(path, "working in"):
        pass
    assert storage.names(path.parent) == ["lock.3"]


def test_a_claim_that_grew_old_while_the_store_was_slow_is_looked_at_again(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = storage.open_path(address) / "lock"
    remove = storage.files.remove

    def slow_remove(old: Path) -> None:  # the last step before the lock is held
        time.sleep(1.5)
        write_claim(path, 3)
        remove(old)

    write_claim(path, 1, released=True)
    lease._is_conditional(lease._claim(path, 1))  # which removes its probe
    monkeypatch.setattr(storage.files, "remove", slow_remove)
    with pytest.raises(LockedError, match="5 on h"), exclusive_lock(path, "working in"):
        pass


def test_a_lost_answer_is_no_lost_lock(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = storage.open_path(address) / "lock"
    store, _ = storage.files.store_of(path)
    create = store.pipe_file
    lost = []

    def pipe_file(key: str, data: bytes, **options: Any) -> None:
        create(key, data, **options)
        if key.endswith("lock.1") and not lost:
            lost.append(key)
            raise ConnectionResetError(104, "the answer is lost")

    lease._is_conditional(lease._claim(path, 1))  # the probe gets its answers
    monkeypatch.setattr(store, "pipe_file", pipe_file)
    with exclusive_lock(path, "working in") as lock:
        lock.check()
    assert lost


def test_a_damaged_claim_is_waited_for(address: str) -> None:
    path = storage.open_path(address) / "lock"
    storage.write_atomic(lease._claim(path, 1), b"{")
    begun = time.monotonic()
    with exclusive_lock(path, "working in"):
        assert time.monotonic() - begun > 1.5


def test_a_store_that_cannot_be_written_is_reported(store: S3, monkeypatch: Any) -> None:
    monkeypatch.setattr(storage.errors, "RETRY_SECONDS", 0.0)
    path = storage.open_path("s3://no-such-bucket/run") / "lock"
    with pytest.raises(UserError, match="s3://no-such-bucket/run"), exclusive_lock(path, "x"):
        pass


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "lock"
    with pytest.raises(UserError, match=f"{path.parent} "), exclusive_lock(path, "x"):
        pass


WINDOWS = """
import sys, types, fcntl, os
def locking(descriptor, mode, count):  # as Windows does it: the byte where the file stands
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
sys.modules["fcntl"] = None
from pathlib import Path
from pipeline import storage
try:
    with storage.exclusive_lock(Path(sys.argv[1]) / "lock", "holding") as lock:
        lock.check()
        print("held", flush=True)
        sys.stdin.read()
except storage.LockedError as error:
    print(error)
"""


def test_without_fcntl_a_byte_is_locked(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WINDOWS, str(tmp_path)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    first = start()
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    assert f"{first.pid} " in start().communicate()[0]
    first.communicate()
    assert start().communicate()[0] == "held\n"


@pytest.mark.parametrize(
    ("kind", "rounds"), [("folder", 20), ("conditional", 20), ("unconditional", 8)]
)
def test_of_two_drivers_at_once_one_works(
    kind: str, rounds: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The short form of `python -m tests.storage.contend --rounds 200`."""
    out = str(tmp_path) if kind == "folder" else request.getfixturevalue("address")
    result = contend(out, rounds, conditional=kind != "unconditional")
    assert len(result.held) == rounds
    assert (result.overlaps, result.without_holder) == (0, 0)
    assert result.refused > 0
