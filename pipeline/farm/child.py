"""What a child process and the supervisor that watches it agree on.

Both sides import this module: its limits, the exit protocol, and that it dies with its parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from dataclasses import dataclass

REJECTED_STATUS = 3
"""Exit status of a child that finds its scene unfit; another attempt would give the same scene."""

REJECTED_PREFIX = "rejected: "
"""Its last line then starts with this, and the reason follows."""

DAMAGED_STATUS = 4
"""Exit status of a child whose input is damaged; it has removed the input, to be made again."""

DAMAGED_PREFIX = "damaged: "
"""Its last line then starts with this, and the damaged file follows."""

PARENT_VARIABLE = "SAP_FARM_PARENT"
"""Environment variable with the process id of the supervisor; set by `supervisor.run_child`."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Limits:
    """What one child may use; None means no limit.

    Attributes:
        wall: Seconds from start to end.
        silent: Seconds without a new byte in the log.
        memory: Resident bytes of the child and all its descendants together; at most
            `run_child.MEMORY_SHARE` of what its machine, container or job may use.
        disk: Bytes of the folder that the child writes to.
        log: Bytes of the log, so that a child that prints without end does not fill the disk.
    """

    wall: float | None = None
    silent: float | None = None
    memory: int | None = None
    disk: int | None = None
    log: int | None = 256 * 2**20


def die_with_parent() -> None:
    """Ask the kernel to kill this process as soon as its supervisor is gone.

    Call it before threads start. It covers this process alone: descendants live until they end or
    until the supervisor kills the session. It does nothing outside Linux, and nothing in a process
    that no supervisor started (a Blender that was run by hand may outlive its shell).
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        die_with(int(parent))


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process as soon as its parent, given by process id, is gone."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the line above; the kernel then sends nothing.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
