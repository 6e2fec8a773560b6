"""What is not packed, and what a full disk or a killed pack leaves."""

import dataclasses

import pytest

from pipeline.errors import UserError
from pipeline.layout import read_json, write_json
from pipeline.run_settings import scene_id, settings_hash
from pipeline.shards.writer import pack
from tests.disks import little_space
from tests.shards.packing import shards
from tests.synthetic import SETTINGS, finish_scene


def test_rows_of_other_settings_are_refused(packable):
    other = dataclasses.replace(SETTINGS, samples=2)
    with pytest.raises(UserError, match="was made with settings"):
        pack(packable, other)


def test_rows_are_compared_with_the_settings_hash_of_the_run(packable, monkeypatch):
    begun = settings_hash(SETTINGS)
    monkeypatch.setattr("pipeline.shards.writer.settings_hash", lambda settings: "edited")
    with pytest.raises(UserError, match="was made with settings"):
        pack(packable, SETTINGS)
    assert pack(packable, SETTINGS, rows_hash=begun, validation_fraction=0)["train"] == 8
    with pytest.raises(UserError, match="this run has 0123"):
        pack(packable, SETTINGS, rows_hash="0123")


def test_nothing_to_pack(run):
    with pytest.raises(UserError, match="no finished scene"):
        pack(run, SETTINGS)


@pytest.mark.parametrize("name", ["row.json", "image.webp", "ids.png"])
@pytest.mark.parametrize("damage", ["removed", "damaged"])
def test_a_damaged_panorama_is_named_and_the_shards_stay(packable, name, damage):
    pack(packable, SETTINGS)
    before = shards(packable)
    finish_scene(packable, seed=4)
    path = packable.scene(scene_id(SETTINGS, 4)).panorama(1) / name
    path.write_bytes(path.read_bytes()[:-20]) if damage == "damaged" else path.unlink()
    with pytest.raises(UserError, match=f"4/panoramas/1/{name} is missing or damaged; delete"):
        pack(packable, SETTINGS)
    assert shards(packable) == before


@pytest.mark.parametrize("data", ["", "{}", "[1]", '{"summary": 3}'])
def test_an_invalid_row_names_its_panorama(packable, data):
    scene = packable.scene(scene_id(SETTINGS, 1))
    (scene.panorama(0) / "row.json").write_text(data)
    with pytest.raises(UserError) as caught:
        pack(packable, SETTINGS)
    assert f"delete {scene.panorama(0)} and {scene.done}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, "", "{}", "[1]", '{"viewpoints": 3}'])
def test_a_done_scene_without_its_scene_json_is_named(packable, data):
    scene = packable.scene(scene_id(SETTINGS, 1))
    scene.generated.unlink() if data is None else scene.generated.write_text(data)
    with pytest.raises(UserError, match=f"missing or damaged; delete {scene.path} and"):
        pack(packable, SETTINGS)


def test_a_row_that_does_not_fit_the_schema_is_refused(packable):
    path = packable.scene(scene_id(SETTINGS, 1)).panorama(0) / "row.json"
    good = read_json(path)
    missing, mistyped = read_json(path), {**good, "objects": 3}
    del missing["objects"][0]["click"]
    for row in (missing, mistyped):
        write_json(path, row)
        with pytest.raises(UserError, match="does not fit the schema; delete"):
            pack(packable, SETTINGS)


@pytest.mark.parametrize("size", [60_000, 400_000])  # before the first row ends, and later
def test_a_full_disk_leaves_nothing_behind(packable, size):
    with little_space(packable.shards, size):
        with pytest.raises(UserError, match="the disk is full") as caught:
            pack(packable, SETTINGS, validation_fraction=0)
        assert "\n" not in str(caught.value)
        assert {path.name for path in packable.shards.rglob("*")} == {".lock", "data"}


def test_a_full_disk_keeps_the_old_shards(packable):
    last = packable.scene(scene_id(SETTINGS, 3))
    last.done.unlink()
    with little_space(packable.shards, 640_000):  # for six rows, but not for eight beside them
        pack(packable, SETTINGS, validation_fraction=0)
        before = shards(packable)
        write_json(last.done, {})
        with pytest.raises(UserError, match="the disk is full"):
            pack(packable, SETTINGS, validation_fraction=0)
        assert shards(packable) == before


def test_a_killed_pack_is_cleaned_up(packable):
    leftover = packable.shards / ".fresh" / "train-00000.parquet"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    pack(packable, SETTINGS)
    assert not leftover.parent.exists()
