"""Good data has no finding; whatever is damaged or forged is found, and named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.annotations.stage import encode_png, encode_webp
from pipeline.errors import UserError
from pipeline.shards.reader import decode_ids, decode_image
from pipeline.verify import dataset
from pipeline.verify.dataset import verify
from tests.synthetic import PASSES, PLAIN, SEAM

FIRST, SECOND = "train-00000.parquet", "train-00001.parquet"
VALIDATION = "validation-00000.parquet"


def findings(address, **options):
    return [str(finding) for finding in verify(address, **options).findings]


def test_good_data_has_no_finding(good):
    seen = []
    found = verify(good.shards, settings=PASSES, progress=lambda *state: seen.append(state))
    assert found.findings == ()
    assert found.panoramas == 20 and found.shards > 2
    assert seen[-1] == (found.shards, found.shards, 20, 0)
    assert {name.split("-")[0] for name in found.sha256} == {"train", "validation"}


def test_a_download_without_manifest_and_settings_has_no_finding(forgery):
    (forgery.shards / "manifest.json").unlink()
    assert findings(forgery.shards / "data") == []


def test_processes_find_what_one_finds(forgery):
    forgery.change(SECOND, 1, lambda row: row["objects"][0].update(area=1))
    assert findings(forgery.shards, workers=2) == findings(forgery.shards) != []


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_every_flipped_bit_is_found(forgery, seed):
    path = forgery.path(FIRST)
    data = bytearray(path.read_bytes())
    position = int(np.random.default_rng(seed).integers(len(data)))
    data[position] ^= 1 << seed % 8
    path.write_bytes(data)
    assert any(line.startswith(f"{FIRST}: is not the file") for line in findings(forgery.shards))


def test_a_flipped_bit_of_a_picture_names_the_row_without_a_manifest(forgery):
    (forgery.shards / "manifest.json").unlink()
    path = forgery.path(FIRST)
    data, picture = path.read_bytes(), forgery.rows(FIRST)[1]["image"]["bytes"]
    middle = data.index(picture) + len(picture) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
    (line,) = findings(forgery.shards)
    assert line.startswith(f"{FIRST} row 1: cannot be read") and "checksum" in line


@pytest.mark.parametrize("kept", [0, 3, 100, -1, -100])
def test_a_truncated_shard_is_found_and_the_others_are_checked(forgery, kept):
    path = forgery.path(FIRST)
    path.write_bytes(path.read_bytes()[:kept])
    forgery.change(SECOND, 0, lambda row: row["objects"][0].update(area=1))
    found = findings(forgery.shards)
    assert any(line.startswith(f"{FIRST}: cannot be read") for line in found)
    assert any(line.startswith(f"{FIRST}: has ") and "the manifest says" in line for line in found)
    assert any(line.startswith(f"{SECOND} row 0 (") for line in found)


def test_missing_and_surplus_shards_are_found(forgery):
    shutil.copy(forgery.path(FIRST), forgery.path("train-00009.parquet"))
    forgery.path(SECOND).unlink()
    found = findings(forgery.shards)
    assert f"{SECOND}: is missing" in found
    assert "train-00009.parquet: is not in the manifest" in found
    assert any("is twice in the dataset, first in train-00000.parquet row 0" in f for f in found)
    (forgery.shards / "manifest.json").unlink()
    assert f"{SECOND}: is missing" in findings(forgery.shards)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"../x": {}}', f'{{"{FIRST}": 3}}'])
def test_a_damaged_manifest_is_a_finding(forgery, text):
    (forgery.shards / "manifest.json").write_text(text)
    assert findings(forgery.shards) == ["manifest.json is damaged: no list of shards"]


def test_a_wrong_count_in_the_manifest(forgery):
    forgery.tell(FIRST, {"panoramas": 99})
    rows = len(forgery.rows(FIRST))
    assert findings(forgery.shards) == [f"{FIRST}: has {rows} rows, the manifest says 99"]


def test_nothing_to_verify(tmp_path):
    with pytest.raises(UserError, match="holds no shards to verify"):
        verify(tmp_path)


# ---- rows ---------------------------------------------------------------------------------------

LIES = {
    "area": 1,
    "solid_angle": 0.5,
    "size": "enormous",
    "bbox": [0.0, 0.0, 5.0, 5.0],
    "bbox_wrapped": [0.0, 0.0, 5.0, 5.0],
    "crosses_seam": None,  # turned round
    "touches_pole": None,
    "bfov": [0.0, 0.0, 10.0, 10.0],
    "click": [0, 0],
    "iscrowd": 1,
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("label", [PLAIN, SEAM])
def test_a_false_field_names_shard_row_and_object(forgery, name, label):
    def lie(row):
        (thing,) = [thing for thing in row["objects"] if thing["id"] == label]
        thing[name] = not thing[name] if LIES[name] is None else LIES[name]

    forgery.change(SECOND, 1, lie)
    image_id = forgery.rows(SECOND)[1]["image_id"]
    found = findings(forgery.shards)
    assert len(found) == 1
    assert found[0].startswith(f"{SECOND} row 1 ({image_id}) object {label}: {name} is ")


def drop_object(row):
    del row["objects"][2]


def swap_masks(row):
    first, second = row["objects"][:2]
    first["segmentation"], second["segmentation"] = second["segmentation"], first["segmentation"]


def cut_mask(row):
    segmentation = row["objects"][0]["segmentation"]
    segmentation["counts"] = segmentation["counts"][: len(segmentation["counts"]) // 2]


def shorten_mask(row):
    """Drop the last run: pycocotools would leave what was in memory there."""
    segmentation = row["objects"][0]["segmentation"]
    counts = segmentation["counts"]
    end = max(i for i in range(len(counts) - 1) if not (ord(counts[i]) - 48) & 32) + 1
    segmentation["counts"] = counts[:end]


def empty_image(row):
    row["image"]["bytes"] = b""


def empty_ids(row):
    row["ids"]["bytes"] = b""


def recategorise(row):
    row["objects"][2]["category"] = "ceiling"


def overexpose(row):
    row["provenance"]["exposure_stops"] = float("nan")


def resize_mask(row):
    row["objects"][0]["segmentation"]["size"] = [10**6, 10**6]


def reorder(row):
    row["objects"].reverse()


def repeat(row):
    row["objects"].append(row["objects"][-1])


def invent(row):
    row["objects"].append({**row["objects"][-1], "id": 99})


def shift_ids(row):
    row["ids"]["bytes"] = encode_png(np.roll(decode_ids(row["ids"]), 1, axis=1))


def halve(row):
    row["width"] //= 2


def blacken(row):
    row["image"]["bytes"] = encode_webp(np.zeros((128, 256, 3), np.uint8))


def grey(row):
    row["image"]["bytes"] = cv2.imencode(".png", np.full((128, 256), 90, np.uint8))[1].tobytes()


def scribble(row):
    row["image"]["bytes"] = b"RIFF"


def null(row):
    row["camera"]["room"] = None


def infinite(row):
    row["camera"]["position"] = [0.0, float("inf"), 1.0]


def rename(row):
    row["scene_id"] = "../../etc"


def shrink_depth(row):
    row["depth"]["bytes"] = encode_png(np.zeros((4, 8), np.uint16))


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (drop_object, "pixels in the id map and no annotation"),
        (swap_masks, "object 1: its mask and the id map differ in"),
        (cut_mask, "object 1: its mask does not decode"),
        (shorten_mask, "object 1: its mask has "),
        (empty_image, "image does not decode"),
        (empty_ids, "ids does not decode"),
        (recategorise, "object 3: ball.001 is given as ceiling; it is ball, an object"),
        (overexpose, "exposure_stops is out of range"),
        (resize_mask, "object 1: its mask is for [1000000, 1000000]"),
        (reorder, "not in the order of their ids"),
        (repeat, "or an id occurs twice"),
        (invent, "object 99: is not in the id map"),
        (shift_ids, "object 1: its mask and the id map differ in"),
        (halve, "is 128 × 128 pixels, not twice as wide as high"),
        (blacken, "is defective: black"),
        (grey, "image is 128 × 256 uint8 instead of 128 × 256 × 3 uint8"),
        (scribble, "image does not decode"),
        (null, "camera.room is missing"),
        (infinite, "camera.position is"),
        (rename, "scene_id '../../etc' is not that of 'spheres'"),
        (shrink_depth, "depth is 4 × 8 uint16 instead of 128 × 256 uint16"),
    ],
)
def test_a_forged_row_is_found(forgery, forge, message):
    forgery.change(SECOND, 0, forge)
    found = findings(forgery.shards, settings=PASSES)
    assert found and all(line.startswith(f"{SECOND} row 0 (") for line in found)
    assert any(message in line for line in found)


def test_an_object_that_the_run_would_not_keep(forgery):
    larger = replace(PASSES, min_area=100_000)
    found = findings(forgery.shards, settings=larger)
    assert found and all("pixels, the run keeps 391 and more" in line for line in found)


def test_an_instance_is_the_same_thing_in_all_panoramas_of_its_scene(forgery):
    def rename_ball(row):
        row["objects"][2].update(name="yak", category="yak")

    rows = forgery.rows(FIRST)
    assert rows[0]["scene_id"] == rows[1]["scene_id"]
    forgery.change(FIRST, 1, rename_ball)
    (line,) = findings(forgery.shards)
    assert "object 3: is yak (yak) here and ball.001 (ball) in" in line


def test_what_readers_refuse_is_a_finding(forgery):
    forgery.tell(FIRST, {"footer_sha256": "0" * 64})
    (line,) = findings(forgery.shards)
    assert line.startswith(f"{FIRST}: readers refuse it:") and "its footer is another one" in line


def test_an_own_run_needs_its_manifest(forgery):
    (forgery.shards / "manifest.json").unlink()
    assert findings(forgery.shards, settings=PASSES) == ["manifest.json is missing"]


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits_are_found_where_the_dataset_is_remote(forgery, seed):
    path = forgery.path(FIRST)
    data = bytearray(path.read_bytes())
    position = len(data) - 1 - int(np.random.default_rng(seed).integers(5000))  # the footer
    data[position] ^= 1 << seed
    path.write_bytes(data)
    assert any(f"{FIRST}: is not the file" in f for f in findings(f"file://{forgery.shards}"))


def test_a_run_is_found_by_its_folder(forgery):
    assert findings(forgery.shards.parent) == []


def test_rows_of_another_schema(forgery):
    pq.write_table(pa.table({"image_id": ["a", "b"]}), forgery.path(FIRST))
    (forgery.shards / "manifest.json").unlink()
    found = findings(forgery.shards)
    assert any(line.startswith(f"{FIRST}: has another schema (camera, ") for line in found)
    assert f"{FIRST}: has 2 rows in 1 row groups; each row should be its own" in found
    assert any(line.startswith(f"{FIRST} row 0 (a): is not a row of ours") for line in found)


# ---- rows against each other --------------------------------------------------------------------


def test_swapped_rows(forgery):
    rows = forgery.rows(FIRST)
    rows[0], rows[1] = rows[1], rows[0]
    forgery.write(FIRST, rows)
    (line,) = findings(forgery.shards)
    assert line.startswith(f"{FIRST} row 1 ({rows[1]['image_id']}): comes after")


def test_swapped_pictures(forgery):
    rows = forgery.rows(FIRST)
    rows[0]["image"], rows[1]["image"] = rows[1]["image"], rows[0]["image"]
    forgery.write(FIRST, rows)
    found = findings(forgery.shards)
    assert len(found) == 2 and all("of another row?" in line for line in found)


def test_a_duplicated_scene(forgery):
    rows = forgery.rows(FIRST)
    again = [row for row in rows if row["scene_id"] == rows[0]["scene_id"]]
    forgery.write(SECOND, forgery.rows(SECOND) + again)
    found = findings(forgery.shards)
    assert sum("is twice in the dataset, first in train-00000.parquet row" in f for f in found) == 2


def test_a_validation_scene_in_train(forgery):
    leaked = forgery.rows(VALIDATION)
    forgery.write(FIRST, sorted(forgery.rows(FIRST) + leaked[1:], key=lambda row: row["seed"]))
    forgery.write(VALIDATION, leaked[:1])
    found = findings(forgery.shards)
    assert len(found) == 1 and f"its scene is also in {FIRST}" in found[0]
    # moved whole, only the draw tells
    forgery.write(FIRST, sorted(forgery.rows(FIRST) + leaked[:1], key=lambda row: row["seed"]))
    forgery.path(VALIDATION).unlink()
    manifest = json.loads((forgery.shards / "manifest.json").read_text())
    del manifest[VALIDATION]
    (forgery.shards / "manifest.json").write_text(json.dumps(manifest))
    found = findings(forgery.shards, settings=PASSES)
    assert sum("its scene is drawn for validation" in line for line in found) == 2


def test_other_settings(forgery):
    forgery.change(SECOND, 0, lambda row: row["provenance"].update(settings_hash="0123"))
    (line,) = findings(forgery.shards)
    assert "was made with settings 0123, the first row with" in line


def test_a_picture_that_was_only_turned_is_found(forgery):
    """Row 1 of the second shard shows row 0 of the first, turned by 90° and noisy."""
    rows, other = forgery.rows(SECOND), forgery.rows(FIRST)[0]
    noise = np.random.default_rng(0).integers(-2, 3, (128, 256, 3))
    turned = np.roll(decode_image(other["image"]).astype(int), 64, axis=1) + noise
    rows[1]["image"]["bytes"] = encode_webp(turned.clip(0, 255).astype(np.uint8))
    forgery.write(SECOND, rows)
    (line,) = findings(forgery.shards)
    assert line.startswith(f"{SECOND} row 1 ({rows[1]['image_id']}): shows the same as")
    assert f"{other['image_id']} in {FIRST} row 0" in line


# ---- records ------------------------------------------------------------------------------------


def test_what_was_checked_before_is_not_checked_again(forgery, tmp_path, monkeypatch):
    forgery.change(SECOND, 1, lambda row: row["objects"][0].update(area=1))
    records = tmp_path / "verified"
    before = verify(forgery.shards, records=records)
    assert {path.name for path in records.iterdir()} == {f"{name}.json" for name in before.sha256}

    checked = []
    check_shard = dataset.check_shard
    monkeypatch.setattr(
        dataset, "check_shard", lambda task: checked.append(task.shard.name) or check_shard(task)
    )
    assert verify(forgery.shards, records=records) == before
    assert checked == []
    forgery.change(FIRST, 0, lambda row: row["objects"][0].update(area=1))
    assert len(verify(forgery.shards, records=records).findings) == 2
    assert checked == [FIRST]
    (records / f"{SECOND}.json").write_text("{")
    assert len(verify(forgery.shards, records=records).findings) == 2
    assert checked == [FIRST, SECOND]
    assert len(verify(forgery.shards, settings=PASSES, records=records).findings) == 2
    assert set(checked[2:]) == set(before.sha256)  # of other settings
