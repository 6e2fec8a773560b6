"""Exclusive locks: one process at a time works in a folder.

In a folder the lock is the kernel's, which drops it with its process, also after `kill -9`: flock,
or on Windows a locked byte. In a store, which has no such locks, it is a lease
(`pipeline.storage.lease`).
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from pipeline.errors import UserError
from pipeline.storage import lease
from pipeline.storage.errors import is_remote, retry

TRIES, WAIT = 10, 0.05  # seconds; `read_lock` holds a lock for microseconds
WINDOWS_BYTE = 2**30  # the byte that is locked, far behind the text, which others may read


class Lock(Protocol):
    """A lock that this process holds."""

    def check(self) -> None:
        """Raise a UserError if the lock is lost: call it before and between writes."""


@dataclass(frozen=True)
class LockState:
    """The content of a lock file.

    Attributes:
        held: A process holds the lock now; of a store, by this machine's clock.
        about: The present or last holder: `host`, `pid`, `doing`, and what it added.
    """

    held: bool
    about: dict[str, Any]


@contextmanager
def exclusive_lock(
    path: Path, doing: str, about: Mapping[str, Any] | None = None
) -> Iterator[Lock]:
    """Hold a lock until the block ends.

    Args:
        path: The lock file; its folder, the one to be worked in, is made where it is missing.
        doing: What the holder does with the folder, such as "packing".
        about: More entries for the lock file, as JSON.

    Raises:
        LockedError: Another process holds it.
        UserError: The folder cannot be written.
    """
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "doing": doing, **(about or {})}
    hold = lease.hold(path, mine) if is_remote(path) else _hold(path, mine)
    with hold as lock:
        yield lock


def read_lock(path: Path) -> LockState | None:
    """The present or last holder of a lock; None if there never was one."""
    if is_remote(path):
        held, about = lease.read(path)
        return LockState(held, about) if about else None
    try:
        with open(path) as file:
            return LockState(not try_lock(file, shared=True), _about(file))
    except OSError:  # there is none, or it is not ours to read
        return None


def try_lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Try to lock an open file. The lock ends when the file is closed or its process ends.

    Args:
        file: Open; for writing where the lock shall be exclusive.
        shared: Others may hold shared locks too; Windows has exclusive ones only.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        import fcntl  # here, because Windows has no fcntl and imports this module
    except ImportError:
        return _try_lock_byte(file)
    try:
        fcntl.flock(file.fileno(), (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_byte(file: IO[Any]) -> bool:
    msvcrt: Any = importlib.import_module("msvcrt")
    place = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    os.lseek(file.fileno(), WINDOWS_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except PermissionError:
        return False
    finally:
        os.lseek(file.fileno(), place, os.SEEK_SET)
    return True


@dataclass(frozen=True)
class _FileLock:
    """A lock of the kernel. It belongs to the file, not to its name."""

    path: Path
    file: IO[str]
    about: Mapping[str, Any]

    def check(self) -> None:
        """Raise a UserError if the folder was removed or renamed: another may take its name."""
        with suppress(FileNotFoundError, NotADirectoryError):
            ours = retry(lambda: os.fstat(self.file.fileno()), self.path)
            if os.path.samestat(ours, retry(self.path.stat, self.path)):
                return
        raise UserError(
            f"{self.path.parent} was removed or replaced while this process was "
            f"{self.about['doing']} it; what it wrote is where that folder went"
        )


@contextmanager
def _hold(path: Path, about: Mapping[str, Any]) -> Iterator[Lock]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - closed below, and by the kernel
    except OSError as error:
        raise UserError(
            f"cannot write to {path.parent} ({error.strerror}); choose a folder you may write to"
        ) from None
    with file:
        try:
            taken = any(_taken(file, number) for number in range(TRIES))
        except OSError as error:
            raise UserError(
                f"the file system of {path.parent} has no file locks ({error.strerror}); choose a "
                "folder on one that has"
            ) from None
        if not taken:
            raise lease.locked_error(path, _about(file))
        file.truncate(0)
        file.write(json.dumps(dict(about)) + "\n")
        file.flush()
        yield _FileLock(path, file, about)


def _taken(file: IO[str], number: int) -> bool:
    if number:
        time.sleep(WAIT)
    return try_lock(file)


def _about(file: IO[str]) -> dict[str, Any]:
    """The content of a lock file; {} if its holder has not written it yet."""
    file.seek(0)
    try:
        about = json.loads(file.read())
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}
