"""Run one child process under limits, and leave nothing of it behind.

Knows nothing of scenes, Ray or Blender: a command goes in, a `Result` comes out.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
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
    GIB,
    PARENT_VARIABLE,
    REJECTED_PREFIX,
    REJECTED_STATUS,
    Limits,
)
from pipeline.storage import DISK_FULL

POLL_SECONDS = 0.5
WEIGH_SECONDS = 10.0  # between two looks at the size of the child's folder
GRACE_SECONDS = 2.0  # between SIGTERM and SIGKILL
FULL_MESSAGES = tuple(os.strerror(error) for error in DISK_FULL)
MEMORY_SHARE = 0.9  # of the memory that there is, the most that one child may use
FULL_BYTES = 16 * 2**20  # a file system with less free space than this is full
SECRETS = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY")


def run_child(
    argv: Sequence[str],
    log_path: Path,
    limits: Limits,
    *,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_poll: Callable[[], None] | None = None,
) -> Result:
    """Run a command in a session of its own until it ends or breaks a limit.

    Whatever happens here, an exception or a Ctrl-C included, the whole session is dead when this
    returns or raises. Should this process itself be killed, the child dies by `die_with_parent`.

    Args:
        argv: The command.
        log_path: Receives stdout and stderr; replaced.
        limits: What the command may use.
        folder: Where the command writes; watched for `limits.disk`.
        env: Variables on top of this process's own, which are passed on without its secrets.
        on_poll: Called now and then while the command runs; what it raises ends the command.

    Returns:
        The outcome; `ok` only says that the exit status was 0, the caller looks for the marker.

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
    reason, detail = broken or verdict(child.returncode, read_tail(log_path))
    if child.returncode == -signal.SIGKILL and not broken and oom_kills() > kills_before:
        reason, detail = "memory", f"the kernel ended it at {usage.rss / GIB:.1f} GiB"
    elif reason not in ("ok", "rejected") and (why := full_disk(log_path, folder)):
        reason, detail = "scratch", why
    log_tail = read_tail(log_path)
    if limits.log is not None and log_path.stat().st_size > limits.log:
        os.truncate(log_path, limits.log // 64)  # the beginning of endless output says enough
    return Result(
        reason=reason,
        detail=detail,
        seconds=time.monotonic() - started,
        # waited-for children exactly, or what was last seen of children that nobody waited for
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
        "PYTHONHASHSEED": "0",  # a seed must give the same scene every time
        PARENT_VARIABLE: str(os.getpid()),
        **extra,
    }


def verdict(status: int, log_tail: str) -> tuple[str, str]:
    """Reason and detail of a child that ended by itself.

    >>> verdict(3, "rejected: no free viewpoint")
    ('rejected', 'no free viewpoint')
    >>> verdict(-11, "")[1]
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
    """Bytes that a child may use on this machine; the kernel would end it at random above."""
    if limits.memory is None:
        return None
    return min(limits.memory, int(MEMORY_SHARE * machine_memory()))


def full_disk(log_path: Path, folder: Path | None) -> str | None:
    """The system's words if a child failed for want of disk space, by its log or by looking."""
    log_tail = read_tail(log_path)
    if said := next((message for message in FULL_MESSAGES if message in log_tail), None):
        return said
    full = shutil.disk_usage(folder or log_path.parent).free < FULL_BYTES
    return os.strerror(errno.ENOSPC) if full else None


def _watch(
    child: subprocess.Popen[bytes],
    log_path: Path,
    folder: Path | None,
    limits: Limits,
    usage: Usage,
    on_poll: Callable[[], None] | None,
) -> tuple[str, str] | None:
    """Wait for the child; the reason and detail of the limit it broke, if it broke one."""
    started = last_grown = last_weighed = time.monotonic()
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
        if limits.disk is None or folder is None or now - last_weighed < WEIGH_SECONDS:
            continue
        last_weighed = now
        if _folder_bytes(folder) > limits.disk:
            return "size", f"wrote more than {limits.disk / GIB:.1f} GiB"


def _folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, on disk; files may come and go meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(root, name).lstat().st_blocks * 512
    return total


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def kill_session(session: int, grace: float) -> None:
    """End every process of a session: SIGTERM, so many seconds of grace, SIGKILL."""
    members = session_members(session)
    for process in members:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(members, timeout=grace if members else 0)
    for _ in range(10):  # again, for those born in between
        members = session_members(session)
        if not members:
            return
        for process in members:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(members, timeout=1)


def session_members(session: int) -> list[psutil.Process]:
    """The living processes of a session, orphaned grandchildren included."""
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
