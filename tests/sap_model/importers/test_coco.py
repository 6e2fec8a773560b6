"""COCO files of strangers: refused with the first two places, skipped and listed, or counted."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.shards.reader import ShardReader, decode_image, masks
from sap_model.importers.coco import import_coco
from sap_model.importers.coco_json import flag_of
from tests.errors import raises_user_error
from tests.pictures.samples import QUARTER, H, W, encoded, exif, gpano, stored_for
from tests.sap_model.importers.coco_samples import DAMAGED, STRUCTURE, TAKEN, box, of, write


def files(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", STRUCTURE)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_nothing_can_be_trusted_after(tmp_path, kind, skip_bad):
    change, says = STRUCTURE[kind]
    file = write(tmp_path / "in", change)
    before = files(tmp_path)
    with pytest.raises(UserError) as error:
        import_coco(file, tmp_path / "out", skip_bad=skip_bad)
    text = str(error.value)
    assert str(file) in text and "\n" not in text and len(text) < 600
    assert all(words in text for words in says), text
    assert files(tmp_path) == before


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_refused_or_skipped_and_listed(tmp_path, kind):
    change, says, panoramas, instances = DAMAGED[kind]
    import_coco(write(tmp_path / "in"), tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    file = write(tmp_path / "in", change)
    with pytest.raises(UserError, match="SKIP_BAD=1") as error:
        import_coco(file, tmp_path / "out")
    text = str(error.value)
    assert "\n" not in text and all(words in text for words in says), text
    assert {path: path.read_bytes() for path in before} == before
    tally = import_coco(file, tmp_path / "out", skip_bad=True)
    assert (tally.panoramas, tally.instances) == (panoramas, instances)
    assert instances + tally.left_out.total() == 4, "each of the four is taken or counted"
    (skipped,) = tally.skipped
    assert all(words in skipped for words in says)
    assert f"skipped: {skipped}" in tally.lines()
    assert json.loads((tmp_path / "out" / "import.json").read_text())["skipped"] == [skipped]


@pytest.mark.parametrize("kind", TAKEN)
def test_all_that_is_left_out_is_counted_by_reason(tmp_path, kind):
    change, instances, left_out, notes = TAKEN[kind]
    tally = import_coco(write(tmp_path / "in", change), tmp_path / "out")
    assert tally.panoramas == 2 and tally.instances == instances
    assert instances + tally.left_out.total() == 4, "each of the four is taken or counted"
    assert tally.left_out.total() == sum(left_out.values())
    for reason in left_out:
        assert any(reason in words for words in tally.left_out), tally.left_out
    text = "\n".join(tally.lines())
    assert f"{tally.left_out.total()} left out" in text and all(words in text for words in notes)


def test_a_pipe_is_no_json(tmp_path):
    os.mkfifo(tmp_path / "ann.json")
    with raises_user_error(tmp_path / "ann.json"):
        import_coco(tmp_path / "ann.json", tmp_path / "out")


def test_a_dot_in_a_folder_is_no_suffix(tmp_path):
    file = write(tmp_path / "in")
    data = json.loads(file.read_text())
    for image in data["images"]:
        old = file.parent / "images" / image["file_name"]
        old = old if old.exists() else file.parent / image["file_name"]
        image["file_name"] = f"v1.0/{old.stem}"
        new = old.parent / image["file_name"]
        new.parent.mkdir(exist_ok=True)
        old.rename(new)
    file.write_text(json.dumps(data))
    assert import_coco(file, tmp_path / "out").panoramas == 2


def test_brushed_masks_can_be_taken(tmp_path):
    tally = import_coco(write(tmp_path / "in"), tmp_path / "out", crowds="instances")
    assert tally.instances == 4 and not tally.left_out
    things = ShardReader(tmp_path / "out").row(0)["objects"]
    brushed = list(masks(things))[2]
    assert brushed[10:30, 90:120].all() and brushed.sum() == 600


def test_rows_can_be_for_training(tmp_path):
    import_coco(write(tmp_path / "in"), tmp_path / "out", split="train")
    assert ShardReader(tmp_path / "out").splits == {"train": 2}
    import_coco(write(tmp_path / "in"), tmp_path / "out")
    assert ShardReader(tmp_path / "out").splits == {"validation": 2}
    with pytest.raises(UserError, match="SPLIT=test"):
        import_coco(write(tmp_path / "in"), tmp_path / "out", split="test")


def test_another_word_for_crowds_is_refused(tmp_path):
    with pytest.raises(UserError, match="CROWDS=all"):
        import_coco(write(tmp_path / "in"), tmp_path / "out", crowds="all")


def test_a_set_of_which_nothing_is_left_is_refused(tmp_path):
    file = write(tmp_path / "in", lambda data: [image.update(width=9) for image in data["images"]])
    with pytest.raises(UserError, match="no panorama of 2 could be imported"):
        import_coco(file, tmp_path / "out", skip_bad=True)


def test_masks_go_with_the_picture_onto_its_sphere(tmp_path):
    file = write(tmp_path / "in", of("images 0", file_name="a.jpg"))
    crop = encoded("JPEG", xmp=gpano(**QUARTER))
    (tmp_path / "in" / "images" / "a.jpg").write_bytes(crop)
    tally = import_coco(file, tmp_path / "out")
    assert any("GPano crop" in line for line in tally.lines())
    row = ShardReader(tmp_path / "out").row(0)
    assert (row["width"], row["height"]) == (2 * W, 2 * H)
    first = next(masks(row["objects"]))
    expected = np.zeros((2 * H, 2 * W), bool)
    expected[30 + 5 : 30 + 25, 40 + 5 : 40 + 35] = True
    assert np.array_equal(first, expected)
    assert decode_image(row["image"])[first].any() and not decode_image(row["image"])[:30].any()


def test_pictures_are_turned_as_viewers_show_them(tmp_path):
    file = write(tmp_path / "in", of("images 0", file_name="a.png"))
    upright = ShardReader(import_out(file, tmp_path / "1")).row(0)["image"]
    turned = encoded("PNG", stored_for(6), exif=exif(6))
    (tmp_path / "in" / "images" / "a.png").write_bytes(turned)
    assert np.array_equal(
        decode_image(ShardReader(import_out(file, tmp_path / "2")).row(0)["image"]),
        decode_image(upright),
    )


def import_out(file, out):
    import_coco(file, out)
    return out


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        *((value, False) for value in (0, 0.0, "0", False, None, "false", "")),
        *((value, True) for value in (1, 1.0, "1", True, "true", " True ")),
        *((value, None) for value in (2, -1, "2", "yes", [], {}, [1], float("nan"))),
    ],
)
def test_flags_as_tools_write_them(value, meaning):
    assert flag_of(value) is meaning


def test_a_polygon_across_the_seam_keeps_what_is_inside(tmp_path):
    file = write(tmp_path / "in", of("annotations 0", segmentation=box(W - 10, 5)))
    tally = import_coco(file, tmp_path / "out")
    first = next(masks(ShardReader(tmp_path / "out").row(0)["objects"]))
    assert first[5:25, W - 10 :].all() and first.sum() == 200
    assert any("cut at the border" in line and "148" in line for line in tally.lines())
