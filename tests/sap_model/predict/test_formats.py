"""Masks as other programs read them back."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import supervision
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from sap_model.predict.formats import label_map, to_coco, to_detections
from sap_model.predict.objects import Prediction

SHAPE = (32, 64)


@pytest.fixture
def found() -> list[Prediction]:
    inside, across_seam = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    inside[10:14, 20:30] = True
    across_seam[10:20, [62, 63, 0, 1]] = True
    return [Prediction(inside, 0.9), Prediction(across_seam, 0.5)]


def test_coco_masks_areas_and_boxes(found):
    first, second = to_coco(found, image_id=7, first_id=5)
    assert (first["id"], second["id"], first["image_id"]) == (5, 6, 7)
    for annotation, one in zip((first, second), found, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]), one.mask)
    assert (first["area"], first["bbox"], first["score"]) == (40, [20, 10, 10, 4], 0.9)
    assert second["bbox"] == [0, 10, 64, 10]
    whole = Prediction(np.ones(SHAPE, bool), 1.0)
    assert to_coco({3: whole})[0]["solid_angle"] == pytest.approx(4 * np.pi)


def test_detections_have_corners_and_masks(found):
    detections = to_detections(found)
    assert isinstance(detections, supervision.Detections)
    np.testing.assert_array_equal(detections.xyxy[0], [20, 10, 30, 14])
    np.testing.assert_array_equal(detections.mask[1], found[1].mask)
    np.testing.assert_allclose(detections.confidence, [0.9, 0.5])
    assert len(to_detections([])) == 0


def test_detections_without_the_package_are_one_line(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        to_detections(found)


def test_label_map_has_the_smaller_mask_on_top(found):
    small = np.zeros(SHAPE, bool)
    small[11, 21] = True
    labels = label_map({1: small, 2: found[0].mask}, SHAPE)
    assert labels[11, 21] == 1
    assert np.bincount(labels.ravel()).tolist() == [32 * 64 - 40, 1, 39]
