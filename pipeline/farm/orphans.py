"""A child does not outlive the worker that watches it, not even after `kill -9` of the worker.

Of the child alone: what it started in turn then lives on until it ends by itself. (Where the worker
lives to see its child end, it kills the whole session: `session.kill_session`.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "SAP_FARM_PARENT"
"""Set by `worker.run_job` for its child: the process id of the watcher."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask the kernel to kill this process as soon as its farm worker is gone.

    Call it first thing, before threads start. Does nothing outside Linux, and nothing in a
    process that no farm worker started (a Blender run by hand may outlive its shell).
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        die_with(int(parent))


def die_with(parent: int) -> None:
    """The same for any process and its parent, whose process id it is told."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the line above; the kernel then sends nothing.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
