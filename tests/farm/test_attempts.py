"""The ledger and what is read from it, without Ray."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import psutil
import pytest

from pipeline.errors import UserError
from pipeline.farm import attempts
from pipeline.farm.claim import claim
from pipeline.farm.progress import Progress, status_json, status_text
from pipeline.farm.session import session_members
from pipeline.farm.status import current_step, read_status
from pipeline.farm.worker import Outcome
from pipeline.outputs import SceneFolder, read_json, write_json
from pipeline.settings import make_settings
from tests.farm.conftest import SETTINGS, Farm

CRASH = Outcome("crashed", "exit status 1: boom", seconds=2.0, log_tail="boom")


@pytest.fixture
def scene(farm: Farm) -> SceneFolder:
    return farm.run.scene("spheres-0000000000")


@pytest.fixture
def working(farm: Farm) -> Iterator[None]:
    """A driver that was asked for 10 scenes is at work."""
    with claim(farm.run, SETTINGS, 10):
        yield


def test_what_counts_against_a_seed(scene: SceneFolder) -> None:
    for reason in ("crashed", "timeout", "interrupted", "disk", "ok"):
        number = attempts.next_number(scene, "generate")
        attempts.begin(scene, "generate", number)
        attempts.end(scene, "generate", number, Outcome(reason))
    assert attempts.next_number(scene, "generate") == 6
    assert attempts.failures(scene, "generate") == 2
    assert attempts.failures(scene, "render") == 0


def test_a_death_that_the_driver_saw_counts_even_before_the_first_line(scene: SceneFolder) -> None:
    attempts.end(scene, "render", 1, Outcome("crashed", "WorkerCrashedError"))
    assert attempts.failures(scene, "render") == 1


def test_a_render_that_added_a_panorama_does_not_count(scene: SceneFolder) -> None:
    scene.rendered(0).mkdir(parents=True)
    for number, index in ((1, 0), (2, 1), (3, 1)):
        attempts.begin(scene, "render", number)
        scene.rendered(index).mkdir(exist_ok=True)
        attempts.end(scene, "render", number, CRASH)
    counted = [attempt.counted for attempt in attempts.read_attempts(scene)]
    assert counted == [True, False, True]


def test_an_attempt_without_end_was_interrupted(scene: SceneFolder) -> None:
    attempts.begin(scene, "generate", 1)
    path = attempts.record_path(scene, "generate", 1)
    write_json(path, {**read_json(path), "pid": 2**22 - 1})
    attempts.close_interrupted(scene)
    (attempt,) = attempts.read_attempts(scene)
    assert (attempt.reason, attempt.counted) == ("interrupted", False)


def test_a_worker_left_by_an_earlier_driver_is_ended_with_its_child(scene: SceneFolder) -> None:
    child = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True).wait()"
    worker = subprocess.Popen([sys.executable, "-c", child])
    while not (children := psutil.Process(worker.pid).children()):
        time.sleep(0.05)
    attempts.begin(scene, "generate", 1)
    path = attempts.record_path(scene, "generate", 1)
    created = psutil.Process(worker.pid).create_time()
    write_json(path, {**read_json(path), "pid": worker.pid, "created": created})
    attempts.close_interrupted(scene)
    assert not psutil.pid_exists(worker.pid)
    assert not session_members(children[0].pid)
    assert attempts.failures(scene, "generate") == 0


def test_a_process_with_the_same_number_is_not_touched(scene: SceneFolder) -> None:
    attempts.begin(scene, "generate", 1)
    path = attempts.record_path(scene, "generate", 1)
    write_json(path, {**read_json(path), "created": 1.0})  # this process, but an older one
    attempts.close_interrupted(scene)
    assert attempts.read_attempts(scene)[0].reason == "interrupted"


def test_quarantine_says_why_and_how_to_run_again(scene: SceneFolder) -> None:
    settings = make_settings(generator="spheres:3,rooms:1", passes="depth", profile="draft")
    attempts.begin(scene, "generate", 1)
    attempts.end(scene, "generate", 1, CRASH)
    scene.blend.write_bytes(b"large")
    attempts.quarantine(scene, settings, 7, "generate", CRASH)
    about = read_json(scene.failed)
    assert (about["seed"], about["stage"], about["reason"]) == (7, "generate", "crashed")
    assert about["log_tail"] == "boom"
    assert about["log"] == "attempts/generate-1.log"
    assert about["attempts"][0]["seconds"] == 2.0
    assert "SEED=7 GENERATOR=rooms:0.25,spheres:0.75" in about["run_again"]
    assert "PASSES=depth" in about["run_again"]
    assert not scene.blend.exists()
    attempts.forgive(scene)
    assert not scene.failed.exists()
    assert attempts.failures(scene, "generate") == 0


def test_damaged_record_is_ignored(scene: SceneFolder) -> None:
    attempts.begin(scene, "generate", 2)
    good = attempts.record_path(scene, "generate", 2)
    for number, odd in enumerate([{"stage": "bake"}, {"number": "2"}, {"unknown": 1}]):
        write_json(attempts.record_path(scene, "render", number), {**read_json(good), **odd})
    good.write_bytes(b"\xff{")
    attempts.record_path(scene, "generate", 1).write_text('{"sta')
    assert attempts.read_attempts(scene) == []


def test_current_step(scene: SceneFolder) -> None:
    assert current_step(scene, "render", 1) == "render"
    scene.attempts.mkdir(parents=True)
    log = attempts.log_path(scene, "render", 1)
    for text, step in [
        ("", "render"),
        ("stage: load scene", "load scene"),
        ("noise\n" * 1000, "render"),
        ("stage: a\nstage: render 1/2\nFra:1 stage: no\n" + "x" * 10**6, "render 1/2"),
    ]:
        log.write_text(text)
        assert current_step(scene, "render", 1) == step


@pytest.mark.usefixtures("working")
def test_status_counts_from_files(farm: Farm) -> None:
    for seed in range(4):
        write_json(farm.run.scene(f"spheres-{seed:010d}").done, {})
    write_json(farm.run.scene("spheres-0000000004").failed, {})
    running = farm.run.scene("spheres-0000000005")
    attempts.begin(running, "render", 2)
    attempts.log_path(running, "render", 2).write_text("stage: render 2/2\n")
    ended = farm.run.scene("spheres-0000000006")
    attempts.begin(ended, "generate", 1)
    attempts.end(ended, "generate", 1, Outcome("ok"))
    status = read_status(farm.run)
    assert (status.wanted, status.done, status.failed, status.waiting) == (10, 4, 1, 5)
    assert [(one.scene_id, one.step) for one in status.running] == [
        ("spheres-0000000005", "render 2/2")
    ]
    assert status.working
    assert status.scenes_per_hour is not None
    assert status.seconds_left == pytest.approx(6 / status.scenes_per_hour * 3600)
    text, data = status_text(farm.run), json.loads(status_json(farm.run))
    assert "4/10 scenes done, 1 failed, 1 running, 5 waiting" in text
    assert "spheres-0000000005  render 2/2, attempt 2" in text
    assert (data["done"], data["failed"], data["waiting"]) == (4, 1, 5)


def test_status_without_a_driver(farm: Farm) -> None:
    with pytest.raises(UserError, match="no run"):
        read_status(farm.run)
    with claim(farm.run, SETTINGS, 3):
        pass
    scene = farm.run.scene("spheres-0000000000")
    attempts.begin(scene, "generate", 1)
    status = read_status(farm.run)
    assert (status.working, status.running, status.wanted) == (False, (), 3)
    assert "no driver is working" in status_text(farm.run)


@pytest.mark.usefixtures("working")
def test_attempts_on_other_machines_count_as_running_while_a_driver_works(farm: Farm) -> None:
    scene = farm.run.scene("spheres-0000000000")
    attempts.begin(scene, "generate", 1)
    path = attempts.record_path(scene, "generate", 1)
    write_json(path, {**read_json(path), "host": "node-7", "pid": 2**22 - 1})
    assert len(read_status(farm.run).running) == 1


@pytest.mark.usefixtures("working")
def test_status_of_many_scenes_is_quick(farm: Farm) -> None:
    for seed in range(3000):
        scene = farm.run.scene(f"spheres-{seed:010d}")
        scene.path.mkdir(parents=True)
        scene.done.touch()
    finished: dict[str, tuple[str, float]] = {}
    started = time.perf_counter()
    assert read_status(farm.run, finished).done == 3000
    first = time.perf_counter()
    assert read_status(farm.run, finished).done == 3000
    assert first - started < 0.5
    assert time.perf_counter() - first < 0.1


@pytest.mark.usefixtures("working")
def test_status_does_not_mind_other_files(farm: Farm) -> None:
    farm.run.scenes.mkdir()
    (farm.run.scenes / ".DS_Store").touch()
    (farm.run.scenes / "empty").mkdir()
    assert "0/10 scenes done" in status_text(farm.run)


@pytest.mark.usefixtures("working")
def test_plain_lines(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("pipeline.farm.progress.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    progress = Progress(farm.run, stream)
    for second in range(100):
        clock[0] += 1
        if second == 50:
            write_json(farm.run.scene("spheres-0000000000").done, {})
        progress.update()
    lines = stream.getvalue().splitlines()
    assert "0/10 scenes done" in lines[0]
    assert "1/10 scenes done" in lines[-1]
    assert len(lines) == 4  # at once, after 31 s, at the change, after 31 s
    assert not any("\x1b" in line for line in lines)


@pytest.mark.usefixtures("working")
def test_live_display_in_a_terminal(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    scene = farm.run.scene("spheres-0000000000")
    attempts.begin(scene, "generate", 2)
    stream = io.StringIO()
    with Progress(farm.run, stream) as progress:
        progress.note("a line that stays [not markup]")
    assert "a line that stays [not markup]" in stream.getvalue()
    assert "spheres-0000000000" in stream.getvalue()
    assert "attempt 2" in stream.getvalue()


def test_record_is_complete(scene: SceneFolder) -> None:
    attempts.begin(scene, "generate", 1)
    outcome = replace(CRASH, cpu_seconds=1.5, peak_rss=10)
    attempts.end(scene, "generate", 1, outcome)
    record = asdict(attempts.read_attempts(scene)[0])
    assert record["pid"] == os.getpid()
    assert record["detail"] == CRASH.detail
    assert (record["seconds"], record["cpu_seconds"], record["peak_rss"]) == (2.0, 1.5, 10)
    assert record["ended"] >= record["started"]
