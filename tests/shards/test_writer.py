"""Packing: identical bytes in any order, whole or not at all, and nothing written twice."""

import dataclasses
import fcntl
import os
import resource
import shutil
import subprocess
from contextlib import contextmanager, suppress
from itertools import count, takewhile

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.outputs import RunFolder, read_json, write_json
from pipeline.settings import scene_id, settings_hash
from pipeline.shards.plan import draw_splits
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import leaf_columns, make_schema
from pipeline.shards.writer import VALIDATION_FRACTION, VALIDATION_PANORAMAS, pack
from tests.shards.conftest import SEEDS
from tests.synthetic import PASSES, SETTINGS, finish_scene

SMALL = 160_000
"""Shard size that takes two of the synthetic panoramas."""


def shards(run):
    return {path.name: path.read_bytes() for path in (run.shards / "data").iterdir()}


def image_ids(run, split):
    return [
        image_id
        for path in sorted((run.shards / "data").glob(f"{split}-*.parquet"))
        for image_id in pq.read_table(path, columns=["image_id"])["image_id"].to_pylist()
    ]


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
    for name in ("depth", "normal"):
        assert row[name]["bytes"] == (folder / f"{name}.png").read_bytes()
        assert row[name]["path"] == f"spheres-0000000000-0-{name}.png"


def test_the_order_of_making_does_not_matter(packable, tmp_path):
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


def test_files_of_others_beside_the_shards_stay(packable):
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
        with pytest.raises(UserError, match="another process is packing") as caught:
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
def test_a_damaged_manifest_is_made_anew(packable, data):
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


def test_scenes_are_split_whole_by_their_name(packable):
    pack(packable, SETTINGS, validation_fraction=0.5)
    scenes = {
        split: {image_id.split("/")[0] for image_id in image_ids(packable, split)}
        for split in ("train", "validation")
    }
    assert len(scenes["train"]) == len(scenes["validation"]) == 2
    assert not scenes["train"] & scenes["validation"]


def test_validation_ends_with_enough_panoramas(packable):
    summary = pack(packable, SETTINGS, validation_fraction=1, validation_panoramas=3)
    assert (summary["validation"], summary["train"]) == (4, 4)  # whole scenes of two
    assert image_ids(packable, "validation")[0] == f"{scene_id(SETTINGS, 0)}/0"


@dataclasses.dataclass
class Row:
    """What drawing looks at."""

    seed: int


@pytest.mark.parametrize("first", [0, 7, 5000])
def test_one_scene_of_ten_is_drawn_until_there_are_200_panoramas(first):
    settings = dataclasses.replace(SETTINGS, seed=first)
    rows = [Row(first + i // 2) for i in range(2 * 3000)]  # two panoramas a scene
    splits = draw_splits(rows, settings, VALIDATION_FRACTION, VALIDATION_PANORAMAS)
    seeds = sorted({row.seed - first for row in splits["validation"]})
    assert [seed // 10 for seed in seeds] == list(range(100))
    assert len(splits["validation"]) == 200 and len(splits["train"]) == 5800
    # the hash decides: no place within the ten is preferred
    counts = np.bincount([seed % 10 for seed in seeds], minlength=10)
    assert counts.min() >= 2 and counts.max() <= 22


FATES = st.lists(st.sampled_from(["done", "failed"]), min_size=1, max_size=30)


@given(fates=FATES, order=st.randoms(use_true_random=False), panos=st.integers(1, 3))
def test_what_was_packed_once_keeps_its_split_and_its_place(fates, order, panos):
    """Scenes end in any order, some fail, and the run is packed after each of them."""
    ended: dict[int, str] = {}
    before: dict[str, list[Row]] = {"train": [], "validation": []}
    seeds = list(range(len(fates)))
    order.shuffle(seeds)
    for seed in seeds:
        ended[seed] = fates[seed]
        decided = takewhile(ended.__contains__, count(SETTINGS.seed))
        rows = [Row(s) for s in decided if ended[s] == "done" for _ in range(panos)]
        after = draw_splits(rows, SETTINGS, fraction=0.2, enough=5)
        for split, old in before.items():
            assert after[split][: len(old)] == old
        before = after


def test_a_late_scene_holds_those_behind_it_back(packable):
    late = packable.scene(scene_id(SETTINGS, 1))
    late.done.unlink()
    summary = pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)
    assert (summary["train"], summary["waiting"]) == (2, 2)
    before = shards(packable)
    write_json(late.done, {})
    summary = pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)
    assert (summary["train"], summary["waiting"]) == (8, 0)
    assert before.items() <= shards(packable).items()


def test_a_quarantined_seed_holds_nothing_back(packable):
    failed = packable.scene(scene_id(SETTINGS, 1))
    failed.done.unlink()
    write_json(failed.failed, {})
    summary = pack(packable, SETTINGS, validation_fraction=0)
    assert (summary["train"], summary["waiting"]) == (6, 0)


def test_nothing_to_pack_but_scenes_that_wait(packable):
    packable.scene(scene_id(SETTINGS, 0)).done.unlink()
    with pytest.raises(UserError, match=r"to pack yet \(3 wait for an earlier seed\)"):
        pack(packable, SETTINGS)


def test_rows_of_other_settings_are_refused(packable):
    other = dataclasses.replace(SETTINGS, samples=2)
    with pytest.raises(UserError, match="was made with settings"):
        pack(packable, other)


def test_rows_are_held_against_the_hash_the_run_was_begun_with(packable, monkeypatch):
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
def test_a_row_that_is_none_names_its_panorama(packable, data):
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


@contextmanager
def little_space(folder, size):
    """Let files under `folder` take only so many bytes: a small tmpfs.

    Without the right to mount one, no file may grow beyond `size` instead, which fails at the
    same call with another error number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            capture_output=True,
        ).returncode
        == 0
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


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
    with little_space(packable.shards, 500_000):  # for six rows, but not for eight beside them
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
