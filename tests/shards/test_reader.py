"""Reading shards back, by ourselves and by `datasets`, which the Hub's viewer builds on."""

import pickle
import shutil

import datasets
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.outputs import RunFolder
from pipeline.shards.reader import ShardReader, decode_ids, decode_image, masks
from pipeline.shards.writer import pack
from tests.synthetic import PASSES, SETTINGS, directions, disc_ids, finish_scene, picture

SMALL = 160_000  # two rows


@pytest.fixture(scope="module")
def packed(finished, tmp_path_factory):
    run = RunFolder(tmp_path_factory.mktemp("packed") / "out")
    shutil.copytree(finished.path, run.path)
    pack(run, SETTINGS, shard_bytes=SMALL, validation_fraction=0.5)
    return run


@pytest.fixture
def copy(packable):
    pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)
    return packable.shards


def test_rows_come_back(packed):
    reader = ShardReader(packed.shards)
    assert len(reader) == 8
    assert len(reader.paths) > 2
    seen = set()
    for index in range(len(reader)):
        row = reader.row(index)
        seed, k = row["seed"], int(row["image_id"].split("/")[1])
        ids = disc_ids(256, turn=7 * k)
        np.testing.assert_array_equal(decode_ids(row["ids"]), ids)
        image = decode_image(row["image"])
        np.testing.assert_array_equal(image, picture(ids, 1000 * seed + k))
        for thing, mask in zip(row["objects"], masks(row["objects"]), strict=True):
            assert mask.dtype == bool
            np.testing.assert_array_equal(mask, ids == thing["id"])
        seen.add(row["image_id"])
    assert len(seen) == 8


def test_some_columns_of_a_row(packed):
    assert ShardReader(packed.shards).row(0, ["seed", "width"]).keys() == {"seed", "width"}


def test_annotations_come_without_images(packed):
    reader = ShardReader(packed.shards)
    rows = list(reader.annotations())
    expected = [reader.row(index) for index in range(8)]
    for row in expected:
        del row["image"], row["ids"]
    assert rows == expected
    assert next(reader.annotations(["image_id"])) == {"image_id": rows[0]["image_id"]}


def test_splits_are_apart(packed):
    train, validation = (ShardReader(packed.shards, split) for split in ("train", "validation"))
    assert len(train) + len(validation) == 8
    assert len(validation) > 0
    names = [{row["scene_id"] for row in part.annotations()} for part in (train, validation)]
    assert not names[0] & names[1]


def test_depth_and_normals(run):
    finish_scene(run, PASSES)
    pack(run, PASSES)
    row = ShardReader(run.shards).row(0)
    np.testing.assert_array_equal(decode_ids(row["depth"]), 500 * disc_ids(256))
    normal = decode_image(row["normal"]) / 65535 * 2 - 1
    np.testing.assert_allclose(normal, -directions(256), atol=2e-5)


def test_a_reader_can_be_sent_to_another_process(packed):
    reader = ShardReader(packed.shards)
    twin = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own, as torch loaders do
    assert twin.row(5) == reader.row(5)


@pytest.mark.parametrize("index", [-1, 8])
def test_rows_outside_are_refused(packed, index):
    with pytest.raises(IndexError):
        ShardReader(packed.shards).row(index)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_missing_shard_is_named(copy, with_manifest):
    if not with_manifest:
        (copy / "manifest.json").unlink()
    (copy / "data" / "train-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"train-00001\.parquet is missing"):
        ShardReader(copy)


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_truncated_shard_is_named(copy, kept):
    path = copy / "data" / "train-00001.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"train-00001\.parquet is truncated"):
        ShardReader(copy)


def test_a_shard_that_is_truncated_later_is_named(copy):
    reader = ShardReader(copy)
    path = reader.paths[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"train-00000\.parquet is truncated"):
        reader.row(0)


def test_a_folder_without_shards(tmp_path):
    with pytest.raises(UserError, match="holds no train shards;"):
        ShardReader(tmp_path, "train")
    with pytest.raises(UserError, match="holds no shards;"):
        ShardReader(tmp_path)


@pytest.mark.parametrize("data", ["", "[1]", "{"])
def test_a_damaged_manifest_is_named(copy, data):
    (copy / "manifest.json").write_text(data)
    with pytest.raises(UserError, match=r"manifest\.json is damaged .* pack the run again"):
        ShardReader(copy)


def test_a_download_without_manifest_can_be_read(copy):
    assert len(ShardReader(copy / "data")) == 8


def test_a_corrupt_image_is_named():
    with pytest.raises(UserError, match=r"a\.webp in a shard is corrupt"):
        decode_image({"bytes": b"RIFF", "path": "a.webp"})


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_the_shards(packed, tmp_path, streaming):
    data = packed.shards / "data"
    found = datasets.load_dataset(
        "parquet",
        data_files={split: str(data / f"{split}-*.parquet") for split in ("train", "validation")},
        cache_dir=str(tmp_path),
        streaming=streaming,
    )
    assert isinstance(found["train"].features["image"], datasets.Image)
    ours = [ShardReader(packed.shards, split) for split in ("train", "validation")]
    for rows, reader in zip((found["train"], found["validation"]), ours, strict=True):
        rows = list(rows)
        assert len(rows) == len(reader)
        for index, row in enumerate(rows):
            expected = reader.row(index)
            np.testing.assert_array_equal(np.array(row["image"]), decode_image(expected["image"]))
            np.testing.assert_array_equal(np.array(row["ids"]), decode_ids(expected["ids"]))
            for name in expected.keys() - {"image", "ids"}:
                assert row[name] == expected[name]
