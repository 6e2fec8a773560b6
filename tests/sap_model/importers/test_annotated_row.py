"""Objects of a benchmark get what our own get, and ids the best that one number can do."""

import numpy as np
import pytest

from pipeline.annotations.annotate import InstanceInfo, annotate, annotate_mask, paint_ids
from tests.synthetic import TABLE, disc, disc_ids

INSTANCES = {
    entry["id"]: InstanceInfo(entry["name"], entry["category"], entry["is_structure"])
    for entry in TABLE
}


def test_one_mask_is_annotated_as_in_an_id_map():
    ids = disc_ids(512)
    for thing in annotate(ids, INSTANCES, 1)[0]:
        label = thing["id"]
        assert annotate_mask(ids == label, label, INSTANCES[label]) == thing


def test_an_empty_mask_is_no_object():
    with pytest.raises(ValueError, match="instance 4 is empty"):
        annotate_mask(np.zeros((32, 64), bool), 4, INSTANCES[4])


def test_ids_are_exact_where_nothing_overlaps():
    ids = disc_ids(256)
    assert np.array_equal(paint_ids(annotate(ids, INSTANCES, 1)[0], ids.shape), ids)


def test_smaller_objects_lie_before_larger_ones():
    large, small = disc(180, 0, 40, 256), disc(170, 0, 10, 256)
    objects = [annotate_mask(mask, k, INSTANCES[k]) for k, mask in ((1, small), (2, large))]
    for order in (objects, objects[::-1]):
        assert np.array_equal(paint_ids(order, large.shape), np.where(small, 1, large * 2))
