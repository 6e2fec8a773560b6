"""Locks in stores, which have no file locks: numbered claims that their holders renew.

    driver.lock.7   {"token": …, "beat": …, "released": false, "host": …, "pid": …, "doing": …}

The claim with the highest number is the lock. To take the lock, a process creates the claim with
the next number. The store lets only one process do that: it creates the file only if there is none
(S3: `If-None-Match: *`; Google: generation 0). The holder writes its claim again every
`BEAT_SECONDS`. Before a process takes over a claim that was not released, it watches the claim for
`LEASE_SECONDS`. If the claim changes, its holder is alive.

Two processes never hold a lock at the same time, however long a process or a request was suspended:
a holder first writes its claim and then looks for a higher number; a successor first creates its
claim and then looks whether the previous claim has changed. One of the two sees the other and
stops.

In a store that cannot create exclusively, a claim is written without a condition and read again
after `SETTLE_SECONDS`; the last of several writers holds it. This is safe only if the store shows a
file within that time.

The clocks of two machines are compared only in `read`, which informs users.
"""

from __future__ import annotations

import errno
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.storage import files
from pipeline.storage.errors import retry, user_error

BEAT_SECONDS = 15.0
LEASE_SECONDS = 60.0
SETTLE_SECONDS = 2.0

LOOKS = 10  # a successor may remove a claim after it was listed

CONDITIONAL = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Protocols whose fsspec packages turn `mode="create"` into a condition of the request."""


class LockedError(UserError):
    """Another process holds the lock."""


class Lease:
    """A claim of this process, renewed by a thread until `release`."""

    def __init__(
        self, path: Path, number: int, about: Mapping[str, Any], token: str, renewed: float
    ) -> None:
        self._path, self._number, self._about, self._token = path, number, about, token
        self._renewed = renewed  # when the last write began that is known to have been in time
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise a LockedError if another process may hold the lock."""
        if not self._lost and time.monotonic() - self._renewed > LEASE_SECONDS / 2:
            self._renew()  # the thread failed to; retried as long as other calls
        if self._lost:
            raise locked_error(self._path, _last(self._path)[1])

    def release(self) -> None:
        """Let others take the lock at once."""
        self._stop.set()
        self._thread.join()
        if not self._lost and self._is_mine():
            _write(self._claim, self._about, self._token, released=True)

    @property
    def _claim(self) -> Path:
        return _claim(self._path, self._number)

    def _is_mine(self) -> bool:
        return _read(self._claim).get("token") == self._token

    def _beat(self) -> None:
        while not self._lost and not self._stop.wait(BEAT_SECONDS):
            with suppress(Exception):  # the next beat tries again, and `check` sees the age
                self._renew(seconds=LEASE_SECONDS / 6)

    def _renew(self, seconds: float | None = None) -> None:
        started = time.monotonic()
        if not self._is_mine():
            self._lost = True
            return
        _write(self._claim, self._about, self._token, seconds=seconds)
        if _numbers(self._path)[-1:] != [self._number]:
            self._lost = True
        else:
            self._renewed = max(self._renewed, started)


@contextmanager
def hold(path: Path, about: Mapping[str, Any]) -> Iterator[Lease]:
    """Hold a lock of a store until the block ends.

    Args:
        path: The lock; claims are `path` with a number.
        about: Entries about the holder: `host`, `pid`, `doing` and more.

    Raises:
        LockedError: Another process holds it.
        UserError: The store cannot be written.
    """
    token = uuid.uuid4().hex
    try:
        number, written = _take(path, about, token)
    except FileNotFoundError as error:
        raise user_error(error, path.parent) from None
    held = Lease(path, number, about, token, written)
    try:
        held.check()  # the store may have been slow since the claim was written
        yield held
    finally:
        held.release()


def read(path: Path) -> tuple[bool, dict[str, Any]]:
    """Whether a lock is held, by this machine's clock, and its claim; {} if there never was one."""
    _, claim = _last(path)
    beat = claim.get("beat")
    fresh = isinstance(beat, float) and time.time() - beat < LEASE_SECONDS
    return fresh and not claim.get("released"), claim


def locked_error(path: Path, about: Mapping[str, Any]) -> LockedError:
    """The error where another process holds a lock, or has taken it over."""
    who = f" ({about['pid']} on {about.get('host')})" if "pid" in about else ""
    return LockedError(
        f"another process{who} is {about.get('doing', 'using')} {path.parent}; wait for it, or "
        "stop it first"
    )


def _take(path: Path, about: Mapping[str, Any], token: str) -> tuple[int, float]:
    """Make the next claim; returns its number, and when it began to be written."""
    before, seen = _wait_until_free(path)
    number = before + 1
    claim = _claim(path, number)
    written = time.monotonic()
    if not _create(claim, about, token):
        raise locked_error(path, _read(claim))
    numbers = _numbers(path)
    now = _read(_claim(path, before)) if before else {}
    if numbers[-1:] != [number] or (now != seen and not now.get("released", True)):
        files.remove(claim)  # this process was too slow, or the previous holder is alive
        raise locked_error(path, _last(path)[1])
    for old in numbers[:-1]:
        files.remove(_claim(path, old))
    return number, written


def _wait_until_free(path: Path) -> tuple[int, dict[str, Any]]:
    """Wait until nobody holds the last claim, and return it.

    Raises:
        LockedError: Its holder is alive.
    """
    first = _last(path)
    end = time.monotonic() + LEASE_SECONDS
    while True:
        now = _last(path)
        if now[0] == 0 or now[1].get("released"):
            return now
        if now != first:
            raise locked_error(path, now[1])
        if time.monotonic() > end:
            return now
        time.sleep(min(1.0, LEASE_SECONDS / 4))


def _create(claim: Path, about: Mapping[str, Any], token: str) -> bool:
    """Write a claim unless another process has written it; returns whether it is ours."""
    if not _is_conditional(claim):
        if files.exists(claim):
            return False
        _write(claim, about, token)
        time.sleep(SETTLE_SECONDS)
    else:
        store, key = files.store_of(claim)
        data = _text(about, token)

        def create() -> None:
            try:
                store.pipe_file(key, data, mode="create")
            except Exception:  # stores differ in how they refuse
                if not files.exists(claim):
                    raise

        retry(create, claim)
    return _read(claim).get("token") == token


def _is_conditional(claim: Path) -> bool:
    """Whether the claim's store creates exclusively; tried once per bucket and process."""
    protocol, _, place = str(claim).partition("://")
    bucket = f"{protocol}://{place.partition('/')[0]}"
    if protocol not in CONDITIONAL:
        return False
    if bucket not in _conditional:
        _conditional[bucket] = _refuses_to_create_twice(claim)
    return _conditional[bucket]


_conditional: dict[str, bool] = {}


def _refuses_to_create_twice(claim: Path) -> bool:
    """Try it on a file beside the claim: some stores reject the condition, some ignore it."""
    probe = claim.with_name(f"{claim.name}.{uuid.uuid4().hex}")
    store, key = files.store_of(probe)

    def create() -> bool:
        try:
            store.pipe_file(key, b"first", mode="create")
        except FileExistsError:  # of a try before, whose answer was lost
            return True
        except (TypeError, NotImplementedError):
            return False
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            return False
        return True

    if not retry(create, probe):
        return False
    with suppress(Exception):  # stores differ in how they refuse
        store.pipe_file(key, b"second", mode="create")
    refused = files.read_bytes(probe) == b"first"
    files.remove(probe)
    return refused


def _last(path: Path) -> tuple[int, dict[str, Any]]:
    """The highest number and its claim; 0 and {} where there is none."""
    for _ in range(LOOKS):
        numbers = _numbers(path)
        if not numbers:
            break
        if claim := _read(_claim(path, numbers[-1])):
            return numbers[-1], claim
    return 0, {}


def _numbers(path: Path) -> list[int]:
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)")
    matches = (pattern.fullmatch(name) for name in files.names(path.parent))
    return sorted(int(match[1]) for match in matches if match)


def _claim(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _read(claim: Path) -> dict[str, Any]:
    """The content of a claim; {} if there is none."""
    try:
        found = json.loads(files.read_bytes(claim))
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    return found if isinstance(found, dict) and found else {"damaged": True}


def _text(about: Mapping[str, Any], token: str, released: bool = False) -> bytes:
    claim = {**about, "token": token, "beat": time.time(), "released": released}
    return (json.dumps(claim) + "\n").encode()


def _write(
    claim: Path,
    about: Mapping[str, Any],
    token: str,
    *,
    released: bool = False,
    seconds: float | None = None,
) -> None:
    files.write_atomic(claim, _text(about, token, released), seconds)
