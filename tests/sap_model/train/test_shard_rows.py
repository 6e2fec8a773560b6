"""Rows of shards: which they are, and what is refused."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import make_schema
from sap_model.train.shard_rows import NoSplitError, ShardRows, decode
from tests.synthetic import CEILING, FLOOR, SECONDS, older_schema


def test_rows_of_several_folders_follow_each_other(shards, packed):
    more = packed(0.25)
    rows = ShardRows([shards, str(more)], "train")
    readers = [ShardReader(folder, "train") for folder in (shards, more)]
    names = [row["image_id"] for reader in readers for row in reader.annotations(["image_id"])]
    assert [rows[k].name for k in range(len(rows))] == names
    assert len(names) == 4 + 6
    with pytest.raises(IndexError):
        rows[len(names)]
    first = rows[0]
    np.testing.assert_array_equal(np.unique(first.ids)[:2], [FLOOR, CEILING])
    for label, (x, y) in zip(first.objects, first.clicks, strict=True):
        assert first.ids[y, x] == label
    assert rows.scenes() == {name.split("/")[0] for name in names}


def test_rows_are_kept_if_told_to_and_sent_without_what_is_kept(shards):
    assert ShardRows([shards], "train")[0] is not ShardRows([shards], "train")[0]
    rows = ShardRows([shards], "train", kept=4)
    assert rows[1] is rows[1]
    data = pickle.dumps(rows)
    assert len(data) < 20_000
    assert pickle.loads(data)[1].name == rows[1].name  # noqa: S301


@pytest.fixture
def row(shards) -> dict:
    return ShardReader(shards, "train").row(0)


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_mask_of_another_size_than_its_image_is_refused(row):
    row["objects"][1]["segmentation"]["size"] = [256, 512]
    with pytest.raises(UserError, match=r"has size \[256, 512\], its image \[128, 256\]") as error:
        decode(row)
    assert row["image_id"] in one_line(error)


def test_ids_of_another_size_than_the_image_are_refused(row, tmp_path):
    def png(array: np.ndarray) -> dict:
        return {"bytes": cv2.imencode(".png", array)[1].tobytes(), "path": "x.png"}

    with pytest.raises(UserError, match="ids of") as error:
        decode(row | {"ids": png(np.zeros((64, 128), np.uint16))})
    one_line(error)
    flat = row | {"ids": png(np.zeros((64, 64), np.uint16)), "objects": []}
    with pytest.raises(UserError, match="64 × 64 pixels are no panorama") as error:
        decode(flat | {"image": png(np.zeros((64, 64, 3), np.uint8))})
    one_line(error)


@pytest.mark.parametrize("column", ["ids", "objects", "scene_id"])
def test_shards_without_a_column_that_training_needs_are_refused(row, tmp_path, column):
    del row[column]
    schema = make_schema()
    schema = pa.schema([field for field in schema if field.name != column])
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "train-00000.parquet")
    with pytest.raises(UserError, match=f"has no column {column}") as error:
        ShardRows([tmp_path], "train")[0]
    one_line(error)


def store(folder: Path, *rows: dict, schema: pa.Schema | None = None) -> Path:
    """A shard for each row."""
    folder.mkdir()
    for number, row in enumerate(rows):
        table = pa.Table.from_pylist([row], schema=schema or make_schema())
        pq.write_table(table, folder / f"train-{number:05d}.parquet")
    return folder


def test_all_rows_are_looked_at_without_their_pictures(shards, row, tmp_path):
    rows = ShardRows([shards], "train")
    assert rows.check().scenes == rows.scenes()
    blind = row | {name: {"bytes": b"", "path": "x"} for name in ("image", "ids")}
    empty = row | {"objects": [], "scene_id": "bare"}
    folder = store(tmp_path / "data", blind, empty)
    assert ShardRows([folder], "train").check().scenes == {row["scene_id"], "bare"}


def test_other_rows_and_another_order_have_another_digest(shards, row, tmp_path):
    more = store(tmp_path / "data", row | {"image_id": "more"})
    orders = ([shards], [shards, more], [more, shards], [shards])
    digests = [ShardRows(folders, "train").check().digest for folders in orders]
    assert len(set(digests)) == 3 and digests[0] == digests[3]


def test_rows_of_an_older_version_which_had_seconds_are_rows_too(shards, row, tmp_path):
    older = row | {"provenance": row["provenance"] | SECONDS}
    rows = ShardRows([shards, store(tmp_path / "data", older, schema=older_schema())], "train")
    assert rows.check().scenes == rows.scenes()
    first, same = rows[0], rows[len(rows) - 1]
    np.testing.assert_array_equal(first.image, same.image)
    np.testing.assert_array_equal(first.ids, same.ids)
    np.testing.assert_array_equal(first.clicks, same.clicks)


@pytest.mark.parametrize("size", [[256, 512], [128, 255], [256, 128], [128], [128, 256, 3], None])
def test_a_mask_of_another_size_is_found_in_any_folder_before_it_is_drawn(
    shards, row, tmp_path, size
):
    bad = copy.deepcopy(row)
    bad["objects"][2]["segmentation"]["size"] = size
    bad["image_id"] = "bad/7"
    folder = store(tmp_path / "data", row, row | {"objects": []}, bad)
    with pytest.raises(UserError) as error:
        ShardRows([shards, folder], "train").check()
    text = one_line(error)
    assert text.startswith(f"{folder / 'train-00002.parquet'}: bad/7: the mask of object ")
    assert f"object {row['objects'][2]['id']} has size {size}, its image [128, 256]" in text


def test_a_later_shard_that_is_flat_or_lacks_a_column_is_found(shards, row, tmp_path):
    flat = store(tmp_path / "flat", row, row | {"width": 128})
    with pytest.raises(UserError, match=r"00001\.parquet: .* 128 × 128 pixels are no pan") as error:
        ShardRows([shards, flat], "train").check()
    one_line(error)
    for column in ("ids", "image", "objects", "width"):
        schema = pa.schema([field for field in make_schema() if field.name != column])
        folder = store(tmp_path / column, row, schema=schema)
        with pytest.raises(UserError, match=rf"{column}/.* has no column {column}") as error:
            ShardRows([shards, folder], "train").check()
        one_line(error)


def test_a_folder_may_lack_a_split_that_another_has(shards, packed):
    whole = packed(0)
    rows = ShardRows([whole, shards], "validation")
    names = [row["image_id"] for row in ShardReader(shards, "validation").annotations(["image_id"])]
    assert [rows[k].name for k in range(len(rows))] == names
    with pytest.raises(NoSplitError, match="validation") as error:
        ShardRows([whole, whole], "validation")
    assert str(whole) in one_line(error)


def test_a_folder_without_shards_is_refused(shards, tmp_path):
    with pytest.raises(UserError) as error:
        ShardRows([shards, tmp_path], "train")
    assert str(tmp_path) in one_line(error)
