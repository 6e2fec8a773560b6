"""A disk that is full stops the run with one clear line; it is never held against a seed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.errors import UserError
from pipeline.farm.worker import GIB
from pipeline.outputs import DISK_FULL, RunFolder


def disk_full(run: RunFolder, wanted: int = 0) -> UserError:
    """The error that names the full file system: OUT's own, or that of temporary files.

    Args:
        run: OUT.
        wanted: Bytes that must be free for a new scene, if that is the reason.
    """
    folder = run.path.resolve()
    if not wanted:
        temporary = Path(tempfile.gettempdir()).resolve()
        folder = min(folder, temporary, key=lambda path: shutil.disk_usage(path).free)
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
