"""Packing: identical bytes in any order, whole or not at all, and nothing written twice."""

import fcntl
import os
import shutil
from contextlib import suppress

import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.layout import RunFolder, read_json, write_json
from pipeline.run_settings import scene_id
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import leaf_columns, make_schema
from pipeline.shards.writer import pack
from pipeline.storage import LockedError
from tests.shards.conftest import SEEDS
from tests.shards.packing import SMALL, image_ids, shards
from tests.synthetic import PASSES, SETTINGS, finish_scene


def test_one_row_group_per_panorama_and_codecs_by_column(packable):
    summary = pack(packable, SETTINGS, validation_fraction=0)
    assert summary == {
        "train": 8,
        "validation": 0,
        "left_out": 0,
        "waiting": 0,
        "dropped": 8,
        "unknown": {},
        "written": 1,
        "unchanged": 0,
        "removed": 0,
    }
    (path,) = (packable.shards / "data").iterdir()
    assert path.name == "train-00000.parquet"
    metadata = pq.read_metadata(path)
    assert metadata.num_rows == metadata.num_row_groups == 8
    group = metadata.row_group(3)
    assert [group.column(i).path_in_schema for i in range(group.num_columns)] == leaf_columns(
        make_schema()
    )
    for column in map(group.column, range(group.num_columns)):
        is_image = column.path_in_schema in ("image.bytes", "ids.bytes")
        assert column.compression == ("UNCOMPRESSED" if is_image else "ZSTD")
        assert column.has_dictionary_page != is_image or column.physical_type == "BOOLEAN"


def test_rows_hold_the_files_of_the_panoramas(packable):
    pack(packable, SETTINGS, validation_fraction=0)
    rows = pq.read_table(packable.shards / "data").to_pylist()
    assert [row["image_id"] for row in rows] == [
        f"{scene_id(SETTINGS, seed)}/{k}" for seed in SEEDS for k in (0, 1)
    ]
    for row in rows:
        folder = packable.scene(row["scene_id"]).panorama(int(row["image_id"].split("/")[1]))
        assert row.pop("image")["bytes"] == (folder / "image.webp").read_bytes()
        assert row.pop("ids")["bytes"] == (folder / "ids.png").read_bytes()
        expected = read_json(folder / "row.json")
        del expected["summary"]
        assert row == expected


def test_extra_passes_become_columns(run):
    finish_scene(run, PASSES)
    pack(run, PASSES, validation_fraction=0)
    row = pq.read_table(run.shards / "data").to_pylist()[0]
    folder = run.scene(row["scene_id"]).panorama(0)
    for file in ("albedo.webp", "depth.png", "normal.png"):
        value = row[file.partition(".")[0]]
        assert value["bytes"] == (folder / file).read_bytes()
        assert value["path"] == f"spheres-0000000000-0-{file}"


def test_the_order_of_rendering_does_not_matter(packable, tmp_path):
    pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0.5)
    shuffled = RunFolder(tmp_path / "shuffled")
    for seed in (3, 1, 0, 2):
        finish_scene(shuffled, seed=seed)
        with suppress(UserError):  # until seed 0 is finished
            pack(shuffled, SETTINGS, shard_bytes=SMALL, validation_fraction=0.5)
    assert len(shards(packable)) >= 3
    assert shards(shuffled) == shards(packable)
    assert read_json(shuffled.shards / "manifest.json") == read_json(
        packable.shards / "manifest.json"
    )


def test_shards_are_bounded(packable):
    pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)
    sizes = [len(data) for data in shards(packable).values()]
    assert len(sizes) > 2 and max(sizes) <= SMALL
    pack(packable, SETTINGS, shard_bytes=1, validation_fraction=0)
    assert len(shards(packable)) == 8  # each row its own, and the larger ones are gone


def test_packing_again_writes_nothing(packable):
    pack(packable, SETTINGS, shard_bytes=SMALL)
    before = {path: path.stat().st_mtime_ns for path in (packable.shards / "data").iterdir()}
    summary = pack(packable, SETTINGS, shard_bytes=SMALL)
    assert (summary["written"], summary["unchanged"]) == (0, len(before))
    assert before == {
        path: path.stat().st_mtime_ns for path in (packable.shards / "data").iterdir()
    }


@pytest.mark.parametrize("damage", ["truncated", "removed", "exchanged"])
def test_a_damaged_shard_is_written_again(packable, damage):
    pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)
    good = shards(packable)
    path = packable.shards / "data" / "train-00001.parquet"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "removed":
        path.unlink()
    else:
        shutil.copy(path.with_name("train-00000.parquet"), path)
    assert pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)["written"] == 1
    assert shards(packable) == good


def test_a_growing_dataset_keeps_its_first_shards(packable):
    last = packable.scene(scene_id(SETTINGS, 3))
    last.done.unlink()
    pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)
    first = packable.shards / "data" / "train-00000.parquet"
    before = first.stat().st_mtime_ns
    write_json(last.done, {})
    summary = pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)
    assert summary["train"] == 8 and summary["unchanged"] >= 1
    assert first.stat().st_mtime_ns == before


def test_stale_shards_are_removed(packable):
    pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)
    count = len(shards(packable))
    summary = pack(packable, SETTINGS, validation_fraction=0)
    assert summary["removed"] == count - 1
    assert list(shards(packable)) == ["train-00000.parquet"]


def test_other_files_beside_the_shards_stay(packable):
    pack(packable, SETTINGS, validation_fraction=0)
    data = packable.shards / "data"
    others = {"mine.parquet", "train-1.parquet", "test-00000.parquet", "notes.txt"}
    for name in others:
        (data / name).touch()
    (data / "train-00007.parquet").touch()
    assert pack(packable, SETTINGS, validation_fraction=0)["removed"] == 1
    assert {path.name for path in data.iterdir()} == others | {"train-00000.parquet"}
    (packable.shards / "manifest.json").unlink()
    assert len(ShardReader(data)) == 8


def test_a_second_packer_is_refused(packable):
    pack(packable, SETTINGS)
    before = shards(packable)
    with open(packable.shards / ".lock") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        with pytest.raises(LockedError, match=f"{os.getpid()} .* packing") as caught:
            pack(packable, SETTINGS, validation_fraction=0)
    assert "\n" not in str(caught.value)
    assert shards(packable) == before
    pack(packable, SETTINGS)


def test_packing_again_leaves_the_manifest_alone(packable):
    pack(packable, SETTINGS)
    manifest = packable.shards / "manifest.json"
    before = manifest.stat().st_mtime_ns
    pack(packable, SETTINGS)
    assert manifest.stat().st_mtime_ns == before


@pytest.mark.parametrize("data", ["", "[1]", "{", '{"train-00000.parquet": 3}'])
def test_a_damaged_manifest_is_written_again(packable, data):
    pack(packable, SETTINGS)
    manifest, before = packable.shards / "manifest.json", shards(packable)
    good = read_json(manifest)
    manifest.write_text(data)
    pack(packable, SETTINGS)
    assert read_json(manifest) == good and shards(packable) == before


def test_panoramas_with_defects_are_left_out(packable):
    path = packable.scene(scene_id(SETTINGS, 1)).panorama(0) / "row.json"
    row = read_json(path)
    row["summary"]["defects"] = ["black: mean grey level 0.0"]
    write_json(path, row)
    summary = pack(packable, SETTINGS, validation_fraction=0)
    assert (summary["train"], summary["left_out"]) == (7, 1)
    assert row["image_id"] not in image_ids(packable, "train")
