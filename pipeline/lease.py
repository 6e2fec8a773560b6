"""Hold a folder on object storage, which has no file locks: a lock file that its holder renews.

It holds {"token", "beat", "released"}, who holds it and what the holder adds. The holder writes it
anew every `BEAT_SECONDS`. Whoever finds one that is not released watches it for `LEASE_SECONDS`: if
it changes, its holder lives, else its holder is gone and it is taken over. A holder that finds
somebody else's token in it stops. Clocks are compared by `is_held` alone, which only informs.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.errors import UserError

BEAT_SECONDS = 15.0
LEASE_SECONDS = 60.0
SETTLE_SECONDS = 2.0  # after which the last of several writers is the one that stays


@contextmanager
def lease(
    path: Path, doing: str, more: dict[str, Any] | None = None
) -> Iterator[Callable[[], None]]:
    """Hold a lock file in a store until the block ends.

    Args:
        path: The lock file, in the folder that is held.
        doing: What the holder does with the folder, such as "packing".
        more: What the file shall say besides.

    Yields:
        To be called now and then; raises a UserError when somebody else holds it now.

    Raises:
        UserError: Somebody else holds it, or the store does not let us write.
    """
    token = uuid.uuid4().hex
    about = {"host": socket.gethostname(), "pid": os.getpid(), "doing": doing, **(more or {})}
    _wait_until_free(path)
    try:
        _write(path, about, token)
    except Exception as error:
        raise UserError(
            f"cannot write to {path.parent} ({type(error).__name__}: {error}); check the address "
            "and your credentials"
        ) from None
    time.sleep(SETTLE_SECONDS)
    taken = threading.Event()
    if _read(path).get("token") != token:
        raise _held(path, _read(path))
    stop = threading.Event()
    renewed = time.monotonic()

    def beat() -> None:
        nonlocal renewed
        while not stop.wait(BEAT_SECONDS):
            try:
                if _read(path).get("token", token) != token:
                    taken.set()
                    return
                # not for long: what is written late may be written over a successor's
                _write(path, about, token, seconds=LEASE_SECONDS / 6)
                renewed = time.monotonic()
            except Exception:  # noqa: S112 - whatever it was, `check` notices what follows from it
                continue

    def check() -> None:
        if time.monotonic() - renewed > LEASE_SECONDS / 2 and _read(path).get("token") != token:
            taken.set()  # it could not be renewed in time; and without its store nobody gets here
        if taken.is_set():
            raise _held(path, _read(path))

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join()
        if not taken.is_set() and _read(path).get("token") == token:
            _write(path, about, token, released=True)


def is_held(path: Path) -> bool:
    """Whether a holder has renewed the lock lately, by this machine's clock."""
    lock = _read(path)
    beat = lock.get("beat")
    return (
        not lock.get("released", True)
        and isinstance(beat, float)
        and time.time() - beat < LEASE_SECONDS
    )


def _wait_until_free(path: Path) -> None:
    """Return once nobody holds the lock; UserError as soon as somebody is seen to."""
    first = _read(path)
    if first.get("released", True):
        return
    end = time.monotonic() + LEASE_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, LEASE_SECONDS / 4))
        now = _read(path)
        if now.get("released", True):
            return
        if now != first:
            raise _held(path, now)


def _held(path: Path, lock: dict[str, Any]) -> UserError:
    return UserError(
        f"another process ({lock.get('pid')} on {lock.get('host')}) is {lock.get('doing')} "
        f"{path.parent}; wait for it, or stop it first"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        lock = json.loads(storage.read_bytes(path))
    except (FileNotFoundError, ValueError):
        return {}
    return lock if isinstance(lock, dict) else {}


def _write(
    path: Path,
    about: dict[str, Any],
    token: str,
    *,
    released: bool = False,
    seconds: float | None = None,
) -> None:
    lock = {**about, "token": token, "beat": time.time(), "released": released}
    storage.write_atomic(path, (json.dumps(lock) + "\n").encode(), seconds)
