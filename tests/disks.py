"""Small disks."""

import os
import resource
import subprocess
from contextlib import contextmanager


@contextmanager
def little_space(folder, size):
    """Let files under `folder` take only so many bytes: a small tmpfs.

    Without the right to mount one, no file may grow beyond `size` instead, which fails at the
    same call with another error number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            capture_output=True,
        ).returncode
        == 0
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
