"""Files of each format become scenes; unfit ones are rejected with their reason."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .conftest import ROOT

FORMATS = ("blend", "glb", "gltf", "usdc", "usdz", "fbx", "obj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    command = [sys.executable, "-m", "tests.blender.scene_files", str(place)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return place


@pytest.fixture(scope="module")
def loaded(folder):
    return json.loads((folder / "loaded.json").read_text())


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_gives_the_room(loaded, suffix):
    about = loaded[f"room.{suffix}"]
    categories = [category for category, _ in about["instances"].values()]
    assert categories.count("wall") == 4
    assert {"floor", "ceiling", "sofa", "desk_lamp"} <= set(categories)
    structure = [category for category, is_structure in about["instances"].values() if is_structure]
    assert sorted(structure) == ["ceiling", "floor", *["wall"] * 4]
    assert about["views"] == 2 and about["seen"] >= 5
    assert about["brightness"] > 0.05, "light is added where a file has none"


@pytest.mark.parametrize("suffix", ["blend", "glb", "fbx", "obj"])
def test_material_names_give_categories(loaded, suffix):
    categories = [category for category, _ in loaded[f"room.{suffix}"]["instances"].values()]
    assert "coffee_table" in categories


@pytest.mark.parametrize("suffix", ["blend", "glb", "gltf"])
def test_custom_properties_join_objects_and_name_their_category(loaded, suffix):
    categories = [category for category, _ in loaded[f"room.{suffix}"]["instances"].values()]
    assert categories.count("tea_pot") == 1


def test_a_csv_names_categories(loaded):
    assert loaded["room.obj"]["instances"]["Cube_7"] == ["fridge", False]


def test_a_scene_without_a_floor_has_viewpoints(loaded):
    about = loaded["open.blend"]
    assert (about["rooms"], about["views"]) == ([], 2)
    assert {name: kind for name, (kind, _) in about["instances"].items()} == {
        "statue": "statue",
        "apple": "apple",
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken.glb", "broken.glb cannot be read"),
        ("empty.blend", "no object to render"),
        ("tiny.blend", "correct its unit"),
    ],
)
def test_unfit_files_are_rejected_with_their_reason(loaded, name, reason):
    assert reason in loaded[name]["rejected"] and "\n" not in loaded[name]["rejected"]


def test_scripts_in_a_file_do_not_run(folder):
    assert (folder / "room.blend").exists() and not (folder / "script-has-run.txt").exists()
