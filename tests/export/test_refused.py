"""What is not exported: names that leave the folder, rows that are not ours, folders of others."""

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
from pipeline.export.export_rows import side_by_side
from tests.export.exports import (
    EMPTY_WEBP,
    assert_one_line,
    load,
    named,
    tree,
    write_shards,
)


@pytest.mark.parametrize(
    "scene",
    ["../x", "/etc/x", "a/b", "..", ".", "", ".hidden", "a\\b", "c:x", "a\nb", "a\0b", "x" * 300],
)
def test_a_name_that_is_not_a_plain_file_name_is_refused(rows, tmp_path, scene):
    row = {**rows[1], "scene_id": scene, "image_id": f"{scene}/0"}
    shards = write_shards(tmp_path / "shards", train=[rows[0], row])
    with pytest.raises(UserError, match=r"row 1 of train-00000\.parquet has the") as caught:
        export_coco(shards, tmp_path / "in" / "coco")
    assert_one_line(caught)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "shards/data/train-00000.parquet",
        "in/coco/.lock",
        "in/coco/train/spheres-0000000000-0.webp",
    }


SCENES = st.text(st.sampled_from("aZ0_-./\\\n\0 ü"), max_size=8)


@given(SCENES, st.sampled_from(["0", "12", "01", "-1", "", "1/2", "٣", "0\n"]))
def test_a_name_that_is_taken_stays_in_the_folder(scene, k):
    image_id = f"{scene}/{k}"
    values = {"image_id": image_id, "scene_id": scene, "seed": 0, "image": {"bytes": EMPTY_WEBP}}
    try:
        (row,) = side_by_side(
            SimpleNamespace(
                splits={"train": 1}, locate=lambda i: ("train", i), row=lambda i, columns: values
            )
        )
    except UserError:
        return
    assert (Path("/folder") / row.stem).resolve().parent == Path("/folder")
    assert row.stem.isascii() and row.stem.isprintable()
    assert "/".join(row.stem.rsplit("-", 1)) == image_id  # so two never get the same name


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
def test_a_row_that_is_not_ours_is_named(rows, tmp_path, values):
    shards = write_shards(tmp_path / "shards", train=[{**rows[0], **values}])
    with pytest.raises(UserError, match=r"row 0 of train-00000\.parquet") as caught:
        export_coco(shards, tmp_path / "coco")
    assert_one_line(caught)
    assert tree(tmp_path / "coco") == {}


def test_numbers_that_json_has_not_are_refused(rows, tmp_path):
    things = [{**rows[0]["objects"][0], "solid_angle": math.nan}]
    shards = write_shards(tmp_path / "shards", train=[{**rows[0], "objects": things}])
    with pytest.raises(UserError, match=r"row 0 of train-00000\.parquet does not fit"):
        export_coco(shards, tmp_path / "coco")


def test_a_picture_that_cannot_be_decoded_is_named(rows, tmp_path):
    broken = rows[0]["image"]["bytes"][:20]
    broken = broken[:4] + (len(broken) - 8).to_bytes(4, "little") + broken[8:]
    row = {**rows[0], "image": {"bytes": broken, "path": "x\ny"}}
    shards = write_shards(tmp_path / "shards", train=[row])
    with pytest.raises(UserError, match="spheres-0000000000-0 in a shard is corrupt") as caught:
        export_coco(shards, tmp_path / "coco", "png")
    assert_one_line(caught)


def test_a_row_that_comes_twice_is_named(rows, tmp_path):
    shards = write_shards(tmp_path / "shards", train=[rows[0], rows[0]])
    with pytest.raises(
        UserError, match=r"row 1 of train-00000\.parquet has the image_id of an earlier"
    ):
        export_coco(shards, tmp_path / "coco")


def test_somebody_elses_annotations_are_left_alone(finished, tmp_path):
    theirs = tmp_path / "annotations" / "instances_validation.json"
    theirs.parent.mkdir()
    theirs.write_text('{"images": []}')
    with pytest.raises(UserError, match="was not written by this export") as caught:
        export_coco(finished.shards, tmp_path)
    assert_one_line(caught)
    assert tree(tmp_path) == {"annotations/instances_validation.json": b'{"images": []}'}


@pytest.mark.parametrize(
    "other",
    [{"settings_hash": "another"}, {"first": 1}],  # other settings; another first scene
)
@pytest.mark.parametrize("splits", [("train", "train"), ("train", "validation")])
def test_the_export_of_another_dataset_is_left_alone(rows, tmp_path, other, splits):
    ours, theirs = splits
    export_coco(write_shards(tmp_path / "a", **{ours: rows[:1]}), tmp_path / "coco")
    before = tree(tmp_path / "coco")
    settings = other.get("settings_hash", rows[0]["provenance"]["settings_hash"])
    row = named(rows[0], other.get("first", 0))
    row["provenance"] = {**row["provenance"], "settings_hash": settings}
    shards = write_shards(tmp_path / "b", **{theirs: [row]})
    with pytest.raises(UserError, match="is the export of another dataset; choose") as caught:
        export_coco(shards, tmp_path / "coco")
    assert_one_line(caught)
    assert tree(tmp_path / "coco") == before


@pytest.mark.parametrize("info", [{}, {"source": None}, {"source": [1]}, {"source": {}}])
def test_an_export_that_does_not_say_of_what_is_left_alone(finished, exported, tmp_path, info):
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
        with pytest.raises(UserError, match="is the export of another dataset"):
            export_coco(finished.shards, folder)
        assert tree(folder) == before


def test_a_dataset_that_grows_by_a_split_is_the_same(rows, tmp_path):
    folder = tmp_path / "coco"
    export_coco(write_shards(tmp_path / "a", validation=rows[:2]), folder)
    source = load(folder, "validation")["info"]["source"]
    assert source == {
        "first_scene": rows[0]["scene_id"],
        "settings_hash": rows[0]["provenance"]["settings_hash"],
    }
    export_coco(write_shards(tmp_path / "b", validation=rows[:2], train=rows[2:4]), folder)
    assert load(folder)["info"]["source"] == load(folder, "validation")["info"]["source"] == source


def test_a_folder_that_cannot_be_one_is_named(finished, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="choose another folder to export to") as caught:
            export_coco(finished.shards, folder)
        assert_one_line(caught)


def test_no_shards_and_missing_shards_are_named(finished, tmp_path):
    with pytest.raises(UserError, match="holds no shards"):
        export_coco(tmp_path, tmp_path / "coco")
    shutil.copytree(finished.shards, tmp_path / "shards")
    (tmp_path / "shards" / "data" / "validation-00000.parquet").unlink()
    with pytest.raises(UserError, match=r"validation-00000\.parquet is missing"):
        export_coco(tmp_path / "shards", tmp_path / "coco")


# Size
