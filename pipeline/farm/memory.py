"""How much memory a process may use here, and whether the kernel ended one for want of it.

A container or a Slurm job has a limit of its own (a control group's), mostly far below what the
machine has; above it the kernel kills.
"""

from __future__ import annotations

from pathlib import Path

import psutil

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
LIMITS = {"memory": "memory.limit_in_bytes", "": "memory.max"}
"""The file with a control group's limit, by the controller that /proc/self/cgroup names: that of
version 1, or none at all in version 2."""


def machine_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that the processes of this machine, container or job may use together."""
    total = int(psutil.virtual_memory().total)
    return min([total, *_group_limits(proc, cgroups)])


def oom_kills(proc: Path = PROC) -> int:
    """How many processes the kernel has ended for want of memory since it booted.

    Those of other containers of the machine are counted too.
    """
    try:
        lines = (proc / "vmstat").read_text().splitlines()
    except OSError:  # no Linux
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _group_limits(proc: Path, cgroups: Path) -> list[int]:
    """The limits of this process's control group and of those above it.

    In a container the path may be the host's: what is not found there is looked for at the root,
    which is the container's own group.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:  # such as 4:memory:/user/1000, or 0::/user.slice in version 2
        _, controllers, place = line.split(":", 2)
        controller = "memory" if "memory" in controllers.split(",") else controllers
        if controller not in LIMITS:
            continue
        root = cgroups / controller
        group = root if ".." in place else root / place.lstrip("/")
        while group != root.parent:
            limits += _limit(group / LIMITS[controller])
            group = group.parent
    return limits


def _limit(path: Path) -> list[int]:
    """The number in a file; none where there is no such file, or it says `max`."""
    try:
        return [int(path.read_text())]
    except (OSError, ValueError):
        return []
