"""pycocotools and supervision read the export; ids stay as the dataset grows."""

from __future__ import annotations

import contextlib
import io
import math
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pycocotools.coco
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.cocoeval import COCOeval

from pipeline.card.licences import LICENCES, read_licence
from pipeline.categories import OBJECTS, STRUCTURE
from pipeline.export.coco import CocoSummary, export_coco
from pipeline.export.instances_json import Categories
from pipeline.layout import RunFolder
from pipeline.shards.reader import ShardReader, decode_ids, decode_image
from pipeline.shards.writer import pack
from pipeline.taxonomy import class_of
from tests.errors import raises_user_error
from tests.export.exports import (
    IN_TABLE,
    SPLITS,
    coco_of,
    load,
    named,
    of_category,
    tree,
    write_shards,
)
from tests.synthetic import SETTINGS, finish_scene


def test_layout_and_summary(finished, tmp_path):
    summary = export_coco(finished.shards, tmp_path)
    readers = {split: ShardReader(finished.shards, split) for split in SPLITS}
    expected = {f"annotations/instances_{split}.json" for split in SPLITS} | {
        f"{split}/{row['image_id'].replace('/', '-')}.webp"
        for split in SPLITS
        for row in readers[split].annotations()
    }
    assert tree(tmp_path).keys() == expected
    rows = ShardReader(finished.shards).annotations()
    things = [thing for row in rows for thing in row["objects"]]
    new = {thing["category"] for thing in things} - {*STRUCTURE, *OBJECTS}
    assert "ball" in new
    assert summary == CocoSummary(
        images={"train": 4, "validation": 4},
        annotations=len(things),
        omitted=0,
        categories=IN_TABLE + len(new),
        written=8,
        unchanged=0,
        unlisted=(),
    )


@pytest.mark.parametrize("split", SPLITS)
def test_pycocotools_reads_the_masks(finished, exported, split):
    coco, reader = coco_of(exported, split), ShardReader(finished.shards, split)
    assert sorted(coco.imgs) == [1, 2, 3, 4]
    for image_id, image in coco.imgs.items():
        row = reader.row(image_id - 1)
        assert image["panorama"] == row["image_id"]
        assert (image["width"], image["height"]) == (256, 128)
        with Image.open(exported / split / image["file_name"]) as picture:
            np.testing.assert_array_equal(np.array(picture), decode_image(row["image"]))
        ids = decode_ids(row["ids"])
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        counts = {number: (ids == number).sum() for number in np.unique(ids)}
        kept = {number for number, pixels in counts.items() if pixels >= 10}
        assert {annotation["instance_id"] for annotation in annotations} == kept
        for annotation in annotations:
            mask = ids == annotation["instance_id"]
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            (ys, xs), (x, y, width, height) = np.nonzero(mask), annotation["bbox"]
            assert (xs.min(), ys.min()) == (x, y)
            assert (xs.max() + 1, ys.max() + 1) == (x + width, y + height)
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
            assert annotation["segmentation"]["size"] == [128, 256]
            assert isinstance(annotation["segmentation"]["counts"], str)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("split", SPLITS)
def test_annotations_score_one_against_themselves(exported, split, kind):
    truth = coco_of(exported, split)
    field = {"segm": "segmentation", "bbox": "bbox"}[kind]
    found = [
        {**{key: thing[key] for key in ("image_id", "category_id", field)}, "score": 1.0}
        for thing in truth.anns.values()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, truth.loadRes(found), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert judge.stats[0] == 1.0
    assert judge.stats[8] == 1.0  # recall: no annotation counts as a crowd


@pytest.mark.parametrize("image_format", ["webp", "png", "jpg"])
@pytest.mark.parametrize("split", SPLITS)
def test_supervision_reads_masks_and_boxes(finished, tmp_path, split, image_format):
    export_coco(finished.shards, tmp_path, image_format)
    dataset = supervision.DetectionDataset.from_coco(
        str(tmp_path / split),
        str(tmp_path / "annotations" / f"instances_{split}.json"),
        force_masks=True,
    )
    rows = {row["image_id"]: row for row in map(ShardReader(finished.shards, split).row, range(4))}
    assert len(dataset) == 4
    for path, picture, found in dataset:
        row = rows["/".join(Path(path).stem.rsplit("-", 1))]
        loss = np.abs(picture.astype(int) - decode_image(row["image"])[..., ::-1]).mean()  # BGR
        assert loss < (5 if image_format == "jpg" else 1e-9)
        ids = decode_ids(row["ids"])
        for thing, mask, box, category in zip(
            row["objects"], found.mask, found.xyxy, found.class_id, strict=True
        ):
            np.testing.assert_array_equal(mask, ids == thing["id"])
            x, y, width, height = thing["bbox"]
            assert box.tolist() == [x, y, x + width, y + height]
            assert dataset.classes[category] == thing["category"]


def test_additional_fields_are_exported(finished, exported):
    for split in SPLITS:
        coco, reader = load(exported, split), ShardReader(finished.shards, split)
        assert coco.keys() == {"info", "licenses", "images", "annotations", "categories"}
        categories = {entry["id"]: entry for entry in coco["categories"]}
        annotations = iter(coco["annotations"])
        for image, row in zip(coco["images"], reader.annotations(), strict=True):
            assert image.keys() == {
                *("id", "file_name", "width", "height"),
                *("panorama", "scene_id", "generator", "seed", "camera"),
            }
            for key in ("scene_id", "generator", "seed", "camera"):
                assert image[key] == row[key]
            for thing in row["objects"]:
                annotation = next(annotations)
                number, category = thing.pop("id"), thing["category"]
                assert {key: annotation[key] for key in thing} == thing
                assert annotation["instance_id"] == number
                assert annotation["image_id"] == image["id"]
                entry = categories[annotation["category_id"]]
                assert entry["name"] == category
                assert entry["is_structure"] == thing["is_structure"]
                assert entry["supercategory"] == (
                    "structure" if entry["is_structure"] else "object"
                )
        assert next(annotations, None) is None
        numbers = [annotation["id"] for annotation in coco["annotations"]]
        assert numbers == list(range(1, len(numbers) + 1))


def test_licence_is_recorded_for_every_image(finished, exported, tmp_path):
    export_coco(finished.shards, tmp_path, licence=read_licence("cc0-1.0"))
    coco, (name, url) = load(tmp_path), LICENCES["cc0-1.0"]
    assert coco["licenses"] == [{"id": 1, "name": name, "url": url}]
    assert {image["license"] for image in coco["images"]} == {1}
    assert load(exported)["licenses"] == []


def test_split_without_shards_has_no_files(rows, tmp_path):
    shards = write_shards(tmp_path / "shards", validation=rows[:2])
    summary = export_coco(shards, tmp_path / "coco")
    assert summary.images == {"validation": 2}
    assert {path.split("/")[0] for path in tree(tmp_path / "coco")} == {"annotations", "validation"}
    assert not (tmp_path / "coco" / "annotations" / "instances_train.json").exists()


def test_row_without_objects(rows, tmp_path):
    shards = write_shards(tmp_path / "shards", train=[{**rows[0], "objects": []}])
    export_coco(shards, tmp_path / "coco")
    coco = coco_of(tmp_path / "coco", "train")
    assert (len(coco.imgs), len(coco.anns)) == (1, 0)


def test_webp_and_png_are_lossless(finished, tmp_path):
    for image_format in ("webp", "png", "jpg"):
        export_coco(finished.shards, tmp_path / image_format, image_format)
    for row in map(ShardReader(finished.shards, "train").row, range(4)):
        name, truth = row["image_id"].replace("/", "-"), decode_image(row["image"])
        stored = (tmp_path / "webp" / "train" / f"{name}.webp").read_bytes()
        assert stored == row["image"]["bytes"]
        with Image.open(tmp_path / "png" / "train" / f"{name}.png") as picture:
            assert picture.format == "PNG"
            np.testing.assert_array_equal(np.array(picture), truth)
        with Image.open(tmp_path / "jpg" / "train" / f"{name}.jpg") as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (256, 128))
            error = np.array(picture).astype(float) - truth
            assert 10 * math.log10(255**2 / (error**2).mean()) > 33  # dB, of noise


def test_unknown_format_is_rejected(finished, tmp_path):
    with raises_user_error("gif", "webp, png, jpg"):
        export_coco(finished.shards, tmp_path, "gif")


names = st.sampled_from(["chair", "wall", "zeppelin", "yak", "lamp", "object", "ü", 'a"b'])


@given(st.lists(names), st.lists(names))
def test_new_categories_keep_old_ids(before, after):
    categories = Categories()
    old = [categories.id_of(name, False) for name in before]
    entries = list(categories.entries)
    for name in after:
        categories.id_of(name, False)
    assert categories.entries[: len(entries)] == entries
    assert [categories.id_of(name, False) for name in before] == old
    assert [entry["id"] for entry in categories.entries] == list(
        range(1, len(categories.entries) + 1)
    )
    found = [entry["name"] for entry in categories.entries]
    assert found[:IN_TABLE] == [*STRUCTURE, *OBJECTS]
    assert len(set(found)) == len(found)


def test_growth_keeps_earlier_ids(finished, tmp_path):
    run = RunFolder(tmp_path / "out")
    shutil.copytree(finished.path / "scenes", run.scenes)
    shutil.copytree(finished.done_folder, run.done_folder)
    pack(run, SETTINGS, validation_fraction=0.5)
    export_coco(run.shards, tmp_path / "coco")
    before = {split: load(tmp_path / "coco", split) for split in SPLITS}
    for seed in (4, 5, 6):
        finish_scene(run, seed=seed)
    pack(run, SETTINGS, validation_fraction=0.5)
    summary = export_coco(run.shards, tmp_path / "coco")
    assert (summary.written, summary.unchanged) == (6, 8)
    for split in SPLITS:
        after = load(tmp_path / "coco", split)
        assert len(after["images"]) > 4
        for key in ("images", "annotations"):
            assert after[key][: len(before[split][key])] == before[split][key]
        assert after["categories"] == before[split]["categories"]


def test_new_names_keep_their_ids_as_both_splits_grow(rows, tmp_path):
    train = [of_category(named(rows[0], seed), f"t{seed}") for seed in (0, 1, 4, 6)]
    validation = [of_category(named(rows[0], seed), f"v{seed}") for seed in (2, 3, 5)]
    seen = []
    for trained, validated in [(2, 0), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3)]:
        shards = tmp_path / f"shards{trained}{validated}"
        splits = {"train": train[:trained], "validation": validation[:validated]}
        write_shards(shards, **{split: rows for split, rows in splits.items() if rows})
        export_coco(shards, tmp_path / "coco")
        categories = load(tmp_path / "coco")["categories"]
        if validated:
            assert load(tmp_path / "coco", "validation")["categories"] == categories
        new = [entry["name"] for entry in categories[IN_TABLE:]]
        assert new[: len(seen)] == seen
        seen = new
    assert seen == ["t0", "t1", "v2", "v3", "t4", "v5", "t6"]


def test_memory_does_not_grow_with_the_rows(rows, tmp_path):
    peaks = []
    for number in (10, 200):
        many = (named(rows[0], seed) for seed in range(number))
        shards = write_shards(tmp_path / f"shards{number}", train=many)
        tracemalloc.start()
        export_coco(shards, tmp_path / f"coco{number}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    json_bytes = (tmp_path / "coco200" / "annotations" / "instances_train.json").stat().st_size
    assert peaks[1] - peaks[0] < 150_000 < json_bytes / 5


@pytest.mark.parametrize("taxonomy", ["coco", "lvis", "ade20k", "nyu40"])
def test_categories_of_other_taxonomies(finished, tmp_path, taxonomy):
    summary = export_coco(finished.shards, tmp_path, taxonomy=taxonomy)
    found = pycocotools.coco.COCO(str(tmp_path / "annotations" / "instances_train.json"))
    assert summary.omitted > 0 and summary.categories == len(found.cats)
    rows = ShardReader(finished.shards, "train").annotations()
    expected = [
        class_of(thing["category"], taxonomy).id
        for row in rows
        for thing in row["objects"]
        if class_of(thing["category"], taxonomy)
    ]
    annotations = found.loadAnns(found.getAnnIds())
    assert [annotation["category_id"] for annotation in annotations] == expected
    for annotation in annotations:
        name = found.cats[annotation["category_id"]]["name"]
        assert name == class_of(annotation["category"], taxonomy).name
