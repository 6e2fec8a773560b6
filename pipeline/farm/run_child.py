"""Run one child process under limits, and leave no process of it behind.

This module knows nothing of scenes, Ray or Blender: a command goes in, a `Result` comes out.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.farm.attempt import Result, read_tail
from pipeline.farm.child import (
    DAMAGED_PREFIX,
    DAMAGED_STATUS,
    PARENT_VARIABLE,
    REJECTED_PREFIX,
    REJECTED_STATUS,
    Limits,
)
from pipeline.farm.disk_space import disk_full_reason
from pipeline.units import GIB

POLL_SECONDS = 0.5
DISK_SECONDS = 10.0  # between two measurements of the child's folder
GRACE_SECONDS = 2.0  # between SIGTERM and SIGKILL
MEMORY_SHARE = 0.9  # most of the available memory that one child may use
SECRETS = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY")

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_LIMITS = {"memory": "memory.limit_in_bytes", "": "memory.max"}
"""File with a control group's limit, by its controller in /proc/self/cgroup: "memory" in version 1,
"" in version 2."""


def run_child(
    argv: Sequence[str],
    log_path: Path,
    limits: Limits,
    *,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_poll: Callable[[], None] | None = None,
) -> Result:
    """Run a command in its own session until it ends or breaks a limit.

    The whole session is dead when this returns or raises, also after an exception or Ctrl-C. If
    this process is killed, the child dies by `child.die_with_parent`.

    Args:
        argv: The command.
        log_path: Receives stdout and stderr; replaced.
        limits: What the command may use.
        folder: Where the command writes; watched for `limits.disk`.
        env: Variables in addition to this process's own, which are passed on without secrets.
        on_poll: Called now and then while the command runs; what it raises ends the command.

    Returns:
        The result. `ok` only means exit status 0; the caller checks for the marker.

    Example:
        >>> run_child(["true"], Path("/tmp/true.log"), Limits(wall=5)).reason
        'ok'
    """
    started = time.monotonic()
    cpu_before, kills_before = _children_cpu(), oom_kills()
    usage = Usage()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log_path.unlink(missing_ok=True)
    with (
        open(log_path, "ab") as log,
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment(os.environ, env or {}),
            start_new_session=True,
        ) as child,
    ):
        try:
            broken = _watch(child, log_path, folder, limits, usage, on_poll)
        finally:
            kill_session(child.pid, GRACE_SECONDS)
    reason, detail = broken or interpret_exit(child.returncode, read_tail(log_path))
    if child.returncode == -signal.SIGKILL and not broken and oom_kills() > kills_before:
        reason, detail = "memory", f"the kernel ended it at {usage.rss / GIB:.1f} GiB"
    elif reason not in ("ok", "rejected") and (
        message := disk_full_reason(log_path, folder or log_path.parent)
    ):
        reason, detail = "scratch", message
    log_tail = read_tail(log_path)
    if limits.log is not None and log_path.stat().st_size > limits.log:
        os.truncate(log_path, limits.log // 64)  # the beginning of endless output is enough
    return Result(
        reason=reason,
        detail=detail,
        seconds=time.monotonic() - started,
        # exact for children that were waited for, else what was last sampled
        cpu_seconds=max(_children_cpu() - cpu_before, usage.cpu_seconds),
        peak_rss=usage.peak_rss,
        log_tail=log_tail,
    )


def child_environment(own: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """This process's variables without its secrets, and what every child needs."""
    kept = {name: value for name, value in own.items() if not SECRETS.search(name.upper())}
    return {
        **kept,
        "PYTHONUNBUFFERED": "1",  # the no-output limit watches the log
        "PYTHONHASHSEED": "0",  # a seed must always give the same scene
        PARENT_VARIABLE: str(os.getpid()),
        **extra,
    }


def interpret_exit(status: int, log_tail: str) -> tuple[str, str]:
    """Reason and detail of a child that ended without breaking a limit.

    >>> interpret_exit(3, "rejected: no free viewpoint")
    ('rejected', 'no free viewpoint')
    >>> interpret_exit(-11, "")[1]
    'killed by SIGSEGV'
    """
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else ""
    if status == 0:
        return "ok", ""
    if status == REJECTED_STATUS and last.startswith(REJECTED_PREFIX):
        return "rejected", last.removeprefix(REJECTED_PREFIX)
    if status == DAMAGED_STATUS and last.startswith(DAMAGED_PREFIX):
        return "damaged", last.removeprefix(DAMAGED_PREFIX)
    how = f"killed by {_signal_name(-status)}" if status < 0 else f"exit status {status}"
    return "crashed", f"{how}: {last}" if last else how


def memory_limit(limits: Limits) -> int | None:
    """Bytes that a child may use on this machine; above it the kernel would kill at random."""
    if limits.memory is None:
        return None
    return min(limits.memory, int(MEMORY_SHARE * machine_memory()))


def machine_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that the processes of this machine, container or job may use together.

    A container or a Slurm job has its own limit (of a control group), usually far below the memory
    of the machine.
    """
    total = int(psutil.virtual_memory().total)
    return min([total, *_cgroup_limits(proc, cgroups)])


def oom_kills(proc: Path = PROC) -> int:
    """How many processes the kernel has killed for lack of memory since it booted.

    Those of other containers of the machine are included.
    """
    try:
        lines = (proc / "vmstat").read_text().splitlines()
    except OSError:  # not Linux
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def kill_session(session: int, grace: float) -> None:
    """End every process of a session: SIGTERM, `grace` seconds, SIGKILL."""
    members = session_members(session)
    for process in members:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(members, timeout=grace if members else 0)
    for _ in range(10):  # repeated, for processes that started in between
        members = session_members(session)
        if not members:
            return
        for process in members:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(members, timeout=1)


def session_members(session: int) -> list[psutil.Process]:
    """The living processes of a session, including orphaned grandchildren."""
    members = []
    for pid in psutil.pids():
        with suppress(OSError, psutil.NoSuchProcess):
            if os.getsid(pid) == session:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    members.append(process)
    return members


@dataclass
class Usage:
    """What a session was seen to use: CPU seconds, resident bytes now and at most."""

    cpu_seconds: float = 0.0
    peak_rss: int = 0
    rss: int = 0

    def sample(self, session: int) -> None:
        self.rss, cpu = 0, 0.0
        for process in session_members(session):
            with suppress(psutil.NoSuchProcess):
                self.rss += process.memory_info().rss
                cpu += sum(process.cpu_times()[:4])  # own and waited-for, user and system
        self.peak_rss = max(self.peak_rss, self.rss)
        self.cpu_seconds = max(self.cpu_seconds, cpu)


def _watch(
    child: subprocess.Popen[bytes],
    log_path: Path,
    folder: Path | None,
    limits: Limits,
    usage: Usage,
    on_poll: Callable[[], None] | None,
) -> tuple[str, str] | None:
    """Wait for the child; returns reason and detail of the limit that it broke, if any."""
    started = last_grown = last_measured = time.monotonic()
    log_bytes = 0
    memory = memory_limit(limits)
    while True:
        try:
            child.wait(timeout=POLL_SECONDS)
            return None
        except subprocess.TimeoutExpired:
            pass
        if on_poll is not None:
            on_poll()
        now = time.monotonic()
        usage.sample(child.pid)
        size = log_path.stat().st_size
        if size != log_bytes:
            log_bytes, last_grown = size, now
        if limits.wall is not None and now - started > limits.wall:
            return "timeout", f"still running after {limits.wall:.0f} s"
        if limits.silent is not None and now - last_grown > limits.silent:
            return "silent", f"no output for {limits.silent:.0f} s"
        if memory is not None and usage.rss > memory:
            return "memory", f"{usage.rss / GIB:.1f} GiB, allowed {memory / GIB:.1f}"
        if limits.log is not None and log_bytes > limits.log:
            return "size", f"printed more than {limits.log / 2**20:.0f} MiB"
        if limits.disk is None or folder is None or now - last_measured < DISK_SECONDS:
            continue
        last_measured = now
        if _folder_bytes(folder) > limits.disk:
            return "size", f"wrote more than {limits.disk / GIB:.1f} GiB"


def _folder_bytes(folder: Path) -> int:
    """Bytes on disk of all files below a folder; files may come and go meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(root, name).lstat().st_blocks * 512
    return total


def _cgroup_limits(proc: Path, cgroups: Path) -> list[int]:
    """The memory limits of this process's control group and of its ancestors.

    In a container the path may be the host's. A path that does not exist is then looked up at the
    root, which is the container's own group.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:  # such as 4:memory:/user/1000, or 0::/user.slice in version 2
        _, controllers, place = line.split(":", 2)
        controller = "memory" if "memory" in controllers.split(",") else controllers
        if controller not in CGROUP_LIMITS:
            continue
        root = cgroups / controller
        group = root if ".." in place else root / place.lstrip("/")
        while group != root.parent:
            with suppress(OSError, ValueError):  # no such file, or it says "max"
                limits.append(int((group / CGROUP_LIMITS[controller]).read_text()))
            group = group.parent
    return limits


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
