"""Claim OUT for one driver, one set of settings.

    OUT/run.json      what the run is, for good
    OUT/driver.lock   held while a driver works; says which, since when, for how many scenes

In a folder the lock is the kernel's (flock), which drops it with its process, also after `kill -9`.
It is on the file, not on its name: a driver whose OUT is removed or renamed must stop, for another
may now take the name. In a store it is a lease (`pipeline.lease`).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.errors import UserError
from pipeline.layout import RunFolder, read_json, write_json
from pipeline.lease import is_held, lease
from pipeline.settings import RunSettings, settings_hash, to_json, versions

SETTINGS_SECONDS = 5.0  # between two looks at what the settings stand for
LOCK_TRIES = 10  # `make status` holds the lock for microseconds; try again before giving up


@dataclass(frozen=True)
class Claim:
    """Who works, or last worked, in OUT.

    Attributes:
        held: A driver is working now.
        scenes: How many scenes it was asked for.
        started: When it started, Unix seconds.
        host: Its machine.
        pid: Its process.
    """

    held: bool
    scenes: int
    started: float
    host: str
    pid: int


@contextmanager
def claim(run: RunFolder, settings: RunSettings, scenes: int) -> Iterator[Callable[[], None]]:
    """Hold OUT for this driver.

    Yields:
        To be called now and then; raises a UserError when OUT is no longer the folder held, or
        when what its settings stand for has changed.

    Raises:
        UserError: OUT cannot be written, holds something else, belongs to other settings, or
            another driver works in it.
    """
    _refuse_foreign(run)
    remote, path = storage.is_remote(run.path), lock_path(run)
    about = {"started": time.time(), "scenes": scenes}
    hold = lease(path, "working in", about) if remote else _lock(path, about)
    with hold as check_still_held:
        _check_settings(run, settings, begun=_is_begun(run))

        checked = time.monotonic()

        def check() -> None:
            nonlocal checked
            check_still_held()
            if time.monotonic() - checked > SETTINGS_SECONDS:
                _check_settings(run, settings)  # a changed configuration would make other scenes
                checked = time.monotonic()

        yield check


def read_claim(run: RunFolder) -> Claim | None:
    """The present or last driver of a run; None if there never was one."""
    path = lock_path(run)
    try:
        if storage.is_remote(path):
            held, about = is_held(path), json.loads(storage.read_bytes(path))
        else:
            with open(path) as lock:
                held = not _try_lock(lock.fileno(), fcntl.LOCK_SH)
                about = json.loads(lock.read())
        return Claim(
            held=held,
            scenes=int(about["scenes"]),
            started=float(about["started"]),
            host=str(about["host"]),
            pid=int(about["pid"]),
        )
    except (OSError, ValueError, KeyError, TypeError):  # none, or not yet written, or damaged
        return None


def lock_path(run: RunFolder) -> Path:
    return run.path / "driver.lock"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two run.json, as `name old → new`.

    >>> differences({"settings": {"panos": 2}}, {"settings": {"panos": 3}})
    ['panos 2 → 3']
    """
    found = []
    for part, suffix in (("settings", ""), ("versions", " version")):
        was, is_ = old.get(part, {}), new.get(part, {})
        found += [
            f"{name}{suffix} {was.get(name, 'absent')} → {is_.get(name, 'absent')}"
            for name in sorted(was.keys() | is_.keys())
            if was.get(name) != is_.get(name)
        ]
    if not found and old.get("settings_hash") != new.get("settings_hash"):
        found = ["the profile's definition or the files in infinigen_configs/"]
    return found


def _refuse_foreign(run: RunFolder) -> None:
    try:
        names = set(storage.names(run.path))
    except OSError as error:
        raise UserError(f"OUT={run.path}: {error.strerror}; choose a folder") from None
    ours = {name for name in names if name == "driver.lock" or name.startswith(".run.json.")}
    if names - ours and run.settings.name not in names:
        raise UserError(
            f"OUT={run.path} holds other files and no run.json; choose a new or empty folder"
        )


@contextmanager
def _lock(path: Path, about: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """Hold a lock file of a file system until the block ends; as `lease.lease`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+")  # noqa: SIM115 - closed below, and by the kernel
    except OSError as error:
        raise UserError(
            f"cannot write to OUT={path.parent} ({error.strerror}); choose a folder you may write "
            "to"
        ) from None
    with lock:
        _take(lock.fileno(), path)
        lock.truncate(0)
        lock.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), **about}) + "\n")
        lock.flush()
        yield lambda: _check_still_held(lock.fileno(), path)


def _take(descriptor: int, path: Path) -> None:
    for _ in range(LOCK_TRIES):
        try:
            if _try_lock(descriptor, fcntl.LOCK_EX):
                return
        except OSError as error:
            raise UserError(
                f"the file system of OUT={path.parent} has no file locks ({error.strerror}); "
                "choose an OUT on one that has"
            ) from None
        time.sleep(0.05)
    holder = read_claim(RunFolder(path.parent))
    who = f" (process {holder.pid} on {holder.host})" if holder else ""
    raise UserError(
        f"another driver{who} is working in OUT={path.parent}; wait for it, or stop it first"
    )


def _check_still_held(descriptor: int, path: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        held = storage.retry(lambda: os.fstat(descriptor), path)
        if os.path.samestat(held, storage.retry(path.stat, path)):
            return
    raise UserError(
        f"OUT={path.parent} was removed or replaced while this driver worked in it; what it made "
        "is where that folder went"
    )


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_begun(run: RunFolder) -> bool:
    """Whether OUT holds a scene, finished or not; settings alone may still be changed."""
    folders = (run.scenes, run.done_folder, run.failed_folder)
    return any(storage.names(folder) for folder in folders)


def _check_settings(run: RunFolder, settings: RunSettings, begun: bool = True) -> None:
    new = {
        "settings": to_json(settings),
        "versions": versions(),
        "settings_hash": settings_hash(settings),
    }
    if not begun or not storage.exists(run.settings):
        write_json(run.settings, new)
        return
    remedy = "restore it or choose another OUT"
    old = read_json(run.settings, remedy)
    if not all(isinstance(old.get(part), dict) for part in ("settings", "versions")):
        raise UserError(f"{run.settings} is damaged; {remedy}")
    if changed := differences(old, new):
        raise UserError(
            f"OUT={run.path} was made with other settings: {'; '.join(changed)}; "
            "choose another OUT, or go back to the old ones"
        )
