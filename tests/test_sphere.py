"""Projection formulas against known values, each other, and an independent package."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from py360convert.utils import uv2unitxyz

from pipeline import sphere

LONGITUDES = st.floats(-np.pi, np.pi)
LATITUDES = st.floats(-1.57, 1.57)


@pytest.mark.parametrize(
    ("x", "y", "direction"),
    [
        (31.5, 15.5, (0, 1, 0)),  # the image's centre looks along +Y
        (47.5, 15.5, (1, 0, 0)),  # a quarter turn to the right is +X
        (15.5, 15.5, (-1, 0, 0)),
        (-0.5, 15.5, (0, -1, 0)),  # the seam is behind
        (63.5, 15.5, (0, -1, 0)),
        (31.5, -0.5, (0, 0, 1)),  # the top border is up
        (31.5, 31.5, (0, 0, -1)),
    ],
)
def test_known_directions(x, y, direction):
    lonlat = sphere.pixel_to_lonlat(x, y, 64, 32)
    np.testing.assert_allclose(sphere.lonlat_to_direction(*lonlat), direction, atol=1e-12)


def test_directions_agree_with_py360convert():
    lon, lat = sphere.pixel_to_lonlat(*np.meshgrid(np.arange(64), np.arange(32)), 64, 32)
    theirs = uv2unitxyz(np.stack([lon, lat], axis=-1))  # x right, y up, z ahead
    ours = sphere.lonlat_to_direction(lon, lat)
    np.testing.assert_allclose(ours, theirs[..., [0, 2, 1]], atol=1e-6)


def test_pixels_survive_the_round_trip():
    x, y = np.meshgrid(np.arange(128), np.arange(64))
    direction = sphere.lonlat_to_direction(*sphere.pixel_to_lonlat(x, y, 128, 64))
    back = sphere.lonlat_to_pixel(*sphere.direction_to_lonlat(direction), 128, 64)
    np.testing.assert_allclose(back[0], x, atol=1e-9)
    np.testing.assert_allclose(back[1], y, atol=1e-9)
    column, row = sphere.nearest_pixel(*back, 128, 64)
    assert (column == x).all() and (row == y).all()


def test_columns_wrap_and_rows_are_clipped():
    column, row = sphere.nearest_pixel([-0.6, 63.6, 200], [-0.6, 31.6, 5.4], 64, 32)
    assert column.tolist() == [63, 0, 8]
    assert row.tolist() == [0, 31, 5]


@pytest.mark.parametrize("width", [2, 64, 4096])
def test_solid_angles_sum_to_the_sphere(width):
    angles = sphere.pixel_solid_angles(width, width // 2)
    assert angles.shape == (width // 2,)
    assert angles.sum() * width == pytest.approx(4 * np.pi, rel=1e-12)


def test_solid_angle_of_a_polar_cap():
    cap = sphere.pixel_solid_angles(256, 128)[:32].sum() * 256  # down to latitude 45°
    assert cap == pytest.approx(2 * np.pi * (1 - np.cos(np.pi / 4)))


@given(LONGITUDES, LATITUDES, LONGITUDES, LATITUDES)
def test_rotation_to_centre(lon, lat, other_lon, other_lat):
    rotation = sphere.rotation_to_centre(lon, lat)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    centre = sphere.lonlat_to_direction(lon, lat)
    np.testing.assert_allclose(rotation @ centre, [0, 1, 0], atol=1e-12)
    # no roll: a direction above the centre stays above it
    above = sphere.lonlat_to_direction(lon, lat + 0.1)
    np.testing.assert_allclose(rotation @ above, [0, np.cos(0.1), np.sin(0.1)], atol=1e-12)
    # angles between directions stay the same
    other = sphere.lonlat_to_direction(other_lon, other_lat)
    assert (rotation @ other)[1] == pytest.approx(float(centre @ other), abs=1e-12)
    both = np.stack([centre, other])
    np.testing.assert_allclose(sphere.rotate(both, rotation), both @ rotation.T, atol=1e-15)


@given(st.lists(st.booleans(), min_size=1, max_size=24))
def test_largest_empty_gap_is_the_longest_run(occupied):
    width = len(occupied)
    start, length = sphere.largest_empty_gap(np.array(occupied))

    def run_from(first):  # by definition
        return next((i for i in range(width) if occupied[(first + i) % width]), width)

    assert length == max(run_from(first) for first in range(width))
    assert run_from(start) == length


def test_gap_at_the_seam_is_preferred():
    assert sphere.largest_empty_gap(np.array([0, 1, 0, 0, 1, 0], bool)) == (5, 2)


@given(st.integers(0, 9), st.integers(0, 30))
def test_take_columns_wraps(start, count):
    array = np.arange(30).reshape(3, 10)
    expected = np.tile(np.roll(array, -start, axis=1), 4)[:, :count]
    np.testing.assert_array_equal(sphere.take_columns(array, start, count), expected)
