"""What a scene needs next by its files, and how it is finished; without Ray."""

from __future__ import annotations

import socket

import pytest

from pipeline.farm.attempt import Result, begin_attempt, end_attempt, reset_failures
from pipeline.farm.child import Limits
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.records import names_of, read_done, seed_of
from pipeline.farm.scene import (
    Scene,
    finish,
    missing_marker,
    open_seeds,
    read_state,
    remove_damaged,
    start_over,
)
from pipeline.layout import SceneFolder, write_json
from tests.farm.conftest import SETTINGS, Farm

CRASH = Result("crashed", "exit status 1: boom", seconds=2.0, cpu_seconds=1.5, log_tail="boom")


@pytest.fixture
def scene(farm: Farm) -> SceneFolder:
    return farm.run.scene("spheres-0000000007")


def mark_rendered(scene: SceneFolder, index: int) -> None:
    write_json(scene.rendered(index) / "render.json", {})


def mark_annotated(scene: SceneFolder, index: int, defects: list[str] | None = None) -> None:
    row = {"summary": {"defects": defects or []}}
    write_json(scene.panorama(index) / "row.json", row)


def test_files_decide_the_next_stage(scene: SceneFolder) -> None:
    assert (read_state(scene).stage, missing_marker(scene, "generate")) == (
        "generate", "scene.json",
    )  # fmt: skip
    write_json(scene.generated, {"viewpoints": [{}, {}]})
    assert missing_marker(scene, "generate") == "scene.blend"
    assert read_state(scene).stage == "generate"  # the scene file is gone
    scene.blend.write_bytes(b"12345")
    state = read_state(scene)
    assert (state.stage, state.scene_bytes, state.to_render, state.to_annotate) == (
        "render", 5, 2, 2,
    )  # fmt: skip
    mark_rendered(scene, 0)
    (scene.rendered(1) / "image.png").parent.mkdir()
    (scene.rendered(1) / "image.png").touch()  # its marker is missing
    assert (read_state(scene).stage, missing_marker(scene, "render")) == ("render", "rendered/1")
    mark_annotated(scene, 0)
    mark_rendered(scene, 1)
    state = read_state(scene)
    assert (state.stage, state.to_render, state.to_annotate) == ("annotate", 0, 1)
    assert missing_marker(scene, "render") is None
    assert missing_marker(scene, "annotate") == "panoramas/1"
    mark_annotated(scene, 1)
    state = read_state(scene)
    assert (state.stage, state.to_render, state.to_annotate) == ("annotate", 0, 0)
    assert missing_marker(scene, "annotate") is None
    write_json(scene.done, {})
    assert read_state(scene).stage is None


def test_quarantined_scene_needs_nothing(scene: SceneFolder) -> None:
    write_json(scene.failed, {})
    assert read_state(scene).stage is None


def test_damaged_scene_json_restarts_generation(scene: SceneFolder) -> None:
    write_json(scene.generated, {"viewpoints": [{}]})
    scene.blend.touch()
    mark_annotated(scene, 0)
    scene.generated.write_text('{"viewpoi')
    assert read_state(scene).stage == "generate"
    begin_attempt(scene, "generate", 1)
    start_over(scene)
    assert [path.name for path in scene.path.iterdir()] == ["attempts"]


def test_damaged_panorama_is_removed_and_made_again(scene: SceneFolder) -> None:
    write_json(scene.generated, {"viewpoints": [{}, {}]})
    scene.blend.write_bytes(b"blend")
    for index in range(2):
        mark_annotated(scene, index)
    (scene.panorama(1) / "row.json").write_text('{"summ')
    remove_damaged(scene)
    state = read_state(scene)
    assert (state.stage, state.to_render, state.to_annotate) == ("render", 1, 1)


def test_attempts_are_counted_by_reason(scene: SceneFolder) -> None:
    for number, reason in enumerate(("crashed", "node", "memory", "interrupted", "ok"), start=1):
        begin_attempt(scene, "generate", number)
        end_attempt(scene, "generate", number, Result(reason))
    begin_attempt(scene, "render", 1)
    end_attempt(scene, "render", 1, Result("gpu-memory"))
    state = read_state(scene)
    assert state.numbers == {"generate": 5, "render": 1, "annotate": 0}
    assert state.failures == {"generate": 2, "render": 0, "annotate": 0}
    assert state.memory_failures["generate"] == 1
    assert (state.machine_failures, state.gpu_failures) == (1, 1)


def test_reset_failures_count_against_nothing(scene: SceneFolder) -> None:
    for number, result in enumerate((CRASH, Result("node", "it went away")), start=1):
        begin_attempt(scene, "generate", number)
        end_attempt(scene, "generate", number, result)
    state = read_state(scene)
    assert (state.failures["generate"], state.machine_failures) == (1, 1)
    reset_failures(scene)
    state = read_state(scene)
    assert (state.failures["generate"], state.machine_failures) == (0, 0)
    assert state.numbers["generate"] == 2


def test_limits_follow_panoramas_left_and_memory_failures() -> None:
    limits = FarmSettings(
        render_limits=Limits(wall=10, memory=100), annotate_limits=Limits(wall=2)
    ).limits
    assert limits("render", 3).wall == 30
    assert limits("render", 1, 4).memory == 400
    assert limits("annotate", 2).wall == 4
    assert limits("generate", 0).wall == 3600


def test_finished_scene(farm: Farm, scene: SceneFolder) -> None:
    write_json(scene.generated, {"viewpoints": [{}, {}]})
    mark_annotated(scene, 0)
    mark_annotated(scene, 1, ["black"])
    for number, result in ((1, CRASH), (2, Result("ok", seconds=3.0, peak_rss=9))):
        begin_attempt(scene, "render", number, gpus=1, node="n")
        end_attempt(scene, "render", number, result, bytes=50, brought=number - 1)
    scene.blend.write_bytes(b"large")
    assert finish(Scene(7, scene), "spheres", keep_work=False) is None
    done = read_done(farm.run, scene.scene_id)
    assert (done.panoramas, done.unfit) == ((0,), {"1": ["black"]})
    cost = done.costs["render"]
    assert (cost.attempts, cost.seconds, cost.gpu_seconds, cost.peak_rss) == (2, 5.0, 5.0, 9)
    assert done.bytes == {"scene": 0, "rendered": 100, "panoramas": 0}
    assert (done.nodes, done.reasons) == ((socket.gethostname(),), {"crashed": 1, "ok": 1})
    assert (done.lost.attempts, done.lost.cpu_seconds) == (1, 1.5)
    assert not scene.blend.exists()
    assert names_of(farm.run.done_folder) == {"spheres-0000000007"}


def test_scene_without_a_good_panorama_is_not_finished(scene: SceneFolder) -> None:
    write_json(scene.generated, {"viewpoints": [{}]})
    mark_annotated(scene, 0, ["black"])
    assert finish(Scene(7, scene), "spheres", keep_work=False) == "no good panorama: black"
    assert not scene.done.exists()


def test_open_seeds_leave_out_what_failed(farm: Farm) -> None:
    write_json(farm.run.failed_folder / "spheres-0000000001.json", {})
    leftover = ".spheres-0000000000.json.01234567.tmp"  # of a killed process
    (farm.run.failed_folder / leftover).touch()
    seeds = open_seeds(farm.run, SETTINGS)
    assert [next(seeds).seed for _ in range(3)] == [0, 2, 3]
    assert seed_of("house-0000000012") == 12
