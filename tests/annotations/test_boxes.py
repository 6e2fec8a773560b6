"""Boxes against discs on the sphere, whose boxes are known, and against pycocotools."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipeline.annotations import boxes
from tests.synthetic import directions, disc


def crop_of(mask):
    return boxes.wrapped_crop(mask, True, boxes.coco_box(mask))


def difference(first, second):
    """Distance of two longitudes on the circle, in degrees."""
    return abs((first - second + 180) % 360 - 180)


discs = st.lists(
    st.tuples(st.integers(-180, 179), st.integers(-90, 90), st.integers(2, 60)),
    min_size=1,
    max_size=3,
)


def union(parts, width=128):
    return np.logical_or.reduce([disc(*part, width) for part in parts])


@given(discs)
@settings(max_examples=50, deadline=None)
def test_coco_box_matches_pycocotools(parts):
    mask = union(parts)
    assert list(boxes.coco_box(mask)) == coco.toBbox(coco.encode(np.asfortranarray(mask))).tolist()


def test_empty_mask_has_no_box():
    assert boxes.coco_box(np.zeros((4, 8), bool)) is None


def test_wrapped_box_off_the_seam_is_the_coco_box():
    mask = disc(40, 0, 10, 256)
    assert crop_of(mask).box == boxes.coco_box(mask)


def test_wrapped_box_crosses_the_seam():
    mask = np.zeros((8, 16), bool)
    mask[2:4, [14, 15, 0]] = True
    crop = crop_of(mask)
    assert boxes.coco_box(mask) == (0, 2, 16, 2)
    assert crop.box == (14, 2, 3, 2)
    assert crop.mask.all()
    assert boxes.crosses_seam(crop)


def test_separate_parts_do_not_cross_the_seam():
    mask = np.zeros((8, 16), bool)
    mask[2, [13, 2]] = True
    crop = crop_of(mask)
    assert crop.box == (13, 2, 6, 1)
    assert not boxes.crosses_seam(crop)


@pytest.mark.parametrize(("left", "right", "touch"), [(3, 3, 1), (3, 4, 1), (4, 3, 1), (3, 5, 0)])
def test_diagonal_neighbours_cross_the_seam(left, right, touch):
    mask = np.zeros((8, 16), bool)
    mask[left, 0] = mask[right, 15] = True
    assert boxes.crosses_seam(crop_of(mask)) == bool(touch)


@pytest.mark.parametrize(("row", "touches"), [(0, True), (1, False), (6, False), (7, True)])
def test_touches_pole(row, touches):
    mask = np.zeros((8, 16), bool)
    mask[row, 5] = True
    assert boxes.touches_pole(crop_of(mask)) == touches


@pytest.mark.parametrize(
    ("lon", "lat", "radius"),
    [
        (0, 0, 10),
        (33, 41, 5),
        (180, 12, 8),
        (-179, -60, 29),
        (77, 85, 30),
        (0, 90, 20),
        (9, -90, 70),
    ],
)
def test_bfov_of_a_disc_at_4k(lon, lat, radius):
    found = boxes.bfov(crop_of(disc(lon, lat, radius, 4096)))
    tolerance = 1.5 * 360 / 4096
    assert found[1:] == pytest.approx((lat, 2 * radius, 2 * radius), abs=tolerance)
    assert difference(found[0], lon) * np.cos(np.radians(lat)) < tolerance


def test_bfov_of_one_pixel():
    mask = np.zeros((64, 128), bool)
    mask[20, 3] = True
    pixel = 360 / 128
    lat = 90 - 20.5 * pixel
    width = pixel * np.cos(np.radians(lat - pixel / 2))  # at the pixel's wider, lower end
    expected = (-180 + 3.5 * pixel, lat, width, pixel)
    assert boxes.bfov(crop_of(mask)) == pytest.approx(expected, abs=0.05)


def test_bfov_of_walls_all_around():
    walls = np.zeros((128, 256), bool)
    walls[48:80] = True  # latitudes -22.5 to 22.5
    assert boxes.bfov(crop_of(walls)) == pytest.approx((0, 0, 360, 45))


def test_bfov_of_walls_with_a_door():
    walls = np.zeros((128, 256), bool)
    walls[48:80] = True
    walls[:, 10:20] = False
    lon, lat, horizontal, vertical = boxes.bfov(crop_of(walls))
    middle_of_the_door = -180 + 15 * 360 / 256
    assert difference(lon, middle_of_the_door + 180) < 1e-3
    assert (lat, horizontal, vertical) == pytest.approx((0, 246 * 360 / 256, 45), abs=1e-3)


def test_bfov_of_everything():
    assert boxes.bfov(crop_of(np.ones((32, 64), bool)))[2:] == (360, 180)


def test_bfov_beyond_a_hemisphere_is_the_whole_sphere():
    assert boxes.bfov(crop_of(disc(20, 10, 120, 256)))[2:] == (360, 180)


def rotated(lon, lat, width):
    """Longitude and latitude of all pixels in the frame centred at (lon, lat), by Rodrigues."""
    turn = cv2.Rodrigues(np.radians([0, 0, lon]))[0]
    tilt = cv2.Rodrigues(np.radians([-lat, 0, 0]))[0]
    x, y, z = np.moveaxis(directions(width) @ (tilt @ turn).T, -1, 0)
    return np.degrees(np.arctan2(x, y)), np.degrees(np.arcsin(np.clip(z, -1, 1)))


@given(discs)
@settings(max_examples=60, deadline=None)
def test_bfov_contains_all_pixels(parts):
    mask = union(parts)
    lon, lat, horizontal, vertical = boxes.bfov(crop_of(mask))
    assert -180 <= lon < 180 and -90 <= lat <= 90
    assert 0 < horizontal <= 360 and 0 < vertical <= 180
    x, y = rotated(lon, lat, 128)
    assert np.abs(x[mask]).max() <= horizontal / 2 + 1e-3
    assert np.abs(y[mask]).max() <= vertical / 2 + 180 / 128  # half a pixel


@given(discs, st.integers(0, 127))
@settings(max_examples=60, deadline=None)
def test_boxes_follow_a_rolled_panorama(parts, columns):
    mask = union(parts)
    crop, rolled = crop_of(mask), crop_of(np.roll(mask, columns, axis=1))
    gaps = np.diff(np.flatnonzero(np.tile(mask.any(axis=0), 2)))[: mask.any(axis=0).sum()]
    assume(not crop.is_periodic and np.sum(gaps == gaps.max()) == 1)  # one largest gap
    assert rolled.x == (crop.x + columns) % 128
    assert rolled.box[1:] == crop.box[1:]
    np.testing.assert_array_equal(rolled.mask, crop.mask)
    first, second = boxes.bfov(crop), boxes.bfov(rolled)
    assert second[1:] == pytest.approx(first[1:], abs=1e-3)
    if abs(first[1]) < 89:  # a pole has no longitude
        assert difference(second[0], first[0] + columns * 360 / 128) < 1e-2


VECTOR_UNITS = "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
"""Processor features that NumPy uses for sines."""


def boxes_of_many() -> list[tuple[float, ...]]:
    """Spherical boxes of unions of discs, many of them on a pole, and of their complements."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(150):
        parts = [
            (int(random.integers(-180, 180)), int(random.choice([-90, 90, 0, 40])), int(radius))
            for radius in random.integers(3, 80, size=random.integers(1, 4))
        ]
        mask = union(parts, 256)
        found += [boxes.bfov(crop_of(one)) for one in (mask, ~mask) if one.any()]
    return found


def test_boxes_do_not_depend_on_the_processor():
    code = "import json; from tests.annotations.test_boxes import boxes_of_many; "
    code += "print(json.dumps(boxes_of_many()))"
    without_vector_units = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": VECTOR_UNITS},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(without_vector_units.stdout) == [list(box) for box in boxes_of_many()]
