"""A full disk: how it is detected, which disk it is, and what the user reads.

A full disk stops the run with one clear line; it never counts against a seed.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import read_tail
from pipeline.layout import RunFolder
from pipeline.storage import DISK_FULL
from pipeline.units import GIB

FULL_BYTES = 16 * 2**20  # a file system with less free space than this counts as full
FULL_MESSAGES = tuple(os.strerror(error) for error in DISK_FULL)


def disk_full_reason(log: Path, folder: Path) -> str | None:
    """The system's message if a child failed for lack of disk space; None if it did not.

    Args:
        log: The child's log, which may hold the message.
        folder: Where the child wrote; its file system is checked if the log says nothing.
    """
    log_tail = read_tail(log)
    if message := next((text for text in FULL_MESSAGES if text in log_tail), None):
        return message
    full = shutil.disk_usage(folder).free < FULL_BYTES
    return os.strerror(errno.ENOSPC) if full else None


def which_disk(error: OSError, run: RunFolder) -> str:
    """The reason of a `Result`: `disk` where OUT is full, `scratch` where the scratch disk is."""
    if storage.is_remote(run.path):
        return "scratch"
    in_out = str(error.filename or "").startswith(str(run.scenes))
    full = shutil.disk_usage(run.path).free < FULL_BYTES
    return "disk" if in_out or full else "scratch"


def disk_full_error(
    run: RunFolder, wanted: int = 0, *, scratch: str | None = None, detail: str = ""
) -> UserError:
    """The error that names the full file system: that of OUT or that of scratch.

    Args:
        run: OUT.
        wanted: Bytes that must be free for a new scene, if that is the reason.
        scratch: Where attempts work, if not in the folder for temporary files.
        detail: What a worker reported about the disk of its machine, which may be another machine.
    """
    paths = [Path(scratch or tempfile.gettempdir())]
    if not storage.is_remote(run.path):
        paths.append(run.path)
    folders = [path.resolve() for path in paths if path.exists()]
    if wanted:
        folders = folders[-1:]
    folder = min(folders, key=lambda path: shutil.disk_usage(path).free, default=None)
    if folder is None or (detail and shutil.disk_usage(folder).free > GIB):
        return UserError(
            f"the scratch disk of every node is full ({detail}); free space or choose another "
            "SCRATCH, then run the same command again to resume"
        )
    free = shutil.disk_usage(folder).free
    mount = folder
    while not os.path.ismount(mount):
        mount = mount.parent
    need = f", and a new scene needs {wanted / GIB:.1f} GiB" if wanted else ""
    return UserError(
        f"the disk is full: {free / GIB:.2f} GiB free on {mount}{need}; free space, then run the "
        "same command again to resume"
    )


def explain_error(error: OSError, run: RunFolder) -> Exception:
    """The UserError for a file of OUT that cannot be used; any other error is returned as it is."""
    if error.errno in DISK_FULL:
        return disk_full_error(run)
    if str(error.filename or "").startswith(str(run.path)):
        return UserError(
            f"cannot use {error.filename} ({error.strerror}); fix that, then run the same command "
            "again"
        )
    return error
