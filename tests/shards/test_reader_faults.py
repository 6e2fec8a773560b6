"""Shards that are missing, cut off, exchanged or damaged are named by their reader."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.layout import read_json, write_json
from pipeline.shards.reader import ShardReader, decode_image


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


def test_a_shard_that_is_removed_later_is_named(copy):
    reader = ShardReader(copy)
    reader.paths[0].unlink()
    with pytest.raises(UserError, match=r"train-00000\.parquet is missing"):
        reader.row(0)


def test_a_shard_that_changes_size_later_is_named(copy):
    reader = ShardReader(copy)
    with open(reader.paths[0], "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"train-00000\.parquet is truncated or changed"):
        reader.row(0)


def test_a_wrong_row_count_in_the_manifest_is_noticed(copy):
    manifest = read_json(copy / "manifest.json")
    manifest["train-00001.parquet"]["panoramas"] += 1
    write_json(copy / "manifest.json", manifest)
    reader = ShardReader(copy)
    assert reader.row(0)
    with pytest.raises(
        UserError, match=r"train-00001\.parquet does not fit .* 2 rows instead of 3;"
    ):
        reader.row(2)


def test_an_exchanged_shard_is_noticed(copy):
    manifest = read_json(copy / "manifest.json")
    manifest["train-00001.parquet"]["footer_sha256"] = 64 * "0"
    write_json(copy / "manifest.json", manifest)
    reader = ShardReader(copy)
    with pytest.raises(UserError, match=r"train-00001\.parquet does not fit .*: its footer"):
        list(reader.annotations())


@pytest.mark.parametrize(
    "name",
    ["../train-00000.parquet", "/etc/passwd", "train-00000.parquet\n", "test-00000.parquet", ""],
)
def test_other_names_in_the_manifest_are_refused(copy, name):
    manifest = read_json(copy / "manifest.json")
    write_json(copy / "manifest.json", {**manifest, name: manifest["train-00000.parquet"]})
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        ShardReader(copy)


@pytest.mark.parametrize("key", ["bytes", "panoramas"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, [1]])
def test_invalid_sizes_in_the_manifest_are_refused(copy, key, value):
    manifest = read_json(copy / "manifest.json")
    manifest["train-00000.parquet"][key] = value
    write_json(copy / "manifest.json", manifest)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        ShardReader(copy)


def test_fields_missing_in_the_manifest_are_read_from_the_shards(copy):
    manifest = read_json(copy / "manifest.json")
    write_json(copy / "manifest.json", {name: {} for name in manifest})
    reader = ShardReader(copy)
    assert len(reader) == 8 and reader.row(7)


def flip_a_bit(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


def test_a_flipped_bit_in_a_picture_is_noticed(copy):
    reader = ShardReader(copy)
    rows = [reader.row(index) for index in range(4)]
    path = reader.paths[1]
    data = rows[3]["image"]["bytes"]
    flip_a_bit(path, path.read_bytes().index(data) + len(data) // 2)
    message = r"train-00001\.parquet is damaged at row 1: its data do not fit their checksum"
    with pytest.raises(UserError, match=message):
        reader.row(3)
    with pytest.raises(UserError, match=message):
        list(ShardReader(copy).batches(["image"]))  # which reads both rows at once
    assert reader.row(2) == rows[2]
    assert len(list(reader.annotations())) == 8  # do not need the picture


@given(where=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None)
def test_a_flipped_bit_anywhere_is_noticed_or_does_not_matter(packed, where):
    path = packed.shards / "data" / "train-00000.parquet"
    good, expected = path.read_bytes(), ShardReader(packed.shards).row(0)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(packed.shards, folder, dirs_exist_ok=True)
        flip_a_bit(Path(folder) / "data" / path.name, int(where * len(good)))
        try:
            assert ShardReader(folder).row(0) == expected
        except UserError as error:
            assert "train-00000.parquet" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("data", ["", "[1]", "{", '{"train-00000.parquet": 3}', 10**5 * "["])
def test_a_damaged_manifest_is_named(copy, data):
    (copy / "manifest.json").write_text(data)
    with pytest.raises(UserError, match=r"manifest\.json is damaged .* pack the run again"):
        ShardReader(copy)


def test_a_download_without_manifest_can_be_read(copy):
    assert len(ShardReader(copy / "data")) == 8


def test_a_corrupt_image_is_named():
    with pytest.raises(UserError, match=r"a\.webp in a shard is corrupt"):
        decode_image({"bytes": b"RIFF", "path": "a.webp"})
