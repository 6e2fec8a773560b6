"""When a seed is quarantined, and what its record says; without Ray."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import read_settings
from pipeline.config import Render
from pipeline.farm.attempt import (
    Result,
    SceneState,
    begin_attempt,
    end_attempt,
    read_attempts,
    reset_failures,
)
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.quarantine import must_quarantine, run_again, write_failed
from pipeline.farm.records import read_failed
from pipeline.farm.scene import Scene
from pipeline.farm.takeover import missed_quarantine
from pipeline.layout import write_json
from pipeline.run_settings import make_settings
from tests.farm.conftest import Farm

CRASH = Result("crashed", "exit status 1: boom", seconds=2.0, cpu_seconds=1.5, log_tail="boom")
TWO = FarmSettings(attempts=2, nodes_lost=2)


@pytest.fixture
def scene(farm: Farm) -> Scene:
    return Scene(7, farm.run.scene("spheres-0000000007"))


def test_record_says_why_and_how_to_run_again(farm: Farm, scene: Scene) -> None:
    settings = make_settings(
        generator="spheres:3,rooms:1", passes=("depth",), profile="draft", detail="full"
    )
    begin_attempt(scene.folder, "generate", 1)
    end_attempt(scene.folder, "generate", 1, CRASH)
    scene.folder.blend.write_bytes(b"large")
    write_failed(scene, settings, "generate", CRASH)
    record = read_failed(farm.run, scene.folder.scene_id)
    assert (record.seed, record.stage, record.reason) == (7, "generate", "crashed")
    assert record.log_tail == "boom"
    assert record.log == "attempts/generate-1.log"
    assert record.costs["generate"].seconds == 2.0
    make, command, *words = shlex.split(record.run_again)
    assert make == "make"
    again = read_settings(command, Render, words)
    assert (again.scenes, again.run.build()) == (1, replace(settings, seed=7))
    assert not scene.folder.blend.exists()
    reset_failures(scene.folder)
    assert not scene.folder.failed.exists()
    assert not any(attempt.counted for attempt in read_attempts(scene.folder))


def test_a_pattern_of_files_arrives_unchanged(tmp_path: Path) -> None:
    (tmp_path / "my scenes").mkdir()
    (tmp_path / "my scenes" / "one.glb").touch()
    settings = make_settings(f"files:{tmp_path}/my scenes/*.glb", profile="draft")
    words = shlex.split(run_again(settings, 0))[2:]
    assert read_settings("render", Render, words).run.build() == settings


@pytest.mark.parametrize(
    ("next_stage", "failures", "machine_failures", "reason", "expected"),
    [
        ("render", 1, 0, "crashed", False),
        ("render", 2, 0, "crashed", True),
        ("generate", 2, 0, "damaged", True),  # its input was damaged each time
        ("annotate", 2, 0, "crashed", False),  # it failed after the last panorama
        (None, 2, 0, "crashed", False),
        ("render", 0, 2, "node", True),
        ("render", 2, 2, "ok", False),
        ("render", 0, 0, "rejected", True),
    ],
)
def test_rule_of_quarantine(next_stage, failures, machine_failures, reason, expected) -> None:
    state = SceneState(next_stage, failures={"render": failures}, machine_failures=machine_failures)
    assert must_quarantine(state, "render", Result(reason), TWO) is expected


def test_quarantine_that_a_killed_driver_missed(scene: Scene) -> None:
    assert missed_quarantine(scene.folder, TWO) is None
    for number in (1, 2):
        begin_attempt(scene.folder, "render", number)
        end_attempt(scene.folder, "render", number, CRASH)
        assert (missed_quarantine(scene.folder, TWO) is None) == (number < 2)
    expected = "render", Result(CRASH.reason, CRASH.detail)
    assert missed_quarantine(scene.folder, TWO) == expected
    begin_attempt(scene.folder, "render", 3)
    end_attempt(scene.folder, "render", 3, Result("ok"))
    assert missed_quarantine(scene.folder, TWO) is None
    for number in (1, 2):
        begin_attempt(scene.folder, "annotate", number)
        end_attempt(scene.folder, "annotate", number, Result("node", "it went away"))
    expected = "annotate", Result("node", "it went away")
    assert missed_quarantine(scene.folder, TWO) == expected


def test_rejection_that_a_killed_driver_missed(scene: Scene) -> None:
    begin_attempt(scene.folder, "generate", 1)
    end_attempt(scene.folder, "generate", 1, Result("rejected", "no free viewpoint"))
    missed = missed_quarantine(scene.folder, TWO)
    assert missed == ("generate", Result("rejected", "no free viewpoint"))
    reset_failures(scene.folder)
    assert missed_quarantine(scene.folder, TWO) is None


def test_resume_and_run_agree_on_exhausted_retries(scene: Scene) -> None:
    """A render that failed after its last panorama is not quarantined, whoever looks at it."""
    write_json(scene.folder.generated, {"viewpoints": [{}]})
    write_json(scene.folder.rendered(0) / "render.json", {})
    for number in (1, 2):
        begin_attempt(scene.folder, "render", number)
        end_attempt(scene.folder, "render", number, CRASH)
    assert missed_quarantine(scene.folder, TWO) is None
    assert missed_quarantine(scene.folder, replace(TWO, attempts=1)) is None
