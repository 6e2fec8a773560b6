"""What a scene needs next, by its files."""

from __future__ import annotations

import pytest

from pipeline.farm.attempt import Result, begin_attempt, end_attempt
from pipeline.farm.child import Limits
from pipeline.farm.options import FarmSettings
from pipeline.farm.scene import FINISH, missing, read_state, start_over
from pipeline.layout import SceneFolder, write_json
from tests.farm.conftest import Farm


@pytest.fixture
def scene(farm: Farm) -> SceneFolder:
    return farm.run.scene("spheres-0000000000")


def rendered(scene: SceneFolder, index: int) -> None:
    write_json(scene.rendered(index) / "render.json", {})


def annotated(scene: SceneFolder, index: int) -> None:
    write_json(scene.panorama(index) / "row.json", {})


def test_the_next_stage_goes_by_files(scene: SceneFolder) -> None:
    assert (read_state(scene).stage, missing(scene, "generate")) == ("generate", "scene.json")
    write_json(scene.generated, {"viewpoints": [{}, {}]})
    assert missing(scene, "generate") == "scene.blend"
    assert read_state(scene).stage == "generate"  # the scene file is gone
    scene.blend.write_bytes(b"12345")
    state = read_state(scene)
    assert (state.stage, state.scene_bytes, state.to_render, state.to_annotate) == (
        "render", 5, 2, 2,
    )  # fmt: skip
    rendered(scene, 0)
    (scene.rendered(1) / "image.png").parent.mkdir()
    (scene.rendered(1) / "image.png").touch()  # its marker is not there yet
    assert (read_state(scene).stage, missing(scene, "render")) == ("render", "rendered/1")
    annotated(scene, 0)
    rendered(scene, 1)
    state = read_state(scene)
    assert (state.stage, state.to_render, state.to_annotate) == ("annotate", 0, 1)
    assert missing(scene, "render") is None
    assert missing(scene, "annotate") == "panoramas/1"
    annotated(scene, 1)
    assert (read_state(scene).stage, missing(scene, "annotate")) == (FINISH, None)
    write_json(scene.done, {})
    assert read_state(scene).stage is None


def test_a_quarantined_scene_needs_nothing(scene: SceneFolder) -> None:
    write_json(scene.failed, {})
    assert read_state(scene).stage is None


def test_damaged_scene_json_means_generate_again(scene: SceneFolder) -> None:
    write_json(scene.generated, {"viewpoints": [{}]})
    scene.blend.touch()
    annotated(scene, 0)
    scene.generated.write_text('{"viewpoi')
    assert read_state(scene).stage == "generate"
    begin_attempt(scene, "generate", 1)
    start_over(scene)
    assert [path.name for path in scene.path.iterdir()] == ["attempts"]


def test_what_attempts_add_up_to(scene: SceneFolder) -> None:
    for number, reason in enumerate(("crashed", "node", "memory", "interrupted", "ok"), start=1):
        begin_attempt(scene, "generate", number)
        end_attempt(scene, "generate", number, Result(reason))
    begin_attempt(scene, "render", 1)
    end_attempt(scene, "render", 1, Result("gpu-memory"))
    state = read_state(scene)
    assert state.numbers == {"generate": 5, "render": 1, "annotate": 0}
    assert state.failures == {"generate": 2, "render": 0, "annotate": 0}
    assert state.memory_failures["generate"] == 1
    assert (state.elsewhere, state.gpu_failures) == (1, 1)


def test_time_goes_by_the_panoramas_that_are_left_and_memory_by_failures() -> None:
    limits = FarmSettings(
        render_limits=Limits(wall=10, memory=100), annotate_limits=Limits(wall=2)
    ).limits
    assert limits("render", 3).wall == 30
    assert limits("render", 1, 4).memory == 400
    assert limits("annotate", 2).wall == 4
    assert limits("generate", 0).wall == 3600
