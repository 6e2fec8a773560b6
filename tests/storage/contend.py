"""Two drivers that start on one OUT at the same moment, many times: never two holders.

    python -m tests.storage.contend --rounds 200

In every second round of a store, a driver that died has left its claim, and both may succeed it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from pipeline import storage
from pipeline.farm.run_lock import claim
from pipeline.layout import RunFolder
from pipeline.storage import lease
from tests.storage.s3 import S3
from tests.synthetic import SETTINGS

HOLD_SECONDS = {True: 0.15, False: 0.6}  # in a folder longer than a driver tries to get the lock
LEASE = {"BEAT_SECONDS": 0.1, "LEASE_SECONDS": 0.6, "SETTLE_SECONDS": 0.3}


@dataclass
class Result:
    """What the drivers saw.

    Attributes:
        held: By round, when a driver held OUT: (from, to), by the clock of the whole machine.
        refused: How many drivers were refused.
    """

    held: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    refused: int = 0

    @property
    def without_holder(self) -> int:
        return sum(not spans for spans in self.held.values())

    @property
    def overlaps(self) -> int:
        """Rounds in which two held OUT at the same time."""
        return sum(
            any(one[1] > other[0] for one, other in pairwise(sorted(spans)))
            for spans in self.held.values()
        )


def contend(out: str, rounds: int, *, conditional: bool = True) -> Result:
    """Start two drivers on OUT/<round> at the same moment, round after round.

    Args:
        out: A folder or the URL of one.
        rounds: How many.
        conditional: Whether they may rely on the store's exclusive creation.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    ends = [context.Pipe() for _ in range(2)]
    drivers = [
        context.Process(target=_drive, args=(out, rounds, conditional, barrier, theirs))
        for _, theirs in ends
    ]
    for driver in drivers:
        driver.start()
    result = Result()
    for ours, _ in ends:
        for number, spans, refused in ours.recv():
            result.held.setdefault(number, []).extend(spans)
            result.refused += refused
    for driver in drivers:
        driver.join()
    return result


def _drive(out: str, rounds: int, conditional: bool, barrier: Barrier, result: Connection) -> None:
    for name, value in LEASE.items():
        setattr(lease, name, value)
    if not conditional:
        lease.CONDITIONAL = ()
    found = []
    for number in range(rounds):
        run = RunFolder(storage.open_path(f"{out}/{number}"))
        if number % 2 and storage.is_remote(run.path) and barrier.wait() == 0:
            dead = {"token": "x", "beat": 1.0, "released": False, "pid": 1, "host": "gone"}
            storage.write_atomic(run.path / f"{run.driver_lock.name}.3", json.dumps(dead).encode())
        barrier.wait()
        time.sleep(random.choice((0, 0, 0.001, 0.01)) * random.random())
        try:
            with claim(run, SETTINGS, 1) as check:
                begun = time.monotonic()
                time.sleep(HOLD_SECONDS[storage.is_remote(run.path)])
                check()
                found.append((number, [(begun, time.monotonic())], 0))
        except storage.LockedError:
            found.append((number, [], 1))
    result.send(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, S3("contend") as store:
        os.environ.update(store.environment)
        for name, out, conditional in (
            ("folder", str(Path(folder)), True),
            ("store, exclusive creation", f"s3://{store.bucket}/conditional", True),
            ("store, without conditions", f"s3://{store.bucket}/settle", False),
        ):
            begun = time.monotonic()
            result = contend(out, rounds, conditional=conditional)
            print(
                f"{name}: {len(result.held)} rounds, two holders in {result.overlaps}, none in "
                f"{result.without_holder}, {result.refused} drivers refused, "
                f"{time.monotonic() - begun:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
