"""How scenes end, without Ray."""

from __future__ import annotations

import socket

import pytest

from pipeline.farm.attempt import Result, begin_attempt, end_attempt, read_attempts, reset_failures
from pipeline.farm.records import names_of, read_done, read_failed, seed_of
from pipeline.farm.scene import Scene, finish, open_seeds, quarantine, read_state, retries_exhausted
from pipeline.layout import write_json
from pipeline.settings import make_settings
from tests.farm.conftest import SETTINGS, Farm

CRASH = Result("crashed", "exit status 1: boom", seconds=2.0, cpu_seconds=1.5, log_tail="boom")


@pytest.fixture
def scene(farm: Farm) -> Scene:
    return Scene(7, farm.run.scene("spheres-0000000007"))


def test_a_finished_scene(farm: Farm, scene: Scene) -> None:
    write_json(scene.folder.generated, {"viewpoints": [{}, {}]})
    for index, defects in enumerate(([], ["black"])):
        row = {"summary": {"defects": defects}}
        write_json(scene.folder.panorama(index) / "row.json", row)
    for number, outcome in ((1, CRASH), (2, Result("ok", seconds=3.0, peak_rss=9))):
        begin_attempt(scene.folder, "render", number, gpus=1, node="n")
        end_attempt(scene.folder, "render", number, outcome, bytes=50, brought=number - 1)
    scene.folder.blend.write_bytes(b"large")
    assert finish(scene, "spheres", keep_work=False) is None
    done = read_done(farm.run, scene.folder.scene_id)
    assert (done.panoramas, done.unfit) == ((0,), {"1": ["black"]})
    cost = done.costs["render"]
    assert (cost.attempts, cost.seconds, cost.gpu_seconds, cost.peak_rss) == (2, 5.0, 5.0, 9)
    assert done.bytes == {"scene": 0, "rendered": 100, "panoramas": 0}
    assert (done.nodes, done.reasons) == ((socket.gethostname(),), {"crashed": 1, "ok": 1})
    assert (done.lost.attempts, done.lost.cpu_seconds) == (1, 1.5)
    assert not scene.folder.blend.exists()
    assert names_of(farm.run.done_folder) == {"spheres-0000000007"}


def test_a_scene_without_a_good_panorama_is_not_finished(farm: Farm, scene: Scene) -> None:
    write_json(scene.folder.generated, {"viewpoints": [{}]})
    write_json(scene.folder.panorama(0) / "row.json", {"summary": {"defects": ["black"]}})
    assert finish(scene, "spheres", keep_work=False) == "no good panorama: black"
    assert not scene.folder.done.exists()


def test_quarantine_says_why_and_how_to_run_again(farm: Farm, scene: Scene) -> None:
    settings = make_settings(generator="spheres:3,rooms:1", passes=("depth",), profile="draft")
    begin_attempt(scene.folder, "generate", 1)
    end_attempt(scene.folder, "generate", 1, CRASH)
    scene.folder.blend.write_bytes(b"large")
    quarantine(scene, settings, "generate", CRASH)
    about = read_failed(farm.run, scene.folder.scene_id)
    assert (about.seed, about.stage, about.reason) == (7, "generate", "crashed")
    assert about.log_tail == "boom"
    assert about.log == "attempts/generate-1.log"
    assert about.costs["generate"].seconds == 2.0
    assert "SEED=7 GENERATOR=rooms:0.25,spheres:0.75" in about.run_again
    assert "PASSES=depth" in about.run_again
    assert not scene.folder.blend.exists()
    reset_failures(scene.folder)
    assert not scene.folder.failed.exists()
    assert not any(attempt.counted for attempt in read_attempts(scene.folder))


def test_what_is_forgiven_counts_against_nothing(scene: Scene) -> None:
    for number, end in enumerate((CRASH, Result("node", "it went away")), start=1):
        begin_attempt(scene.folder, "generate", number)
        end_attempt(scene.folder, "generate", number, end)
    state = read_state(scene.folder)
    assert (state.failures["generate"], state.elsewhere) == (1, 1)
    reset_failures(scene.folder)
    state = read_state(scene.folder)
    assert (state.failures["generate"], state.elsewhere, state.numbers["generate"]) == (0, 0, 2)


def test_a_seed_whose_driver_was_killed_before_it_could_give_it_up(scene: Scene) -> None:
    assert retries_exhausted(scene, 2, 2) is None
    for number in (1, 2):
        begin_attempt(scene.folder, "render", number)
        end_attempt(scene.folder, "render", number, CRASH)
        assert (retries_exhausted(scene, 2, 2) is None) == (number < 2)
    assert retries_exhausted(scene, 2, 2) == ("render", Result(CRASH.reason, CRASH.detail))
    begin_attempt(scene.folder, "render", 3)
    end_attempt(scene.folder, "render", 3, Result("ok"))
    assert retries_exhausted(scene, 2, 2) is None
    for number in (1, 2):
        begin_attempt(scene.folder, "annotate", number)
        end_attempt(scene.folder, "annotate", number, Result("node", "it went away"))
    assert retries_exhausted(scene, 2, 2) == ("annotate", Result("node", "it went away"))


def test_open_seeds_leave_out_what_failed(farm: Farm) -> None:
    write_json(farm.run.failed_folder / "spheres-0000000001.json", {})
    (
        farm.run.failed_folder / ".spheres-0000000000.json.01234567.tmp"
    ).touch()  # of a killed process
    seeds = open_seeds(farm.run, SETTINGS)
    assert [next(seeds).seed for _ in range(3)] == [0, 2, 3]
    assert seed_of("house-0000000012") == 12
