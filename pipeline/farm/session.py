"""The processes of a session: who they are, what they use, how to end them all."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

import psutil


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
