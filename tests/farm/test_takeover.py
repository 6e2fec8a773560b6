"""Scenes that an earlier driver left unfinished."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from pipeline.farm.attempt import begin_attempt, read_attempts, record_path
from pipeline.farm.run_child import session_members
from pipeline.farm.takeover import close_interrupted
from pipeline.layout import SceneFolder, read_json, write_json
from tests.farm.conftest import Farm


@pytest.fixture
def scene(farm: Farm) -> SceneFolder:
    return farm.run.scene("spheres-0000000000")


def test_attempt_without_an_end_was_interrupted(scene: SceneFolder) -> None:
    begin_attempt(scene, "generate", 1)
    path = record_path(scene, "generate", 1)
    write_json(path, {**read_json(path), "pid": 2**22 - 1})
    close_interrupted(scene)
    (attempt,) = read_attempts(scene)
    assert (attempt.reason, attempt.counted) == ("interrupted", False)


def test_remaining_worker_is_killed_with_its_child(scene: SceneFolder) -> None:
    child = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True).wait()"
    worker = subprocess.Popen([sys.executable, "-c", child])
    while not (children := psutil.Process(worker.pid).children()):
        time.sleep(0.05)
    begin_attempt(scene, "generate", 1)
    path = record_path(scene, "generate", 1)
    created = psutil.Process(worker.pid).create_time()
    write_json(path, {**read_json(path), "pid": worker.pid, "created": created})
    close_interrupted(scene)
    assert not psutil.pid_exists(worker.pid)
    assert not session_members(children[0].pid)
    assert not any(attempt.counted for attempt in read_attempts(scene))


def test_reused_process_id_is_not_killed(scene: SceneFolder) -> None:
    begin_attempt(scene, "generate", 1)
    path = record_path(scene, "generate", 1)
    write_json(path, {**read_json(path), "created": 1.0})  # this process, but an older one
    close_interrupted(scene)
    assert read_attempts(scene)[0].reason == "interrupted"
