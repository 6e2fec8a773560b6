"""COCO's own tools and supervision read what we export; interrupted exports go on."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import math
import shutil
import signal
import subprocess
import sys
import tracemalloc
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.blender.categories import OBJECTS, STRUCTURE
from pipeline.errors import UserError
from pipeline.export.coco import CocoSummary, export_coco
from pipeline.export.instances import Categories, Licence
from pipeline.export.rows import side_by_side
from pipeline.outputs import RunFolder
from pipeline.shards.reader import ShardReader, decode_ids, decode_image
from pipeline.shards.schema import make_schema
from pipeline.shards.writer import pack
from tests.shards.test_writer import little_space
from tests.synthetic import SETTINGS, finish_scene

SPLITS = ("train", "validation")
ROOT = Path(__file__).parents[2]
EMPTY_WEBP = b"RIFF" + (4).to_bytes(4, "little") + b"WEBP"
IN_TABLE = len(STRUCTURE) + len(OBJECTS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Four finished scenes of two panoramas, of which `pack` puts two into each split."""
    run = RunFolder(tmp_path_factory.mktemp("finished") / "out")
    for seed in range(4):
        finish_scene(run, seed=seed)
    pack(run, SETTINGS, shard_bytes=160_000, validation_fraction=0.5)
    return run


@pytest.fixture(scope="module")
def rows(finished):
    """All rows of the finished run, by seed."""
    reader = ShardReader(finished.shards)
    return sorted(map(reader.row, range(len(reader))), key=lambda row: row["image_id"])


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export_coco(finished.shards, folder)
    return folder


def write_shards(folder, **splits):
    """Write shards of ten rows each, as our packer would, of any rows."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    schema = make_schema()
    for split, rows in splits.items():
        for number in count():
            shard = list(islice(rows := iter(rows), 10))
            if not shard:
                break
            path = folder / "data" / f"{split}-{number:05d}.parquet"
            with pq.ParquetWriter(path, schema) as writer:
                for row in shard:
                    writer.write_table(pa.Table.from_pylist([row], schema), row_group_size=1)
    return folder


def named(row, seed, k=0, **values):
    """A row under another name."""
    scene = f"spheres-{seed:010d}"
    return {**row, "seed": seed, "scene_id": scene, "image_id": f"{scene}/{k}", **values}


def of_category(row, name):
    """A row with one object of this category."""
    return {**row, "objects": [{**row["objects"][0], "category": name}]}


def load(folder, split="train"):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def tree(folder):
    """All files of a folder with their bytes; not the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def coco_of(folder, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(folder / "annotations" / f"instances_{split}.json"))


def assert_one_line(caught):
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# What is in the files


def test_the_layout(finished, tmp_path):
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
def test_the_truth_scores_one_against_itself(exported, split, kind):
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
    assert judge.stats[8] == 1.0  # recall: nothing is taken for a crowd


@pytest.mark.parametrize("image_format", ["webp", "png", "jpg"])
@pytest.mark.parametrize("split", SPLITS)
def test_supervision_reads_the_same(finished, tmp_path, split, image_format):
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


def test_our_fields_stand_beside(finished, exported):
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
                number, category = thing.pop("id"), thing.pop("category")
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


def test_the_licence_is_named_for_every_image(finished, exported, tmp_path):
    export_coco(finished.shards, tmp_path, licence=Licence("CC0 1.0", "https://example.org/cc0"))
    coco = load(tmp_path)
    assert coco["licenses"] == [{"id": 1, "name": "CC0 1.0", "url": "https://example.org/cc0"}]
    assert {image["license"] for image in coco["images"]} == {1}
    assert load(exported)["licenses"] == []


def test_a_split_without_shards_gets_no_file(rows, tmp_path):
    shards = write_shards(tmp_path / "shards", validation=rows[:2])
    summary = export_coco(shards, tmp_path / "coco")
    assert summary.images == {"validation": 2}
    assert {path.split("/")[0] for path in tree(tmp_path / "coco")} == {"annotations", "validation"}
    assert not (tmp_path / "coco" / "annotations" / "instances_train.json").exists()


def test_a_row_without_objects(rows, tmp_path):
    shards = write_shards(tmp_path / "shards", train=[{**rows[0], "objects": []}])
    export_coco(shards, tmp_path / "coco")
    coco = coco_of(tmp_path / "coco", "train")
    assert (len(coco.imgs), len(coco.anns)) == (1, 0)


# Image formats


def test_webp_are_the_stored_bytes_and_png_has_no_loss(finished, tmp_path):
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


def test_an_unknown_format_is_refused(finished, tmp_path):
    with pytest.raises(UserError, match="'gif' is not one of webp, png, jpg"):
        export_coco(finished.shards, tmp_path, "gif")


# Ids


names = st.sampled_from(["chair", "wall", "zeppelin", "yak", "lamp", "object", "ü", 'a"b'])


@given(st.lists(names), st.lists(names))
def test_new_categories_do_not_move_old_ones(before, after):
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


def test_growing_keeps_earlier_ids(finished, tmp_path):
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


def test_names_outside_the_table_keep_their_ids_as_both_splits_grow(rows, tmp_path):
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


# Again, interrupted, full


@pytest.mark.parametrize("image_format", ["webp", "png", "jpg"])
def test_exporting_again_writes_no_image_and_the_same_bytes(finished, tmp_path, image_format):
    steps = []
    export_coco(finished.shards, tmp_path, image_format, progress=lambda *step: steps.append(step))
    assert steps == [(done, 8) for done in range(1, 9)]
    before = tree(tmp_path)
    images = [path for split in SPLITS for path in (tmp_path / split).iterdir()]
    inodes = [path.stat().st_ino for path in images]
    summary = export_coco(finished.shards, tmp_path, image_format)
    assert (summary.written, summary.unchanged) == (0, 8)
    assert [path.stat().st_ino for path in images] == inodes
    assert tree(tmp_path) == before
    export_coco(finished.shards, tmp_path / "other", image_format)
    assert tree(tmp_path / "other") == before


@pytest.mark.parametrize("image_format", ["webp", "png", "jpg"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed", "of another picture"])
def test_a_damaged_image_is_written_again(rows, tmp_path, image_format, damage):
    shards = write_shards(tmp_path / "shards", train=[named(row, s) for s, row in enumerate(rows)])
    export_coco(shards, tmp_path / "coco", image_format)
    before = tree(tmp_path / "coco")
    first, second = sorted((tmp_path / "coco" / "train").iterdir())[:2]
    data = first.read_bytes()
    if damage == "missing":
        first.unlink()
    elif damage == "of another picture":
        shutil.copy(second, first)
    else:
        changed = b"x" * len(data)
        first.write_bytes({"empty": b"", "cut": data[:-5], "changed": changed}[damage])
    assert export_coco(shards, tmp_path / "coco", image_format).written == 1
    assert tree(tmp_path / "coco") == before


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.export.coco import export_coco

replace, left = os.replace, int(sys.argv[1])

def replace_or_die(source, target):
    global left
    if not left:
        os.truncate(source, os.path.getsize(source) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(source, target)

os.replace = replace_or_die
export_coco(sys.argv[2], Path(sys.argv[3]), "png")
"""


def export_and_be_killed(shards, folder, before_file):
    """Export in a process that is killed while it writes the file of this number."""
    arguments = [sys.executable, "-c", KILLED, str(before_file), str(shards), str(folder)]
    assert subprocess.run(arguments, cwd=ROOT).returncode == -signal.SIGKILL


@pytest.mark.parametrize("before_file", [0, 3, 9])  # the first image, one later, the second JSON
def test_a_killed_export_goes_on(finished, tmp_path, before_file):
    export_and_be_killed(finished.shards, tmp_path / "coco", before_file)
    half = tree(tmp_path / "coco")
    assert any(name.endswith(".tmp") for name in half)
    whole = {name: data for name, data in half.items() if not name.endswith(".tmp")}
    assert len(whole) == before_file
    summary = export_coco(finished.shards, tmp_path / "coco", "png")
    assert summary.unchanged == min(before_file, 8)
    export_coco(finished.shards, tmp_path / "straight", "png")
    after = tree(tmp_path / "coco")
    assert after == tree(tmp_path / "straight")
    assert whole.items() <= after.items()


def test_only_our_own_leftovers_are_removed(finished, tmp_path):
    ours = [
        tmp_path / "annotations" / ".instances_train.json.0123abcd.tmp",
        tmp_path / "validation" / ".spheres-0000000000-0.webp.0123abcd.tmp",
    ]
    others = [
        tmp_path / "annotations" / ".notes.txt.0123abcd.tmp",
        tmp_path / "annotations" / "captions_train.json",
        tmp_path / "train" / "notes.tmp",
        tmp_path / "train" / "holiday.webp",
    ]
    for path in ours + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert export_coco(finished.shards, tmp_path).unlisted == ()
    assert not any(path.exists() for path in ours)
    assert all(path.read_bytes() == b"half" for path in others)


def test_images_that_the_dataset_lost_are_named_and_stay(rows, tmp_path):
    export_coco(write_shards(tmp_path / "a", train=rows[:3], validation=rows[4:5]), tmp_path / "c")
    lost = export_coco(write_shards(tmp_path / "b", train=rows[:2]), tmp_path / "c").unlisted
    assert lost == (
        "train/spheres-0000000001-0.webp",
        "validation/spheres-0000000002-0.webp",
    )
    assert all((tmp_path / "c" / name).exists() for name in lost)
    assert not (tmp_path / "c" / "annotations" / "instances_validation.json").exists()
    lost = export_coco(tmp_path / "b", tmp_path / "c", "jpg").unlisted
    assert len(lost) == 4  # those of the other format


def skip_unless_small(folder, size):
    """Where `little_space` can only limit each file, our small ones do not meet that limit."""
    if size > 20_000 and not folder.is_mount():
        pytest.skip("needs the right to mount a tmpfs")


@pytest.mark.parametrize("image_format", ["webp", "png"])
@pytest.mark.parametrize("size", [20_000, 300_000, 600_000])  # in the first image, later, in a JSON
def test_a_full_disk_keeps_what_was_there(finished, tmp_path, size, image_format):
    folder = tmp_path / "small"
    with little_space(folder, size):
        skip_unless_small(folder, size)
        with pytest.raises(UserError, match="the disk is full: no room for the export") as caught:
            export_coco(finished.shards, folder, image_format)
        assert_one_line(caught)
        left = tree(folder)
        assert not any(name.endswith((".tmp", ".json")) for name in left)
        shutil.copytree(folder, tmp_path / "copy")
    export_coco(finished.shards, tmp_path / "copy", image_format)
    after = tree(tmp_path / "copy")
    assert left.items() <= after.items()
    assert len(after) == 10


def test_an_old_json_outlives_a_full_disk(rows, tmp_path):
    shards = write_shards(tmp_path / "a", train=rows[:1], validation=rows[2:3])
    folder = tmp_path / "small"
    with little_space(folder, 250_000):
        skip_unless_small(folder, 250_000)
        export_coco(shards, folder)
        before = tree(folder)
        more = write_shards(tmp_path / "b", train=rows[:2] + rows[4:], validation=rows[2:4])
        with pytest.raises(UserError, match="the disk is full"):
            export_coco(more, folder)
        assert before.items() <= tree(folder).items()


def test_two_exports_into_one_folder_are_refused(finished, tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is exporting into"):
            export_coco(finished.shards, tmp_path)
    export_coco(finished.shards, tmp_path)


# Strangers' shards and folders


def test_shards_may_lie_elsewhere(finished, exported, tmp_path):
    fsspec.filesystem("memory").put(str(finished.shards), "/coco-test", recursive=True)
    export_coco("memory://coco-test", tmp_path)
    assert tree(tmp_path) == tree(exported)


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
    assert peaks[1] - peaks[0] < 100_000 < json_bytes / 5
