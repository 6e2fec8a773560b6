"""Poses and boxes against Blender's definition of Euler angles, and over random poses."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry import (
    UprightBox,
    blender_pose,
    in_polygon,
    opencv_pose,
    polygon_area,
    project,
    upright_box,
    world_points,
    world_rays,
)
from pipeline.sphere import lonlat_to_direction, pixel_to_lonlat

ANGLES = st.tuples(*[st.floats(-math.pi, math.pi)] * 3)
PLACES = st.tuples(*[st.floats(-50, 50)] * 3)
WIDTH = 512


def turn(axis, angle):
    """Rotation about one axis, written down axis by axis."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array(
        {
            0: [[1, 0, 0], [0, c, -s], [0, s, c]],
            1: [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            2: [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        }[axis]
    )


@given(PLACES, ANGLES)
def test_pose_turns_around_x_then_y_then_z(position, euler):
    pose = blender_pose(position, euler)
    expected = turn(2, euler[2]) @ turn(1, euler[1]) @ turn(0, euler[0])
    assert np.allclose(pose[:3, :3], expected, atol=1e-11)
    assert pose[:3, 3].tolist() == list(position) and pose[3].tolist() == [0, 0, 0, 1]


@given(PLACES, ANGLES)
def test_opencv_looks_along_z_with_y_down(position, euler):
    blender, opencv = blender_pose(position, euler), opencv_pose(position, euler)
    assert np.allclose(opencv[:3, 0], blender[:3, 0])
    assert np.allclose(opencv[:3, 1:3], -blender[:3, 1:3])
    centre = world_rays((WIDTH - 1) / 2, (WIDTH / 2 - 1) / 2, WIDTH, opencv)
    assert np.allclose(centre, opencv[:3, 2], atol=1e-9)


def test_level_camera_sees_the_sphere_of_the_conventions():
    x, y = np.meshgrid(np.arange(64), np.arange(32))
    rays = world_rays(x, y, 64, opencv_pose((0, 0, 0), (math.pi / 2, 0, 0)))
    assert np.allclose(rays, lonlat_to_direction(*pixel_to_lonlat(x, y, 64, 32)), atol=1e-11)


@given(PLACES, ANGLES, st.floats(0, WIDTH - 1), st.floats(0, WIDTH / 2 - 1), st.floats(0.1, 60))
def test_projection_inverts_world_points(position, euler, x, y, depth):
    pose = opencv_pose(position, euler)
    point = world_points(x, y, depth, WIDTH, pose)
    found = project(point, WIDTH, pose)
    assert np.linalg.norm(point - position) == pytest.approx(depth)
    assert found[2] == pytest.approx(depth)
    again = world_points(*found, WIDTH, pose)
    assert np.allclose(again, point, atol=1e-6)


@given(st.floats(0, math.tau), PLACES, st.floats(0.1, 3), st.floats(0.1, 3))
def test_box_of_a_turned_cuboid_is_the_cuboid(angle, centre, length, height):
    size = np.array([length + 0.5, length, height])
    true = UprightBox(np.array(centre), size, turn(2, angle))
    box = upright_box(true.corners())
    assert np.allclose(box.centre, centre, atol=1e-3)
    assert np.allclose(sorted(box.size[:2]), sorted(size[:2]), rtol=2e-2)
    assert box.size[2] == pytest.approx(height, abs=1e-3)
    assert box.holds(true.corners(), 3e-2).all()
    assert np.allclose(box.rotation.T @ box.rotation, np.eye(3), atol=1e-9)


def test_round_things_are_parallel_to_the_world():
    angles = np.linspace(0, math.tau, 41)
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    assert np.array_equal(upright_box(ring).rotation, np.eye(3))


@pytest.mark.parametrize("points", [[[1, 2, 3]], [[0, 0, 0], [1, 1, 0]]])
def test_box_of_a_point_or_a_line_is_flat(points):
    box = upright_box(points)
    assert box.holds(points, 1e-3).all() and box.size.min() == 0


@given(st.integers(0, 10**6))
def test_ray_meets_a_box_where_points_of_it_lie_on_the_ray(seed):
    rng = np.random.default_rng(seed)
    box = UprightBox(rng.uniform(-2, 2, 3), rng.uniform(0.2, 2, 3), turn(2, rng.uniform(0, 6)))
    origin, ray = rng.uniform(-4, 4, 3), rng.normal(size=3)
    on_ray = origin + np.linspace(0, 20, 20001)[:, None] * ray / np.linalg.norm(ray)
    hit = box.meets(origin, ray)
    assert hit or not box.holds(on_ray).any()
    assert not hit or box.holds(on_ray, 2e-3).any()


def test_polygons():
    square = [[0, 0], [2, 0], [2, 1], [0, 1]]
    assert (polygon_area(square), polygon_area(square[::-1])) == (2.0, -2.0)
    inside = in_polygon([[1, 0.5], [3, 0.5], [2.05, 0.5]], square, slack=0.1)
    assert inside.tolist() == [True, False, True]
