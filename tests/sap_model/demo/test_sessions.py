"""Prompts, exports and panoramas of the demo, without a server."""

from __future__ import annotations

import io
import json
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from sap_model.clicks import Click
from sap_model.demo.sessions import (
    TrueMask,
    best_match,
    coco_json,
    cutouts_zip,
    find_panoramas,
    grid,
    label_png,
    parse_prompt,
)
from sap_model.predict.objects import Prediction, Prompt, solid_angle
from sap_model.predict.session import SegmentedObject, Session
from sap_model.scan.trajectory import Scan

SHAPE = (32, 64)


def mask_of(rows: slice, columns: list[int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[rows, columns] = True
    return mask


@pytest.fixture
def session() -> Session:
    image = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    across_seam = mask_of(slice(10, 14), [62, 63, 0, 1, 2])
    inside = mask_of(slice(11, 12), [0, 1])
    session = Session(SimpleNamespace(image=image))
    session.objects[1] = SegmentedObject("rug", Prompt(), Prediction(across_seam, 0.9))
    session.objects[2] = SegmentedObject("cup", Prompt(), Prediction(inside, 0.5))
    return session


def test_prompts_are_read():
    prompt, name = parse_prompt(
        {"points": [[1, 2], [3.5, 4]], "labels": [1, 0], "box": [60, 2, 9, 4], "name": "x"}, SHAPE
    )
    assert prompt.clicks == [Click(1, 2, 1), Click(3.5, 4, 0)]
    assert prompt.box == (60, 2, 9, 4)
    assert name == "x"


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"points": [[1, 2]], "labels": [0]},
        {"points": [[1, 2]], "labels": []},
        {"points": [[1, 2]], "labels": [2]},
        {"points": [[1, 32]], "labels": [1]},
        {"points": [[float("nan"), 2]], "labels": [1]},
        {"points": "here", "labels": [1]},
        {"box": [1, 2, 0, 4]},
        {"box": [1, 2, 3]},
        {"box": [1, 2, 65, 4]},
        {"box": [1, 30, 5, 40]},
    ],
)
def test_other_prompts_are_refused(prompt):
    with pytest.raises(UserError):
        parse_prompt(prompt, SHAPE)


def test_labels_show_the_smaller_object_on_top(session):
    labels = cv2.imdecode(np.frombuffer(label_png(session), np.uint8), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint16
    assert labels[11, 0] == 2
    assert labels[10, 0] == 1
    assert np.count_nonzero(labels) == 20


def test_coco_masks_are_equal(session):
    content = json.loads(coco_json(session, "panorama"))
    for annotation in content["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        np.testing.assert_array_equal(mask, session.objects[annotation["id"]].mask)


def test_cutouts_join_across_the_seam(session):
    with zipfile.ZipFile(io.BytesIO(cutouts_zip(session))) as archive:
        data = np.frombuffer(archive.read("001.png"), np.uint8)
    cutout = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert cutout.shape == (4, 5, 4)
    assert (cutout[..., 3] == 255).all()
    np.testing.assert_array_equal(cutout[:, 2, 2::-1], session.image[10:14, 0])


def test_solid_angle_of_the_sphere():
    assert solid_angle(np.ones(SHAPE, bool)) == pytest.approx(4 * np.pi)


def test_best_match_has_the_highest_iou():
    mask = mask_of(slice(0, 4), [0, 1])
    truth = [TrueMask("wall", np.ones(SHAPE, bool)), TrueMask("cup", mask_of(slice(0, 4), [0]))]
    found = best_match(mask, truth)
    assert found is not None
    assert (found["category"], found["iou"]) == ("cup", 0.5)
    assert best_match(mask, []) is None


def test_grid_shows_yaw_0_in_the_middle():
    scan = Scan()
    places = grid(scan)["views"]
    middle = next(i for i, view in enumerate(scan.views) if (view.yaw, view.pitch) == (0, 0))
    assert places[middle] == {"column": 4, "row": 1}
    assert len({(place["column"], place["row"]) for place in places}) == 24


def test_folders_of_pictures(tmp_path):
    picture = np.zeros((*SHAPE, 3), np.uint8)
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), picture)
    (tmp_path / "notes.txt").write_text("no picture")
    found = find_panoramas(str(tmp_path))
    assert [one.name for one in found] == ["a.jpg", "b.png"]
    image, truth = found[1].load()
    assert image.shape == (*SHAPE, 3)
    assert truth == []
    with pytest.raises(UserError):
        find_panoramas(str(tmp_path / "nothing"))
