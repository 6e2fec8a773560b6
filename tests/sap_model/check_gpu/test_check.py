"""`check-gpu` in a tiny form, on the CPU: it measures, compares, and says that it saw no GPU."""

from __future__ import annotations

import json

import pytest
import torch

from pipeline.cli import main
from sap_model.check_gpu import compare, machine
from sap_model.check_gpu.measure import Measurement, Plan, measurements
from sap_model.scan.torch_views import TorchViews

TINY = ["SIZES=nano", "IMAGE_SIZE=64", "FRAMES=2", "OBJECTS=1", "RENDER=0"]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without one")


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    with pytest.raises(SystemExit) as ended:
        main(["check-gpu", *TINY, f"OUT={folder}"])
    return ended.value.code or 0, json.loads((folder / "check-gpu.json").read_text()), folder


def test_everything_is_compared_and_measured(checked):
    code, content, _ = checked
    assert code == 0
    assert content["failures"] == {}
    assert {one["name"] for one in content["comparisons"]} >= {
        *("views", "ids of views", "fusion, max", "masks, nano", "step, loss"),
    }
    assert all(one["passed"] for one in content["comparisons"])
    works = [(one["work"], one["objects"], one["checkpointing"]) for one in content["measurements"]]
    assert works == [
        ("encode, per view", 0, None),
        ("follow, per frame", 1, None),
        ("training step of one clip", 1, True),
        ("training step of one clip", 1, False),
    ]
    assert all(one["seconds"] > 0 for one in content["measurements"])


def test_a_machine_without_a_gpu_is_reported_as_such(checked):
    _, content, folder = checked
    assert content["machine"]["gpu"] is None
    assert "**No GPU was seen.**" in (folder / "check-gpu.md").read_text()
    assert all(one["memory_gib"] is one["flash"] is None for one in content["measurements"])


def test_wrong_answers_of_a_device_are_found(monkeypatch):
    render = TorchViews.render
    monkeypatch.setattr(TorchViews, "render", lambda *args: render(*args).roll(1, -1))
    found = {one.name: one.passed for one in compare.views(torch.device("cpu"))}
    assert not found.pop("views")
    assert all(found.values())


def test_nothing_is_begun_without_time():
    plan = Plan(("nano",), 64, (1,), (2,), torch.device("cpu"))
    found = list(measurements(plan, lambda: False))
    assert [one.note for one in found] == ["no time left"] * 4
    assert all(isinstance(one, Measurement) and one.seconds is None for one in found)


def test_blender_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert "not installed" in machine.render(str(tmp_path / "a.png"))["skipped"]
