"""Run one child process under limits, and leave nothing of it behind.

Knows nothing of scenes, Ray or Blender: a command goes in, an `Outcome` comes out.
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

from pipeline.farm.memory import machine_memory, oom_kills
from pipeline.farm.orphans import PARENT_VARIABLE
from pipeline.farm.session import Usage, kill_session
from pipeline.layout import DISK_FULL
from pipeline.ledger.outcome import Outcome, read_tail

GIB = 2**30
POLL_SECONDS = 0.5
WEIGH_SECONDS = 10.0  # between two looks at the size of the child's folder
GRACE_SECONDS = 2.0  # between SIGTERM and SIGKILL
REJECTED_STATUS = 3  # the child's own verdict: this scene is unfit, do not try again
REJECTED_PREFIX = "rejected: "
DAMAGED_STATUS = 4  # what the child was to read is damaged; it has removed it, to be made again
DAMAGED_PREFIX = "damaged: "
FULL_MESSAGES = tuple(os.strerror(error) for error in DISK_FULL)
MEMORY_SHARE = 0.9  # of the memory that there is, the most that one child may use
FULL_BYTES = 16 * 2**20  # a file system with less free space than this is full
SECRETS = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY")


@dataclass(frozen=True)
class Limits:
    """What one child may use; None means no limit.

    Attributes:
        wall: Seconds from start to end.
        silent: Seconds without a new byte in the log.
        memory: Resident bytes of the child and all it started, together; at most `MEMORY_SHARE`
            of what its machine, container or job may use.
        disk: Bytes of the folder that the child writes to.
        log: Bytes of the log; a child that prints for ever must not fill the disk.
    """

    wall: float | None = None
    silent: float | None = None
    memory: int | None = None
    disk: int | None = None
    log: int | None = 256 * 2**20


def run_job(
    argv: Sequence[str],
    log_path: Path,
    limits: Limits,
    *,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_poll: Callable[[], None] | None = None,
) -> Outcome:
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
        >>> run_job(["true"], Path("/tmp/true.log"), Limits(wall=5)).reason
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
    return Outcome(
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
