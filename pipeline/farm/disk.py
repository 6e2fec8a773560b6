"""A disk that is full stops the run with one clear line; it is never held against a seed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.worker import GIB
from pipeline.layout import DISK_FULL, RunFolder


def disk_full(
    run: RunFolder, wanted: int = 0, *, scratch: str | None = None, detail: str = ""
) -> UserError:
    """The error that names the full file system: OUT's own, or that of scratch.

    Args:
        run: OUT.
        wanted: Bytes that must be free for a new scene, if that is the reason.
        scratch: Where attempts work, if not in the folder for temporary files.
        detail: What a worker said of its machine's disk, where that is another one's.
    """
    here = [Path(scratch or tempfile.gettempdir())]
    if not storage.is_remote(run.path):
        here.append(run.path)
    folders = [path.resolve() for path in here if path.exists()]
    if wanted:
        folders = folders[-1:]
    folder = min(folders, key=lambda path: shutil.disk_usage(path).free, default=None)
    if folder is None or (detail and shutil.disk_usage(folder).free > GIB):
        return UserError(
            f"the scratch disk of every node is full ({detail}); free some or choose another "
            "SCRATCH, and run the same command again, it goes on where this one stopped"
        )
    free = shutil.disk_usage(folder).free
    mount = folder
    while not os.path.ismount(mount):
        mount = mount.parent
    need = f", and a new scene wants {wanted / GIB:.1f} GiB" if wanted else ""
    return UserError(
        f"the disk is full: {free / GIB:.2f} GiB free on {mount}{need}; free some and run the "
        "same command again, it goes on where this one stopped"
    )


def explained(error: OSError, run: RunFolder) -> Exception:
    """The user's line for a file of OUT that cannot be used; any other error unchanged."""
    if error.errno in DISK_FULL:
        return disk_full(run)
    if str(error.filename or "").startswith(str(run.path)):
        return UserError(
            f"cannot use {error.filename} ({error.strerror}); mend that and run the same "
            "command again"
        )
    return error
