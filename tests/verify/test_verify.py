"""Good data has no findings; every damage and forgery is found and located."""

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
from pipeline.shards.reader import decode_ids, decode_image
from pipeline.verify import verify as verify_module
from pipeline.verify.verify import verify
from tests.errors import raises_user_error
from tests.synthetic import PASSES, PLAIN, SEAM
from tests.verify.conftest import FIRST, findings

SECOND, VALIDATION = "train-00001.parquet", "validation-00000.parquet"


def test_good_data_has_no_findings(good):
    seen = []
    found = verify(good.shards, settings=PASSES, progress=lambda *state: seen.append(state))
    assert found.findings == ()
    assert found.panoramas == 20 and found.shards > 2
    assert seen[-1] == (found.shards, found.shards, 20, 0)
    assert {name.split("-")[0] for name in found.sha256} == {"train", "validation"}


def test_download_without_manifest_has_no_findings(forgery):
    (forgery.shards / "manifest.json").unlink()
    assert findings(forgery.shards / "data") == []


def test_worker_processes_give_the_same_findings(forgery):
    forgery.change(SECOND, 1, lambda row: row["objects"][0].update(area=1))
    assert findings(forgery.shards, workers=2) == findings(forgery.shards) != []


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bit_is_found(forgery, seed):
    path = forgery.path(FIRST)
    data = bytearray(path.read_bytes())
    position = int(np.random.default_rng(seed).integers(len(data)))
    data[position] ^= 1 << seed % 8
    path.write_bytes(data)
    assert any(line.startswith(f"{FIRST}: is not the file") for line in findings(forgery.shards))


def test_flipped_bit_of_an_image_is_located_without_a_manifest(forgery):
    (forgery.shards / "manifest.json").unlink()
    path = forgery.path(FIRST)
    data, picture = path.read_bytes(), forgery.rows(FIRST)[1]["image"]["bytes"]
    middle = data.index(picture) + len(picture) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
    (line,) = findings(forgery.shards)
    assert line.startswith(f"{FIRST} row 1: cannot be read") and "checksum" in line


@pytest.mark.parametrize("kept", [0, 3, 100, -1, -100])
def test_truncated_shard_does_not_stop_the_others(forgery, kept):
    path = forgery.path(FIRST)
    path.write_bytes(path.read_bytes()[:kept])
    forgery.change(SECOND, 0, lambda row: row["objects"][0].update(area=1))
    found = findings(forgery.shards)
    assert any(line.startswith(f"{FIRST}: cannot be read") for line in found)
    assert any(line.startswith(f"{FIRST}: has ") and "the manifest says" in line for line in found)
    assert any(line.startswith(f"{SECOND} row 0 (") for line in found)


def test_missing_and_additional_shards_are_found(forgery):
    shutil.copy(forgery.path(FIRST), forgery.path("train-00009.parquet"))
    forgery.path(SECOND).unlink()
    found = findings(forgery.shards)
    assert f"{SECOND}: is missing" in found
    assert "train-00009.parquet: is not in the manifest" in found
    assert any("repeats the image_id of train-00000.parquet row 0" in f for f in found)
    (forgery.shards / "manifest.json").unlink()
    assert f"{SECOND}: is missing" in findings(forgery.shards)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"../x": {}}', f'{{"{FIRST}": 3}}'])
def test_damaged_manifest_is_a_finding(forgery, text):
    (forgery.shards / "manifest.json").write_text(text)
    assert findings(forgery.shards) == ["manifest.json is damaged and lists no shards"]


def test_wrong_row_count_in_the_manifest(forgery):
    forgery.edit_manifest(FIRST, {"panoramas": 99})
    rows = len(forgery.rows(FIRST))
    assert findings(forgery.shards) == [f"{FIRST}: has {rows} rows, the manifest says 99"]


def test_folder_without_shards(tmp_path):
    with raises_user_error(tmp_path):
        verify(tmp_path)


# ---- rows ---------------------------------------------------------------------------------------

FORGED_VALUES = {
    "area": 1,
    "solid_angle": 0.5,
    "size": "enormous",
    "bbox": [0.0, 0.0, 5.0, 5.0],
    "bbox_wrapped": [0.0, 0.0, 5.0, 5.0],
    "crosses_seam": None,  # negated
    "touches_pole": None,
    "bfov": [0.0, 0.0, 10.0, 10.0],
    "click": [0, 0],
    "iscrowd": 1,
}


@pytest.mark.parametrize("name", FORGED_VALUES)
@pytest.mark.parametrize("label", [PLAIN, SEAM])
def test_forged_field_is_located(forgery, name, label):
    def forge(row):
        (thing,) = [thing for thing in row["objects"] if thing["id"] == label]
        forged = FORGED_VALUES[name]
        thing[name] = not thing[name] if forged is None else forged

    forgery.change(SECOND, 1, forge)
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
    """Drop the last run, for which pycocotools would return uninitialised memory."""
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
        (swap_masks, "object 1: mask and id map differ"),
        (cut_mask, "object 1: mask does not decode"),
        (shorten_mask, "object 1: mask has "),
        (empty_image, "image does not decode"),
        (empty_ids, "ids does not decode"),
        (recategorise, "object 3: category of ball.001 is ceiling (is_structure False), not ball"),
        (overexpose, "exposure_stops is out of range"),
        (resize_mask, "object 1: mask size is [1000000, 1000000]"),
        (reorder, "not sorted by id"),
        (repeat, "an id is repeated"),
        (invent, "object 99: is not in the id map"),
        (shift_ids, "object 1: mask and id map differ"),
        (halve, "is 128 × 128 pixels"),
        (blacken, "is defective: black"),
        (grey, "image is 128 × 256 uint8, not 128 × 256 × 3 uint8"),
        (scribble, "image does not decode"),
        (null, "camera.room is missing"),
        (infinite, "camera.position is"),
        (rename, "scene_id is '../../etc'"),
        (shrink_depth, "depth is 4 × 8 uint16, not 128 × 256 uint16"),
    ],
)
def test_forged_row_is_found(forgery, forge, message):
    forgery.change(SECOND, 0, forge)
    found = findings(forgery.shards, settings=PASSES)
    assert found and all(line.startswith(f"{SECOND} row 0 (") for line in found)
    assert any(message in line for line in found)


def test_annotation_below_the_smallest_area(forgery):
    larger = replace(PASSES, min_area=100_000)
    found = findings(forgery.shards, settings=larger)
    assert found and all("pixels, less than the run's 391" in line for line in found)


def test_instance_changes_its_name_within_a_scene(forgery):
    def rename_ball(row):
        row["objects"][2].update(name="yak", category="yak")

    rows = forgery.rows(FIRST)
    assert rows[0]["scene_id"] == rows[1]["scene_id"]
    forgery.change(FIRST, 1, rename_ball)
    (line,) = findings(forgery.shards)
    assert "object 3: is yak (yak) here and ball.001 (ball) in" in line


def test_footer_that_readers_reject_is_a_finding(forgery):
    forgery.edit_manifest(FIRST, {"footer_sha256": "0" * 64})
    (line,) = findings(forgery.shards)
    assert line.startswith(f"{FIRST}: is rejected by readers:") and "footer" in line


def test_run_needs_its_manifest(forgery):
    (forgery.shards / "manifest.json").unlink()
    assert findings(forgery.shards, settings=PASSES) == ["manifest.json is missing"]


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bit_of_a_remote_shard_is_found(forgery, seed):
    path = forgery.path(FIRST)
    data = bytearray(path.read_bytes())
    position = len(data) - 1 - int(np.random.default_rng(seed).integers(5000))  # the footer
    data[position] ^= 1 << seed
    path.write_bytes(data)
    assert any(f"{FIRST}: is not the file" in f for f in findings(f"file://{forgery.shards}"))


def test_address_of_the_run_is_accepted(forgery):
    assert findings(forgery.shards.parent) == []


def test_another_schema_is_found(forgery):
    pq.write_table(pa.table({"image_id": ["a", "b"]}), forgery.path(FIRST))
    (forgery.shards / "manifest.json").unlink()
    found = findings(forgery.shards)
    assert any(line.startswith(f"{FIRST}: has another schema (camera, ") for line in found)
    assert f"{FIRST}: has 2 rows in 1 row groups, not one row per group" in found
    assert any(line.startswith(f"{FIRST} row 0 (a): does not fit the schema") for line in found)


# ---- rows against each other --------------------------------------------------------------------


def test_swapped_rows_are_found(forgery):
    rows = forgery.rows(FIRST)
    rows[0], rows[1] = rows[1], rows[0]
    forgery.write(FIRST, rows)
    (line,) = findings(forgery.shards)
    assert line.startswith(f"{FIRST} row 1 ({rows[1]['image_id']}): comes after")


def test_swapped_images_are_found(forgery):
    rows = forgery.rows(FIRST)
    rows[0]["image"], rows[1]["image"] = rows[1]["image"], rows[0]["image"]
    forgery.write(FIRST, rows)
    found = findings(forgery.shards)
    assert len(found) == 2 and all("): image.path is " in line for line in found)


def test_duplicated_scene_is_found(forgery):
    rows = forgery.rows(FIRST)
    again = [row for row in rows if row["scene_id"] == rows[0]["scene_id"]]
    forgery.write(SECOND, forgery.rows(SECOND) + again)
    found = findings(forgery.shards)
    assert sum("repeats the image_id of train-00000.parquet row" in line for line in found) == 2


def test_validation_scene_in_train_is_found(forgery):
    leaked = forgery.rows(VALIDATION)
    forgery.write(FIRST, sorted(forgery.rows(FIRST) + leaked[1:], key=lambda row: row["seed"]))
    forgery.write(VALIDATION, leaked[:1])
    found = findings(forgery.shards)
    assert len(found) == 1 and f"its scene is also in another split: {FIRST}" in found[0]
    # with the complete scene moved, only the draw reveals it
    forgery.write(FIRST, sorted(forgery.rows(FIRST) + leaked[:1], key=lambda row: row["seed"]))
    forgery.path(VALIDATION).unlink()
    manifest = json.loads((forgery.shards / "manifest.json").read_text())
    del manifest[VALIDATION]
    (forgery.shards / "manifest.json").write_text(json.dumps(manifest))
    found = findings(forgery.shards, settings=PASSES)
    assert sum("its scene belongs to validation" in line for line in found) == 2


def test_other_settings_hash_is_found(forgery):
    forgery.change(SECOND, 0, lambda row: row["provenance"].update(settings_hash="0123"))
    (line,) = findings(forgery.shards)
    assert "settings_hash is 0123" in line


def test_rotated_duplicate_is_found(forgery):
    """Row 1 of the second shard is row 0 of the first, turned by 90° and with noise."""
    rows, other = forgery.rows(SECOND), forgery.rows(FIRST)[0]
    noise = np.random.default_rng(0).integers(-2, 3, (128, 256, 3))
    turned = np.roll(decode_image(other["image"]).astype(int), 64, axis=1) + noise
    rows[1]["image"]["bytes"] = encode_webp(turned.clip(0, 255).astype(np.uint8))
    forgery.write(SECOND, rows)
    (line,) = findings(forgery.shards)
    assert line.startswith(f"{SECOND} row 1 ({rows[1]['image_id']}): shows the same as")
    assert f"{other['image_id']} in {FIRST} row 0" in line


# ---- records ------------------------------------------------------------------------------------


def test_recorded_shards_are_not_checked_again(forgery, tmp_path, monkeypatch):
    forgery.change(SECOND, 1, lambda row: row["objects"][0].update(area=1))
    records = tmp_path / "verified"
    before = verify(forgery.shards, records=records)
    assert {path.name for path in records.iterdir()} == {f"{name}.json" for name in before.sha256}

    checked = []
    check_shard = verify_module.check_shard
    monkeypatch.setattr(
        verify_module,
        "check_shard",
        lambda task: checked.append(task.shard.name) or check_shard(task),
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
    assert set(checked[2:]) == set(before.sha256)  # other settings
