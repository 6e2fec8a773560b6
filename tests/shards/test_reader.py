"""Reading shards back, by ourselves and by `datasets`, which the Hub's viewer builds on."""

import pickle
import tempfile
import time
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations.stage import depth_to_millimetres
from pipeline.errors import UserError
from pipeline.layout import write_json
from pipeline.shards import footers
from pipeline.shards import reader as reader_module
from pipeline.shards.reader import ShardReader, decode_ids, decode_image, masks
from pipeline.shards.writer import pack
from tests.synthetic import (
    PASSES,
    SETTINGS,
    directions,
    disc_depth,
    disc_ids,
    finish_scene,
    picture,
)


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
    reader = ShardReader(packed.shards)
    assert reader.row(0, ["seed", "width"]).keys() == {"seed", "width"}
    assert reader.row(0, []) == {}


def test_annotations_come_without_images(packed):
    reader = ShardReader(packed.shards)
    rows = list(reader.annotations())
    expected = [reader.row(index) for index in range(8)]
    for row in expected:
        del row["image"], row["ids"]
    assert rows == expected
    assert next(reader.annotations(["image_id"])) == {"image_id": rows[0]["image_id"]}


def test_batches_hold_many_rows_of_the_given_columns(packed):
    reader = ShardReader(packed.shards)
    columns = ["image_id", "objects.list.element.area"]
    found = list(reader.batches(columns))
    assert [name for name, _ in found] == reader.shards
    rows = [row for _, batch in found for row in batch.to_pylist()]
    for index, row in enumerate(rows):
        whole = reader.row(index)
        areas = [{"area": thing["area"]} for thing in whole["objects"]]
        assert row == {"image_id": whole["image_id"], "objects": areas}


def test_batches_are_small_however_large_the_shard(packable, monkeypatch):
    pack(packable, SETTINGS, validation_fraction=0)
    reader = ShardReader(packable.shards)
    ((_, whole),) = reader.batches(["image", "image_id"])
    monkeypatch.setattr(reader_module, "BATCH_BYTES", 3 * whole.nbytes / 8)
    batches = [batch for _, batch in reader.batches(["image", "image_id"])]
    assert len(batches) > 2 and all(0 < batch.num_rows < 5 for batch in batches)
    assert pa.Table.from_batches(batches).equals(pa.Table.from_batches([whole]))


@pytest.mark.parametrize("column", ["depth", "objects.area", "object", "objects.list.element.x"])
def test_a_missing_column_is_named(packed, column):
    reader = ShardReader(packed.shards)
    for read in (
        lambda: reader.row(0, [column]),
        lambda: next(reader.annotations(["image_id", column])),
        lambda: next(reader.batches([column])),
    ):
        with pytest.raises(UserError, match=f"has no column {column}; it has image, ids"):
            read()


def test_rows_are_located(packed):
    reader = ShardReader(packed.shards)
    assert reader.shards == [path.name for path in reader.paths] == sorted(reader.shards)
    for index in range(8):
        name, row = reader.locate(index)
        column = pq.read_table(packed.shards / "data" / name, columns=["image_id"])["image_id"]
        assert column[row].as_py() == reader.row(index)["image_id"]
    with pytest.raises(IndexError):
        reader.locate(8)
    assert sum(reader.splits.values()) == 8
    for split, rows in reader.splits.items():
        assert ShardReader(packed.shards, split).splits == {split: rows}


def test_splits_are_separate(packed):
    train, validation = (ShardReader(packed.shards, split) for split in ("train", "validation"))
    assert len(train) + len(validation) == 8
    assert len(validation) > 0
    names = [{row["scene_id"] for row in part.annotations()} for part in (train, validation)]
    assert not names[0] & names[1]


def test_depth_and_normals(run):
    finish_scene(run, PASSES)
    pack(run, PASSES)
    row = ShardReader(run.shards).row(0)
    np.testing.assert_array_equal(decode_ids(row["depth"]), depth_to_millimetres(disc_depth(256)))
    normal = decode_image(row["normal"]) / 65535 * 2 - 1
    np.testing.assert_allclose(normal, -directions(256), atol=2e-5)


def test_a_reader_can_be_sent_to_another_process(packed):
    reader = ShardReader(packed.shards)
    twin = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own, as torch loaders do
    assert twin.row(5) == reader.row(5)


@pytest.mark.parametrize("index", [-1, 8])
def test_an_index_out_of_range_is_refused(packed, index):
    with pytest.raises(IndexError):
        ShardReader(packed.shards).row(index)


def write_shard(path, rows, group=1):
    """A shard of (image bytes, image id); some rows to a group."""
    table = pa.table(
        {"image": [{"bytes": row[0]} for row in rows], "image_id": [r[1] for r in rows]}
    )
    pq.write_table(table, path, row_group_size=group, write_page_checksum=True, compression="NONE")


ROWS = st.lists(st.tuples(st.binary(max_size=50), st.text()), min_size=1, max_size=6)


@given(shards=st.lists(ROWS, min_size=1, max_size=4), limit=st.integers(1, 1000))
@settings(max_examples=40, deadline=None)
def test_rows_are_those_that_pyarrow_reads_in_order(shards, limit):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader_module, "BATCH_BYTES", limit)
        paths = [Path(folder) / f"train-{number:05d}.parquet" for number in range(len(shards))]
        for path, rows in zip(paths, shards, strict=True):
            write_shard(path, rows)
        expected = pa.concat_tables([pq.read_table(path) for path in paths])
        reader = ShardReader(folder)
        assert len(reader) == len(expected)
        assert [reader.row(index) for index in range(len(reader))] == expected.to_pylist()
        columns = ["image.bytes", "image_id"]
        batches = [batch for _, batch in reader.batches(columns)]
        assert pa.Table.from_batches(batches).to_pylist() == expected.to_pylist()
        ids = [row["image_id"] for row in reader.annotations()]
        assert ids == expected["image_id"].to_pylist()


@pytest.mark.parametrize("group", [2, 3])
def test_a_foreign_parquet_file_is_refused(tmp_path, group):
    write_shard(tmp_path / "train-00000.parquet", [(b"", "")] * 4, group)
    with pytest.raises(UserError, match="is not one of our shards"):
        ShardReader(tmp_path)


def test_thousands_of_shards_open_quickly_and_in_little_memory(tmp_path):
    (tmp_path / "data").mkdir()
    names = [f"train-{number:05d}.parquet" for number in range(2300)]
    for name in names:
        with open(tmp_path / "data" / name, "wb") as file:
            file.truncate(512 * 2**20)  # takes no room on the disk
    entry = {"bytes": 512 * 2**20, "panoramas": 80, "footer_sha256": 64 * "0", "source": "x"}
    write_json(tmp_path / "manifest.json", dict.fromkeys(names, entry))
    tracemalloc.start()
    start = time.perf_counter()
    reader = ShardReader(tmp_path)
    seconds = time.perf_counter() - start
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(reader) == 184_000 and reader.locate(183_999) == ("train-02299.parquet", 79)
    assert seconds < 5  # measured: 0.1 s
    assert memory < 3 * 2**20
    assert len(pickle.dumps(reader)) < 2**20
    with pytest.raises(UserError, match=r"train-02299\.parquet is truncated or damaged;"):
        reader.row(183_999)


def test_a_footer_with_a_huge_row_count_is_refused(tmp_path):
    """A list as long as it says would not fit into any memory."""
    path = tmp_path / "train-00000.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    data = path.read_bytes()
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    # Thrift's field 3, num_rows, then field 4, a list of one row group; zigzag: 2 is one
    footer = data[end:-8].replace(b"\x16\x02\x19\x1c", b"\x16" + 8 * b"\x80" + b"\x40\x19\x1c", 1)
    length = len(footer).to_bytes(4, "little")
    path.write_bytes(data[:end] + footer + length + b"PAR1")
    assert pq.read_metadata(path).num_rows == 2**61
    with pytest.raises(UserError, match=r"train-00000\.parquet is not one of our shards"):
        ShardReader(tmp_path)


def test_few_footers_stay_in_memory(packed, monkeypatch):
    monkeypatch.setattr(reader_module, "FOOTERS_KEPT", 2)
    reader = ShardReader(packed.shards)
    list(reader.annotations())
    assert reader._footer.cache_info().currsize == 2 < len(reader.shards)


def test_footers_are_read_in_one_or_two_requests(copy, monkeypatch):
    expected = ShardReader(copy).row(0)
    monkeypatch.setattr(footers, "FOOTER_BYTES_PER_ROW", 0)
    for guess in (8, 9, 100, 10**9):
        monkeypatch.setattr(footers, "FOOTER_BYTES", guess)
        assert ShardReader(copy).row(0) == expected


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
