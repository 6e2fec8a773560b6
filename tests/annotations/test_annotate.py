"""Annotations of an id map against the discs it was drawn from, and against pycocotools."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipeline.annotations.annotate import InstanceInfo, annotate
from tests.synthetic import DISCS, SEAM, TABLE, TINY, ZENITH, disc_ids

INSTANCES = {
    entry["id"]: InstanceInfo(entry["name"], entry["category"], entry["is_structure"])
    for entry in TABLE
}
NAMED = {label: InstanceInfo(f"thing.{label}", "thing", False) for label in range(1, 2**16)}


def disc_objects(width):
    objects, dropped = annotate(disc_ids(width), INSTANCES, min_area_pixels=1)
    assert dropped == 0
    return {thing["id"]: thing for thing in objects}


def test_annotations_do_not_depend_on_memory_addresses():
    """A disc on the pole has many equally good boxes; the last bit of a product must not choose."""
    kept, found = [], set()
    for size in range(0, 4000, 50):
        kept.append(np.zeros(size))  # moves the next arrays in memory
        objects, _ = annotate(disc_ids(256, turn=7), INSTANCES, min_area_pixels=1)
        found.add(json.dumps(objects))
    assert len(found) == 1


def test_discs_have_their_analytic_values():
    objects = disc_objects(1024)
    assert list(objects) == sorted(objects) == [1, 2, 3, 4, 5, 6]
    for label, (_lon, lat, radius) in DISCS.items():
        thing = objects[label]
        cap = 2 * np.pi * (1 - np.cos(np.radians(radius)))
        assert thing["solid_angle"] == pytest.approx(cap, rel=0.03)
        assert thing["bfov"][1:] == pytest.approx((lat, 2 * radius, 2 * radius), abs=0.6)
        assert thing["name"] == INSTANCES[label].name
    assert {k for k, thing in objects.items() if thing["crosses_seam"]} == {1, 2, SEAM, ZENITH}
    assert {k for k, thing in objects.items() if thing["touches_pole"]} == {1, ZENITH}
    total = sum(thing["solid_angle"] for thing in objects.values())
    assert total == pytest.approx(4 * np.pi)


def test_disc_on_the_seam():
    thing = disc_objects(1024)[SEAM]
    x, _, w, h = thing["bbox_wrapped"]
    assert thing["bbox"][0] == 0 and thing["bbox"][2] == 1024
    assert x + w / 2 == pytest.approx(1024, abs=1)
    assert h == pytest.approx(24 / 180 * 512, abs=2)
    click_x, click_y = thing["click"]
    assert min(click_x, 1024 - click_x) <= 1
    assert click_y == pytest.approx((90 - 10) / 180 * 512, abs=2)


def test_sizes_follow_the_area():
    objects = disc_objects(256)
    assert objects[TINY]["size"] == "small"
    assert objects[1]["size"] == "large"


@given(st.integers(0, 1000), st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_masks_areas_and_boxes_match_pycocotools(seed, min_area):
    generator = np.random.default_rng(seed)
    # blocks of random 16-bit ids, with single pixels in between
    ids = np.kron(generator.integers(0, 2**16, (4, 8)), np.ones((8, 8))).astype(np.uint16)
    ids[generator.random(ids.shape) < 0.02] = generator.integers(0, 2**16)
    objects, dropped = annotate(ids, NAMED, min_area)
    labels, areas = np.unique(ids[ids > 0], return_counts=True)
    assert [thing["id"] for thing in objects] == labels[areas >= min_area].tolist()
    assert dropped == np.sum(areas < min_area)
    for thing in objects:
        mask = ids == thing["id"]
        assert thing["segmentation"]["counts"] == coco.encode(np.asfortranarray(mask))[
            "counts"
        ].decode("ascii")
        np.testing.assert_array_equal(coco.decode(thing["segmentation"]), mask)
        assert thing["area"] == coco.area(thing["segmentation"])
        assert thing["bbox"] == coco.toBbox(thing["segmentation"]).tolist()
        assert mask[thing["click"][1], thing["click"][0]]


def test_more_instances_than_one_encoder_call_takes():
    ids = np.arange(1, 1 + 32 * 64, dtype=np.uint16).reshape(32, 64)
    objects, _ = annotate(ids, NAMED, 1)
    assert len(objects) == 2048
    masks = coco.decode([thing["segmentation"] for thing in objects])
    np.testing.assert_array_equal((masks * np.arange(1, 2049)).sum(axis=-1), ids)


def test_unlisted_id_is_rejected():
    ids = np.zeros((8, 16), np.uint16)
    ids[2, 3] = 99
    with pytest.raises(ValueError, match="99"):
        annotate(ids, INSTANCES, 1)


def test_map_without_instances():
    assert annotate(np.zeros((8, 16), np.uint16), INSTANCES, 1) == ([], 0)
