"""What keeping the books of a large run costs: no rendering, only its files.

python -m tests.benchmarks.bookkeeping [--scenes 20000] [--panoramas 10] [--out out-bookkeeping]

Lays out OUT as the farm leaves it (records, attempts, annotated panoramas of 64 × 32 pixels; one
seed in a hundred has failed), about 5 GB and a few minutes for 200,000 panoramas. An OUT that is
there already is used again. Then it measures, each in a separate process where start-up counts:
`make status`; taking up a run that is all done, or all but its last 10 scenes, until the first
attempt starts; the driver's own time for one finished scene, with stand-ins for the workers;
packing, and its memory for a tenth of the scenes and for all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.farm.driver import render_run
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.run_lock import claim
from pipeline.farm.status import read_status
from pipeline.farm.totals import Records
from pipeline.layout import ANNOTATED, RunFolder
from pipeline.run_settings import RunSettings
from pipeline.shards.splits import ROW_GROUP_BYTES
from pipeline.shards.writer import pack
from tests.benchmarks.large_run import StartedError, Workers, lay_out, settings_of

PARTS = ["status", "resume", "drive", "pack"]
ROWS_IN_A_SHARD = 500  # as many as full-sized panoramas of 1 MB
ROW_BYTES = 6000  # of a small panorama's files
FARM = FarmSettings(min_free_gib=0)
LAST = 10  # scenes that are taken up


Time = tuple[float, float]
"""Seconds on the wall and on the CPUs."""


def refresh(out: str) -> Time:
    """The driver's display looks again at a run that has not changed."""
    run, records = RunFolder(Path(out)), Records()
    with claim(run, settings_of(_panoramas(run)), 10**6):
        read_status(run, records)
        return min(_timed(lambda: read_status(run, records)) for _ in range(10))


def take_up(out: str, scenes: int) -> Time:
    """From calling the driver until its first attempt, or until all is found done."""
    run = RunFolder(Path(out))
    workers = Workers(run, settings_of(_panoramas(run)), only_first=True)

    def call() -> None:
        with suppress(StartedError):
            render_run(run, workers.settings, scenes, FARM, executor=workers)

    return _timed(call)


def drive(out: str, scenes: int, more: int) -> Time:
    """The driver's own time for each of some more scenes, which are gone again afterwards."""
    run = RunFolder(Path(out))
    workers = Workers(run, settings_of(_panoramas(run)))
    before = {folder: set(storage.names(folder)) for folder in (run.scenes, run.done_folder)}
    try:
        render_run(run, workers.settings, scenes + more, FARM, executor=workers)
        assert workers.finished == more
        return workers.drivers[0] / more, workers.drivers[1] / more
    finally:
        for folder, names in before.items():
            for name in set(storage.names(folder)) - names:
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def pack_all(out: str) -> dict[str, float]:
    """Panoramas, seconds and peak resident bytes of packing a run for the first time."""
    run = RunFolder(Path(out))
    settings = settings_of(_panoramas(run))
    shutil.rmtree(run.shards, ignore_errors=True)
    idle, began, cpu = _peak(), time.perf_counter(), time.process_time()
    packed = pack(run, settings, shard_bytes=ROWS_IN_A_SHARD * (ROW_GROUP_BYTES + ROW_BYTES))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    found = {"panoramas": packed["train"] + packed["validation"], "shards": packed["written"]}
    shutil.rmtree(run.shards)
    return {**found, "seconds": seconds, "cpu": cpu, "idle": idle, "peak": _peak()}


def main(out: Path, scenes: int, panoramas: int, parts: list[str]) -> None:
    run, settings = RunFolder(out), settings_of(panoramas)
    if not run.settings.exists():
        lay_out(run, scenes, settings)
    print(f"{scenes} scenes, {scenes * panoramas} panoramas\n")
    print("| what | measured | CPU | goal | |")
    print("|---|---|---|---|---|")
    status = "from pipeline.farm import report as s; from pipeline.layout import RunFolder; "
    status += f"from pathlib import Path; print(len(s.status_{{}}(RunFolder(Path({str(out)!r})))))"
    if "status" in parts:
        for kind in ("text", "json"):
            code = status.format(kind)
            taken = min(_timed(lambda code=code: _python(code)) for _ in range(3))
            _row(f"status as {kind}, Python's start included", taken, 2.0)
        _row("status, looking again", _best_call(f"refresh({str(out)!r})"), 0.05)
    if "resume" in parts:
        _row("taking up, all done", _best_call(f"take_up({str(out)!r}, {scenes})"), 10.0)
        with _last_open(run, settings):
            taken = _best_call(f"take_up({str(out)!r}, {scenes})")
        _row(f"taking up, last {LAST} open, to the first attempt", taken, 10.0)
    if "drive" in parts:
        _row("driver's own time, a scene", _best_call(f"drive({str(out)!r}, {scenes}, 2000)"), 0.02)
    if "pack" in parts:
        with _tenth(run, settings, scenes) as small:
            few = _call(f"pack_all({str(small)!r})")
        _row_of_packing(few)
        every = _call(f"pack_all({str(out)!r})")
        _row_of_packing(every)
        growth = every["peak"] / few["peak"]
        good = "PASS" if growth <= 1.5 else "FAIL"
        print(f"| packing, peak memory of all to a tenth | {growth:.2f} × | | ≤ 1.5 × | {good} |")


def _row(what: str, taken: Time, goal: float) -> None:
    wall, cpu = (f"{seconds:.3g} s" for seconds in taken)
    good = "PASS" if taken[0] <= goal else "FAIL"
    print(f"| {what} | {wall} | {cpu} | ≤ {goal:g} s | {good} |", flush=True)


def _row_of_packing(found: dict[str, float]) -> None:
    rate = f"{1000 * found['seconds'] / found['panoramas']:.1f} ms a panorama"
    peak, idle = (f"{found[name] / 2**20:.0f} MiB" for name in ("peak", "idle"))
    what = f"packing {found['panoramas']:.0f} panoramas into {found['shards']:.0f} shards"
    print(f"| {what} | {rate}, {peak} ({idle} before) | {found['cpu']:.0f} s | | |", flush=True)


@contextmanager
def _last_open(run: RunFolder, settings: RunSettings) -> Iterator[None]:
    """Meanwhile one panorama of each of the last scenes is still to be rendered."""
    moved = []
    with tempfile.TemporaryDirectory(dir=run.path) as aside:
        for name in sorted(storage.names(run.done_folder))[-LAST:]:
            scene = run.scene(name.removesuffix(".json"))
            scene.blend.write_bytes(b"-")
            for path in (scene.done, scene.panorama(settings.panos - 1) / ANNOTATED):
                moved.append((path, Path(aside) / str(len(moved))))
                path.rename(moved[-1][1])
        try:
            yield
        finally:
            for path, kept in moved:
                kept.rename(path)


@contextmanager
def _tenth(run: RunFolder, settings: RunSettings, scenes: int) -> Iterator[Path]:
    """A run of the first tenth of the scenes."""
    with tempfile.TemporaryDirectory(dir=run.path.parent) as folder:
        small = RunFolder(Path(folder))
        shutil.copy(run.settings, small.settings)
        small.scenes.symlink_to(run.scenes.resolve())
        shutil.copytree(run.failed_folder, small.failed_folder)
        small.done_folder.mkdir()
        for name in sorted(storage.names(run.done_folder))[: scenes // 10]:
            shutil.copy(run.done_folder / name, small.done_folder)
        yield small.path


def _panoramas(run: RunFolder) -> int:
    return int(json.loads(run.settings.read_text())["settings"]["panos"])


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _timed(call: Callable[[], Any]) -> Time:
    """What a call takes, its child processes included."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    call()
    return time.perf_counter() - wall, sum(os.times()[:4]) - cpu


def _best_call(call: str) -> Time:
    """The quickest of three calls of a function of this module that gives a time."""
    return min((wall, cpu) for wall, cpu in (_call(call) for _ in range(3)))


def _call(call: str) -> Any:
    """What a function of this module gives in a separate process."""
    code = (
        f"import json; from tests.benchmarks import bookkeeping as b; print(json.dumps(b.{call}))"
    )
    return json.loads(_python(code).splitlines()[-1])


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--panoramas", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("out-bookkeeping"))
    parser.add_argument("parts", nargs="*", default=PARTS)
    given = parser.parse_args()
    main(given.out.resolve(), given.scenes, given.panoramas, given.parts)
