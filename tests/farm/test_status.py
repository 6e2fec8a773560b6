"""The status of a run, against a naive sum over its attempts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.farm.attempt import Result, begin_attempt, end_attempt, log_path, record_path
from pipeline.farm.report import status_json, status_text
from pipeline.farm.run_lock import claim
from pipeline.farm.status import current_step, read_status, time_left
from pipeline.farm.totals import Records
from pipeline.layout import STAGES, RunFolder, SceneFolder, read_json, write_json
from tests.farm.conftest import SETTINGS, Farm
from tests.farm.example_records import (
    name,
    random_runs,
    write_record,
)


@pytest.fixture
def working(farm: Farm) -> Iterator[None]:
    """A driver that was asked for 10 scenes is at work."""
    with claim(farm.run, SETTINGS, 10):
        yield


@pytest.mark.usefixtures("working")
def test_running_attempts_are_shown(farm: Farm) -> None:
    for seed in range(4):
        write_record(farm.run, seed, "done", [])
    write_record(farm.run, 4, "failed", [])
    running = farm.run.scene(name(5))
    begin_attempt(running, "render", 2)
    log_path(running, "render", 2).write_text("stage: render 2/2\n")
    ended = farm.run.scene(name(6))
    begin_attempt(ended, "generate", 1)
    end_attempt(ended, "generate", 1, Result("ok"))
    begin_attempt(farm.run.scene(name(0)), "render", 9)  # of a finished scene: never looked at
    status = read_status(farm.run)
    assert (status.wanted, status.done, status.failed, status.waiting) == (10, 4, 1, 5)
    assert [(scene.scene_id, one.number) for scene, one in status.running] == [(name(5), 2)]
    assert current_step(running, "render", 2) == "render 2/2"
    assert status.working
    text, data = status_text(farm.run), json.loads(status_json(farm.run))
    assert "4 of 10 done, 1 failed, 1 running, 5 waiting" in text
    assert f"{name(5)}  render 2/2, attempt 2" in text
    assert (data["done"], data["failed"], data["waiting"]) == (4, 1, 5)
    (row,) = data["running"]
    assert row.keys() == {"scene_id", "stage", "number", "step", "since"}
    assert (row["scene_id"], row["step"]) == (name(5), "render 2/2")


def test_status_without_a_driver(farm: Farm) -> None:
    with pytest.raises(UserError, match="holds no run"):
        read_status(farm.run)
    with claim(farm.run, SETTINGS, 3):
        pass
    begin_attempt(farm.run.scene(name(0)), "generate", 1)
    status = read_status(farm.run)
    assert (status.working, status.running, status.wanted) == (False, (), 3)
    assert (status.scenes_per_hour, status.left) == (None, None)
    assert "no driver is working" in status_text(farm.run)


@pytest.mark.usefixtures("working")
def test_attempts_on_other_machines_count_as_running_while_a_driver_works(farm: Farm) -> None:
    scene = farm.run.scene(name(0))
    begin_attempt(scene, "generate", 1)
    path = record_path(scene, "generate", 1)
    write_json(path, {**read_json(path), "host": "node-7", "pid": 2**22 - 1})
    assert len(read_status(farm.run).running) == 1


@pytest.mark.usefixtures("working")
def test_other_files_among_the_scenes_do_not_matter(farm: Farm) -> None:
    farm.run.scenes.mkdir()
    (farm.run.scenes / ".DS_Store").touch()
    (farm.run.scenes / "empty").mkdir()
    assert "0 of 10 done, 0 failed, 0 running" in status_text(farm.run)


def test_status_of_many_scenes_is_quick(tmp_path: Path) -> None:
    run, records = RunFolder(tmp_path), Records()
    write_json(run.settings, {})
    write_record(run, 0, "done", random_runs(1)[0][1])
    text = (run.done_folder / f"{name(0)}.json").read_text()
    for seed in range(3000):
        path = run.done_folder / f"{name(seed)}.json"
        path.write_text(text.replace(name(0), name(seed)))
    times = [time.process_time()]
    for _ in range(2):
        assert read_status(run, records).done == 3000
        times.append(time.process_time())
    first, again = np.diff(times)
    assert first < 0.5  # 0.1 s of CPU, measured
    assert again < 0.05  # 4 ms, measured


def test_more_done_than_asked_for(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_json(run.settings, {})
    for seed in range(3):
        write_record(run, seed, "done", [])
    status = read_status(run)
    assert replace(status, wanted=9).scenes_done == "3 of 9 done"
    assert replace(status, wanted=2).scenes_done == "3 done, 2 asked for"


def test_current_step(farm: Farm) -> None:
    scene: SceneFolder = farm.run.scene(name(0))
    assert current_step(scene, "render", 1) == "render"
    scene.attempts.mkdir(parents=True)
    log = log_path(scene, "render", 1)
    for text, step in [
        ("", "render"),
        ("stage: load scene", "load scene"),
        ("noise\n" * 1000, "render"),
        ("stage: a\nstage: render 1/2\nFra:1 stage: no\n" + "x" * 10**6, "render 1/2"),
    ]:
        log.write_text(text)
        assert current_step(scene, "render", 1) == step


def test_rates(tmp_path: Path) -> None:
    """Scenes of an earlier driver do not count, nor what is older than an hour."""
    run = RunFolder(tmp_path)
    write_json(run.settings, {})
    start = 1_000_000.0
    ends = [start - 5, *(start + 60 * minute for minute in (10, 20, 30, 100, 110, 120))]
    for seed, when in enumerate(ends):
        write_record(run, seed, "done", [], when)
    status = replace(read_status(run), working=True, wanted=20, started=start, now=start + 7200)
    assert status.done_since == 6
    assert status.scenes_per_hour == 3
    assert status.scenes_last_hour == 3
    early = replace(status, now=start + 7260)
    assert early.scenes_last_hour == 3
    assert early.scenes_per_hour == pytest.approx(6 / 7260 * 3600)
    left = status.left
    assert left is not None
    assert left.low < left.seconds < left.high
    assert left.seconds == pytest.approx(13 * 22 * 60)  # 110 minutes between 6 ends
    assert replace(status, wanted=3).left == time_left([0.0] * 5, 0, 1, 1.0)


def test_time_left_is_not_estimated_too_early() -> None:
    ends = [60.0 * k for k in range(10)]
    assert time_left(ends[:4], 100, 1, 240.0) is None
    assert time_left(ends[:5], 100, 1, 240.0) is not None
    assert time_left(ends, 100, 11, 600.0) is None  # some place has not finished one yet
    assert time_left([5.0] * 9, 100, 1, 5.0) is None


def test_time_left_grows_while_nothing_finishes() -> None:
    ends = [60.0 * k for k in range(10)]
    times = [time_left(ends, 100, 1, ends[-1] + pause) for pause in (0, 600, 6000)]
    seconds = [left.seconds for left in times if left]
    assert seconds == sorted(seconds)
    assert seconds[2] > 5 * seconds[0]


@pytest.mark.parametrize(("workers", "spread"), [(1, 0.3), (1, 1.0), (4, 0.5), (16, 0.5)])
def test_interval_of_the_time_left_holds(workers: int, spread: float) -> None:
    """In simulated farms, whose workers take one scene after the other."""
    draw = np.random.default_rng(0)
    within = 0
    for _ in range(100):
        free = np.zeros(workers)
        ends = []
        for _ in range(400):
            worker = free.argmin()
            free[worker] += draw.lognormal(5, spread)
            ends.append(free[worker])
        ends.sort()
        left = time_left(ends[:100], 300, workers, ends[99])
        assert left is not None
        within += left.low <= ends[-1] - ends[99] <= left.high
    assert within >= 80


def test_json_keys_stay(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_json(run.settings, {})
    empty = json.loads(status_json(run))
    assert empty["per_panorama"] is None
    for seed, (kind, tried) in enumerate(random_runs(30)):
        write_record(run, seed, kind, tried)
    data = json.loads(status_json(run))
    assert (
        data.keys()
        == empty.keys()
        == {
            *("wanted", "done", "failed", "waiting", "done_since", "working", "started", "now"),
            *("running", "scenes_per_hour", "scenes_last_hour", "seconds_left", "seconds_left_90"),
            *(
                "panoramas",
                "stages",
                "total",
                "failed_seeds",
                "lost",
                "per_panorama",
                "attempts",
                "failures",
            ),
            *("slowest", "bytes", "nodes", "damaged"),
        }
    )
    cost = {"attempts", "seconds", "cpu_seconds", "gpu_seconds", "peak_rss"}
    assert data["stages"].keys() == set(STAGES)
    assert all(stage.keys() == cost for stage in data["stages"].values())
    assert data["total"].keys() == data["failed_seeds"].keys() == data["lost"].keys() == cost
    assert data["failures"][0].keys() == {"stage", "reason", "seeds"}
    assert data["slowest"][0].keys() == {"scene_id", "seconds", "stages", "failed"}
    assert data["nodes"]["a"].keys() == {"scenes", "failed_seeds"}
    assert data["total"] == pytest.approx(asdict(read_status(run).cost))
