"""How an attempt ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TAIL_LINES = 30


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended and what it cost.

    Attributes:
        reason: ok, rejected, damaged (what it read), crashed, timeout, silent, memory, gpu-memory,
            size (folder or log too big), disk (no room in OUT), scratch (no room to work in),
            node (it went away), machine (something of it, or of the store, failed) or interrupted
            (stopped from outside).
        detail: One line for people.
        seconds: Wall-clock time.
        cpu_seconds: User and system time of the child and all it started.
        peak_rss: Largest resident size in bytes of all of them together, sampled.
        log_tail: The last lines of the log.
    """

    reason: str
    detail: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss: int = 0
    log_tail: str = ""

    @property
    def ok(self) -> bool:
        return self.reason == "ok"


def read_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log; empty if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 400 * lines))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
