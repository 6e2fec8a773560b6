"""Claim OUT for one driver, one set of settings.

    OUT/run.json      what the run is, for good
    OUT/driver.lock   held while a driver works; says which, since when, for how many scenes

The lock is `pipeline.storage.exclusive_lock`, of folders and stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import UserError
from pipeline.layout import RunFolder, read_json, write_json
from pipeline.run_settings import RunSettings, settings_hash, to_json, versions

SETTINGS_SECONDS = 5.0  # between two looks at what the settings stand for


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
    about = {"started": time.time(), "scenes": scenes}
    with storage.exclusive_lock(run.driver_lock, "working in", about) as lock:
        _check_settings(run, settings, begun=_is_begun(run))

        checked = time.monotonic()

        def check() -> None:
            nonlocal checked
            lock.check()
            if time.monotonic() - checked > SETTINGS_SECONDS:
                _check_settings(run, settings)  # a changed configuration would make other scenes
                checked = time.monotonic()

        yield check


def read_claim(run: RunFolder) -> Claim | None:
    """The present or last driver of a run; None if there never was one."""
    lock = storage.read_lock(run.driver_lock)
    if lock is None:
        return None
    about = lock.about
    try:
        return Claim(
            held=lock.held,
            scenes=int(about["scenes"]),
            started=float(about["started"]),
            host=str(about["host"]),
            pid=int(about["pid"]),
        )
    except (ValueError, KeyError, TypeError):  # not written yet, or damaged
        return None


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
    ours = {name for name in names if name.startswith(("driver.lock", ".run.json."))}
    if names - ours and run.settings.name not in names:
        raise UserError(
            f"OUT={run.path} holds other files and no run.json; choose a new or empty folder"
        )


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
