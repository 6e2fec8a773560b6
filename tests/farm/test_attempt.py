"""Records of attempts, without Ray."""

from __future__ import annotations

import os
from dataclasses import asdict, replace

import pytest

from pipeline.farm.attempt import (
    Result,
    begin_attempt,
    end_attempt,
    is_open,
    read_attempts,
    record_path,
)
from pipeline.layout import SceneFolder, read_json, write_json
from tests.farm.conftest import Farm

CRASH = Result("crashed", "exit status 1: boom", seconds=2.0, log_tail="boom")


@pytest.fixture
def scene(farm: Farm) -> SceneFolder:
    return farm.run.scene("spheres-0000000000")


def failures(scene: SceneFolder, stage: str) -> int:
    return sum(one.counted for one in read_attempts(scene) if one.stage == stage)


def test_what_counts_against_a_seed(scene: SceneFolder) -> None:
    not_its_fault = ("interrupted", "node", "disk", "scratch", "gpu-memory", "ok")
    for number, reason in enumerate(("crashed", "timeout", *not_its_fault), start=1):
        begin_attempt(scene, "generate", number)
        end_attempt(scene, "generate", number, Result(reason))
    assert failures(scene, "generate") == 2
    assert failures(scene, "render") == 0


def test_crash_before_the_attempt_began_counts(scene: SceneFolder) -> None:
    end_attempt(scene, "render", 1, Result("crashed", "WorkerCrashedError"))
    assert failures(scene, "render") == 1


def test_render_that_delivered_a_panorama_does_not_count(scene: SceneFolder) -> None:
    for number, brought in ((1, 0), (2, 1), (3, 0)):
        begin_attempt(scene, "render", number)
        end_attempt(scene, "render", number, CRASH, brought=brought)
    counted = [attempt.counted for attempt in read_attempts(scene)]
    assert counted == [True, False, True]


def test_recorded_end_is_final(scene: SceneFolder) -> None:
    """A node that was unreachable returns after its attempt was closed."""
    begin_attempt(scene, "render", 1)
    assert is_open(scene, "render", 1)
    end_attempt(scene, "render", 1, Result("node", "its node went away"))
    assert not is_open(scene, "render", 1)
    end_attempt(scene, "render", 1, Result("ok"))
    assert read_attempts(scene)[0].reason == "node"


def test_damaged_record_is_ignored(scene: SceneFolder) -> None:
    begin_attempt(scene, "generate", 2)
    good = record_path(scene, "generate", 2)
    for number, odd in enumerate([{"stage": "bake"}, {"number": "2"}, {"unknown": 1}]):
        write_json(record_path(scene, "render", number), {**read_json(good), **odd})
    good.write_bytes(b"\xff{")
    record_path(scene, "generate", 1).write_text('{"sta')
    assert read_attempts(scene) == []


def test_record_is_complete(scene: SceneFolder) -> None:
    begin_attempt(scene, "generate", 1)
    outcome = replace(CRASH, cpu_seconds=1.5, peak_rss=10)
    end_attempt(scene, "generate", 1, outcome)
    record = asdict(read_attempts(scene)[0])
    assert record["pid"] == os.getpid()
    assert record["detail"] == CRASH.detail
    assert (record["seconds"], record["cpu_seconds"], record["peak_rss"]) == (2.0, 1.5, 10)
    assert record["ended"] >= record["started"]
