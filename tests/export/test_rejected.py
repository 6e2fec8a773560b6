"""Rejected: names that leave the folder, rows that do not fit the schema, foreign folders."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.export.coco import export_coco
from pipeline.export.dataset_rows import merged_rows
from tests.errors import raises_user_error
from tests.export.exports import (
    EMPTY_WEBP,
    load,
    named,
    tree,
    write_shards,
)


@pytest.mark.parametrize(
    "scene",
    ["../x", "/etc/x", "a/b", "..", ".", "", ".hidden", "a\\b", "c:x", "a\nb", "a\0b", "x" * 300],
)
def test_unsafe_name_is_rejected(rows, tmp_path, scene):
    row = {**rows[1], "scene_id": scene, "image_id": f"{scene}/0"}
    shards = write_shards(tmp_path / "shards", train=[rows[0], row])
    with raises_user_error("row 1 of train-00000.parquet"):
        export_coco(shards, tmp_path / "in" / "coco")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "shards/data/train-00000.parquet",
        "in/coco/.lock",
        "in/coco/train/spheres-0000000000-0.webp",
    }


SCENES = st.text(st.sampled_from("aZ0_-./\\\n\0 ü"), max_size=8)


@given(SCENES, st.sampled_from(["0", "12", "01", "-1", "", "1/2", "٣", "0\n"]))
def test_accepted_name_stays_in_the_folder(scene, k):
    image_id = f"{scene}/{k}"
    values = {"image_id": image_id, "scene_id": scene, "seed": 0, "image": {"bytes": EMPTY_WEBP}}
    try:
        (row,) = merged_rows(
            SimpleNamespace(
                splits={"train": 1}, locate=lambda i: ("train", i), row=lambda i, columns: values
            )
        )
    except UserError:
        return
    assert (Path("/folder") / row.stem).resolve().parent == Path("/folder")
    assert row.stem.isascii() and row.stem.isprintable()
    assert "/".join(row.stem.rsplit("-", 1)) == image_id  # so names are unique


@pytest.mark.parametrize(
    "values",
    [
        {"image_id": "spheres-0000000000/1/2"},
        {"image_id": "spheres-0000000000/-1"},
        {"image_id": "spheres-0000000001/0"},  # the scene is another
        {"image_id": None},
        {"image": None},
        {"image": {"bytes": b"<html>", "path": "a"}},
        {"seed": None},
        {"provenance": None},
        {"objects": None},
        {"objects": [None]},
    ],
)
def test_row_outside_the_schema_is_named(rows, tmp_path, values):
    shards = write_shards(tmp_path / "shards", train=[{**rows[0], **values}])
    with raises_user_error("row 0 of train-00000.parquet"):
        export_coco(shards, tmp_path / "coco")
    assert tree(tmp_path / "coco") == {}


def test_number_that_json_lacks_is_rejected(rows, tmp_path):
    things = [{**rows[0]["objects"][0], "solid_angle": math.nan}]
    shards = write_shards(tmp_path / "shards", train=[{**rows[0], "objects": things}])
    with raises_user_error("row 0 of train-00000.parquet"):
        export_coco(shards, tmp_path / "coco")


def test_undecodable_image_is_named(rows, tmp_path):
    broken = rows[0]["image"]["bytes"][:20]
    broken = broken[:4] + (len(broken) - 8).to_bytes(4, "little") + broken[8:]
    row = {**rows[0], "image": {"bytes": broken, "path": "x\ny"}}
    shards = write_shards(tmp_path / "shards", train=[row])
    with raises_user_error("spheres-0000000000-0"):
        export_coco(shards, tmp_path / "coco", "png")


def test_duplicate_row_is_named(rows, tmp_path):
    shards = write_shards(tmp_path / "shards", train=[rows[0], rows[0]])
    with raises_user_error("row 1 of train-00000.parquet"):
        export_coco(shards, tmp_path / "coco")


def test_foreign_annotations_stay_untouched(finished, tmp_path):
    theirs = tmp_path / "annotations" / "instances_validation.json"
    theirs.parent.mkdir()
    theirs.write_text('{"images": []}')
    with raises_user_error(theirs):
        export_coco(finished.shards, tmp_path)
    assert tree(tmp_path) == {"annotations/instances_validation.json": b'{"images": []}'}


@pytest.mark.parametrize(
    "other",
    [{"settings_hash": "another"}, {"first": 1}],
)
@pytest.mark.parametrize("splits", [("train", "train"), ("train", "validation")])
def test_export_of_another_dataset_stays_untouched(rows, tmp_path, other, splits):
    ours, theirs = splits
    export_coco(write_shards(tmp_path / "a", **{ours: rows[:1]}), tmp_path / "coco")
    before = tree(tmp_path / "coco")
    settings = other.get("settings_hash", rows[0]["provenance"]["settings_hash"])
    row = named(rows[0], other.get("first", 0))
    row["provenance"] = {**row["provenance"], "settings_hash": settings}
    shards = write_shards(tmp_path / "b", **{theirs: [row]})
    with raises_user_error(f"instances_{ours}.json"):
        export_coco(shards, tmp_path / "coco")
    assert tree(tmp_path / "coco") == before


@pytest.mark.parametrize("info", [{}, {"source": None}, {"source": [1]}, {"source": {}}])
def test_export_without_a_source_stays_untouched(finished, exported, tmp_path, info):
    folder = tmp_path / "coco"
    shutil.copytree(exported, folder)
    path = folder / "annotations" / "instances_train.json"
    first, rest = path.read_text().split("\n", 1)
    about = json.loads(first.rstrip(",") + "}")["info"]
    del about["source"]
    line = json.dumps({"info": about | info}, separators=(",", ":"))[:-1]
    for text in (f"{line},\n{rest}", first[:100]):
        path.write_text(text)
        before = tree(folder)
        with raises_user_error(path):
            export_coco(finished.shards, folder)
        assert tree(folder) == before


def test_new_split_keeps_the_source(rows, tmp_path):
    folder = tmp_path / "coco"
    export_coco(write_shards(tmp_path / "a", validation=rows[:2]), folder)
    source = load(folder, "validation")["info"]["source"]
    assert source == {
        "first_scene": rows[0]["scene_id"],
        "settings_hash": rows[0]["provenance"]["settings_hash"],
    }
    export_coco(write_shards(tmp_path / "b", validation=rows[:2], train=rows[2:4]), folder)
    assert load(folder)["info"]["source"] == load(folder, "validation")["info"]["source"] == source


def test_unwritable_folder_is_named(finished, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with raises_user_error(tmp_path / "file"):
            export_coco(finished.shards, folder)


def test_missing_shards_are_named(finished, tmp_path):
    with raises_user_error(tmp_path):
        export_coco(tmp_path, tmp_path / "coco")
    shutil.copytree(finished.shards, tmp_path / "shards")
    (tmp_path / "shards" / "data" / "validation-00000.parquet").unlink()
    with raises_user_error("validation-00000.parquet"):
        export_coco(tmp_path / "shards", tmp_path / "coco")
