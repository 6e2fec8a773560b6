"""Every importer on a small benchmark in its layout, read back with the reader of our shards."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from pipeline.errors import UserError
from pipeline.shards.reader import ShardReader, decode_ids, decode_image, masks
from pipeline.shards.schema import make_schema
from sap_model.importers.coco import import_coco
from sap_model.importers.hunyuan import import_hunyuan
from sap_model.importers.pavs import import_pavs, sample
from tests.sap_model.importers.layouts import (
    COLOURS,
    WIDTH,
    discs,
    make_coco,
    make_hunyuan,
    make_pavs,
    save,
    view,
)


def read(out):
    return {row["image_id"]: row for row in map(ShardReader(out).row, range(len(ShardReader(out))))}


def by_name(row):
    things = row["objects"]
    return {thing["name"]: (thing, mask) for thing, mask in zip(things, masks(things), strict=True)}


def test_coco_with_polygons_both_encodings_and_overlaps(tmp_path):
    file, out = make_coco(tmp_path / "in"), tmp_path / "out"
    counts = import_coco(file, out)
    assert counts.panoramas == 2 and counts.instances == counts.sizes.total() == 4
    assert counts.left_out.total() == 1 and "crowds" in next(iter(counts.left_out))
    rows = read(out)
    room, plain = rows.values()
    assert room["scene_id"].startswith("a_room-") and list(rows)[1] == "b/0"
    assert plain["objects"] == []
    assert np.array_equal(decode_image(room["image"]), view(1))
    found = by_name(room)
    assert list(found) == [f"annotation {number}" for number in (70, 71, 72, 73)]
    drawn = list(discs().values())
    for number in (70, 71, 72):
        thing, mask = found[f"annotation {number}"]
        assert thing["id"] == number and np.array_equal(mask, drawn[number - 70])
    assert found["annotation 72"][0]["crosses_seam"]
    polygons = json.loads(file.read_text())["annotations"][3]["segmentation"]
    rle = coco.merge(coco.frPyObjects(polygons, WIDTH // 2, WIDTH))
    assert found["annotation 73"][0]["segmentation"]["counts"] == rle["counts"].decode()
    assert found["annotation 73"][0]["category"] == "wall"
    assert (
        found["annotation 73"][0]["is_structure"] and not found["annotation 70"][0]["is_structure"]
    )
    # where masks overlap, the smaller one is in front
    ids = decode_ids(room["ids"])
    assert found["annotation 71"][0]["area"] < found["annotation 70"][0]["area"]
    assert (ids[drawn[1]] == 71).all()
    assert (ids[drawn[0] & ~drawn[1] & ~found["annotation 73"][1]] == 70).all()


def test_coco_ids_beyond_16_bits_are_numbered_anew(tmp_path):
    file = make_coco(tmp_path)
    data = json.loads(file.read_text())
    data["annotations"][0]["id"] = 900_100_581_904
    file.write_text(json.dumps(data))
    import_coco(tmp_path, tmp_path / "out")  # the folder, with its one JSON
    things = next(iter(read(tmp_path / "out").values()))["objects"]
    assert [(thing["id"], thing["name"]) for thing in things][-1] == (4, "annotation 900100581904")


def test_pavs_takes_three_annotated_frames_of_each_video(tmp_path):
    out = tmp_path / "out"
    counts = import_pavs(make_pavs(tmp_path / "in", frames=12), out, seed=3)
    assert counts.panoramas == 9  # the video without masks has no part
    rows = read(out)
    videos = ["Ellen2", "_-6QUCaLvQ_3I", "plain"]
    assert [name.split("/")[0] for name in rows] == [video for video in videos for _ in range(3)]
    for name, row in rows.items():
        video, frame = name.split("/")
        assert int(frame) % 2 == 0 and row["scene_id"] == video
        drawn, found = discs(int(frame)), by_name(row)
        expected = {
            "Ellen2": {"chair_1": "chair_1", "chair_2": "chair_2"},
            "_-6QUCaLvQ_3I": {
                f"colour #{r:02x}{g:02x}{b:02x}": n for n, (r, g, b) in COLOURS.items()
            },
            "plain": {"value 7": "lamp", "value 3": "sun"},
        }[video]
        expected = {n.replace("colour #0000ff", "value 255"): disc for n, disc in expected.items()}
        assert set(found) == set(expected)
        for name, disc in expected.items():
            assert np.array_equal(found[name][1], drawn[disc])
            assert found[name][0]["category"] == "salient object"


def test_pavs_draws_by_seed_and_video_alone(tmp_path):
    make_pavs(tmp_path / "in", frames=24)
    few = make_pavs(tmp_path / "few", videos=("_-6QUCaLvQ_3I",), frames=24)
    import_pavs(tmp_path / "in", tmp_path / "0")
    import_pavs(tmp_path / "in", tmp_path / "1", seed=1)
    import_pavs(few, tmp_path / "alone")
    all_of, others, alone = (set(read(tmp_path / name)) for name in ("0", "1", "alone"))
    assert alone < all_of and others != all_of
    pairs = [(Path(str(k)), Path(str(k))) for k in range(40)]
    drawn = sample(pairs, "video", 0, 3)
    assert len(drawn) == 3 and drawn == sorted(drawn, key=pairs.index)
    assert sample(pairs, "other", 0, 3) != drawn != sample(pairs, "video", 1, 3)
    assert sample(pairs[:2], "video", 0, 3) == pairs[:2]


def test_pavs_gives_an_instance_one_id_in_all_frames_of_its_video(tmp_path):
    import_pavs(make_pavs(tmp_path / "in"), tmp_path / "out")
    ids = {}
    for row in read(tmp_path / "out").values():
        for thing in row["objects"]:
            assert ids.setdefault((row["scene_id"], thing["name"]), thing["id"]) == thing["id"]


def test_pavs_says_what_is_wrong(tmp_path):
    source = make_pavs(tmp_path / "in")
    with pytest.raises(UserError, match="is no folder"):
        import_pavs(source, tmp_path / "out", masks="GT")
    with pytest.raises(UserError, match="has a mask in"):
        import_pavs(source, tmp_path / "out", masks="Frames/plain")
    with pytest.raises(UserError, match="at least one frame"):
        import_pavs(source, tmp_path / "out", per_video=0)
    mask = source / "Instances" / "train" / "plain" / "frame_00000.png"
    save(mask, np.zeros((8, 16), np.uint8))
    with pytest.raises(UserError, match="16 × 8 pixels, its panorama 128 × 64"):
        import_pavs(source, tmp_path / "out", per_video=9)
    save(mask, view())
    with pytest.raises(UserError, match="more than 255 instances"):
        import_pavs(source, tmp_path / "out", per_video=9)
    mask.write_bytes(b"no PNG")
    with pytest.raises(UserError, match="is no picture"):
        import_pavs(source, tmp_path / "out", per_video=9)


def test_hunyuan_with_a_mask_per_object(tmp_path):
    source, out = make_hunyuan(tmp_path / "in"), tmp_path / "out"
    soft = source / "forest" / "masks" / "lamp.png"
    smooth = cv2.GaussianBlur(discs()["lamp"].astype(np.uint8) * 255, (0, 0), 0.4)
    save(soft, smooth)
    save(source / "forest" / "masks" / "empty.png", np.zeros((WIDTH // 2, WIDTH), np.uint8))
    counts = import_hunyuan(source, out)
    assert (counts.panoramas, counts.instances, dict(counts.left_out)) == (2, 8, {"empty": 1})
    city, forest = read(out).values()
    assert city["image_id"].startswith("city_at_night-") and forest["image_id"] == "forest/0"
    for row in (city, forest):
        found = by_name(row)
        for name, mask in discs().items():
            assert np.array_equal(found[name][1], mask), name
            assert found[name][0]["category"] == name.split("_")[0]
        assert found["lamp"][0]["crosses_seam"] and found["sun"][0]["touches_pole"]


def test_hunyuan_counts_what_is_no_mask(tmp_path):
    source = make_hunyuan(tmp_path / "in")
    masks = source / "forest" / "masks"
    for name in ("table.gif", "table.npy", "table", "bed.jpg"):
        (masks / name).write_bytes(b"?")
    (masks / "more").mkdir()
    (source / "loose.png").write_bytes(b"?")
    tally = import_hunyuan(source, source / "out")
    assert (tally.panoramas, tally.left_out.total()) == (2, 5)
    assert sorted(tally.left_out.values()) == [1, 4]
    assert "loose.png" in "".join(tally.lines())
    assert import_hunyuan(source, source / "out").panoramas == 2, "OUT is no panorama"


def test_pavs_counts_what_has_no_partner(tmp_path):
    source = make_pavs(tmp_path / "in")
    place = source / "Instances" / "train" / "nowhere"
    place.mkdir()
    for number in range(3):
        save(place / f"{number:05d}.png", np.zeros((WIDTH // 2, WIDTH), np.uint8))
    (source / "Instances" / "train" / "plain" / "frame_00001.jpg").write_bytes(b"?")
    tally = import_pavs(source, tmp_path / "out")
    assert tally.left_out["masks of videos without frames"] == 3
    assert tally.left_out["masks with loss (JPEG, WebP)"] == 1
    assert "unmarked" in "".join(tally.lines())


def test_hunyuan_says_what_is_wrong(tmp_path):
    source = make_hunyuan(tmp_path / "in")
    save(source / "forest" / "panorama.png", np.zeros((60, 128, 3), np.uint8))
    with pytest.raises(UserError, match="128 × 60 pixels, not 2:1"):
        import_hunyuan(source, tmp_path / "out")
    (source / "forest" / "panorama.png").rename(source / "forest" / "a.png")
    save(source / "forest" / "b.png", view())
    with pytest.raises(UserError, match="holds 2 pictures instead of one"):
        import_hunyuan(source, tmp_path / "out")
    (source / "new").mkdir()
    save(source / "new" / "c.png", view())
    (source / "forest" / "b.png").rename(source / "forest" / "panorama.png")
    with pytest.raises(UserError, match="holds no masks"):
        import_hunyuan(source, tmp_path / "out")
    with pytest.raises(UserError, match="is no folder"):
        import_hunyuan(tmp_path / "elsewhere", tmp_path / "out")


def test_shards_have_our_schema_and_form(tmp_path):
    out = tmp_path / "out"
    import_hunyuan(make_hunyuan(tmp_path / "in"), out)
    (path,) = (out / "data").iterdir()
    assert path.name == "validation-00000.parquet"
    file = pq.ParquetFile(path)
    assert file.schema_arrow.equals(make_schema())
    assert file.schema_arrow.metadata == make_schema().metadata
    assert file.num_row_groups == file.metadata.num_rows == 2
    entry = json.loads((out / "manifest.json").read_text())[path.name]
    assert entry["panoramas"] == 2 and entry["bytes"] == path.stat().st_size
    row = ShardReader(out, "validation").row(0)
    assert row["generator"] == "import" and row["seed"] is None and row["camera"] is None
    assert row["provenance"]["profile"] == "import hunyuan"
    assert row["provenance"]["infinigen"] is None and len(row["provenance"]["settings_hash"]) == 12
    about = json.loads((out / "import.json").read_text())
    assert about["importer"] == "hunyuan" and about["panoramas"] == 2


def test_importing_again_changes_nothing(tmp_path):
    source, out = make_pavs(tmp_path / "in"), tmp_path / "out"
    counts = import_pavs(source, out)
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (out / "data").iterdir()
    }
    assert import_pavs(source, out) == counts
    for path, (time, data) in before.items():
        assert path.stat().st_mtime_ns == time and path.read_bytes() == data


def test_somebody_elses_folder_is_refused(tmp_path):
    source, out = make_hunyuan(tmp_path / "in"), tmp_path / "out"
    (out / "data").mkdir(parents=True)
    (out / "data" / "train-00000.parquet").write_bytes(b"precious")
    with pytest.raises(UserError, match="holds other files"):
        import_hunyuan(source, out)
    assert (out / "data" / "train-00000.parquet").read_bytes() == b"precious"
    import_hunyuan(source, tmp_path / "ours")
    with pytest.raises(UserError, match="imported by hunyuan, not by coco"):
        import_coco(make_coco(tmp_path / "coco"), tmp_path / "ours")
    with pytest.raises(UserError, match="is a file"):
        import_hunyuan(source, source / "forest" / "panorama.png")


def test_small_objects_can_be_left_out(tmp_path):
    counts = import_hunyuan(make_hunyuan(tmp_path / "in"), tmp_path / "out", min_area=200)
    areas = [mask.sum() for mask in discs().values()]
    few = 2 * sum(area < 200 for area in areas)
    assert counts.left_out == {"smaller than MIN_AREA=200": few} and few


def test_two_panoramas_never_share_a_name(tmp_path):
    file = make_coco(tmp_path / "in")
    data = json.loads(file.read_text())
    save(tmp_path / "in" / "images" / "b.jpg", view())
    data["images"].append({**data["images"][1], "id": 7, "file_name": "b.jpg"})
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"b\.png and .*b\.jpg have the same name"):
        import_coco(file, tmp_path / "out")


def test_the_command_line(tmp_path):
    source = make_hunyuan(tmp_path / "in")

    def run(*arguments):
        command = [sys.executable, "-m", "sap_model.importers", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    done = run("hunyuan", source, tmp_path / "out")
    assert done.returncode == 0 and done.stdout.startswith("2 panoramas, 8 instances, ")
    refused = run("coco", source, tmp_path / "out2")
    assert refused.returncode == 2 and refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1


def test_hunyuan_skips_what_is_damaged_and_lists_it(tmp_path):
    source = make_hunyuan(tmp_path / "in")
    (source / "forest" / "masks" / "lamp.png").write_bytes(b"no PNG")
    (source / "new").mkdir()
    cv2.imwrite(str(source / "city at night" / "masks" / "sign.jpg"), view())
    with pytest.raises(UserError, match=r"lamp\.png is no picture"):
        import_hunyuan(source, tmp_path / "out")
    tally = import_hunyuan(source, tmp_path / "out", skip_bad=True)
    assert tally.panoramas == 1 and len(tally.skipped) == 2
    assert "lamp.png" in tally.skipped[0] and "new holds 0 pictures" in tally.skipped[1]
    assert tally.left_out == {
        "in pictures that were skipped": 4,
        "masks with loss (JPEG, WebP)": 1,
    }


def test_pavs_counts_masks_without_a_frame_and_skips_damaged_frames(tmp_path):
    source = make_pavs(tmp_path / "in")
    masks_of_plain = source / "Instances" / "train" / "plain"
    save(masks_of_plain / "frame_00999.png", np.zeros((WIDTH // 2, WIDTH), np.uint8))
    (masks_of_plain / "frame_00000.png").write_bytes(b"no PNG")
    tally = import_pavs(source, tmp_path / "out", per_video=9, skip_bad=True)
    assert tally.panoramas == 8 and tally.left_out["masks without a frame"] == 1
    (skipped,) = tally.skipped
    assert "frame_00000.png" in skipped
