"""Poses, 3D boxes, seen shares, the room and depth fit each other in a rendered room."""

from __future__ import annotations

import json
import os
from itertools import permutations

import cv2
import numpy as np
import pytest

from pipeline.geometry import opencv_pose, project, world_points
from pipeline.sphere import nearest_pixel

from .conftest import make
from .truth import GEOMETRY_SPHERES, GEOMETRY_VIEWS

WIDTH = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make("geometry", tmp_path_factory.mktemp("geometry"))


@pytest.fixture(scope="module")
def about(folder):
    return json.loads((folder / "geometry.json").read_text())


def read(folder, view, name):
    os.environ["OPENCV_IO_ENABLE_OPENEXR"] = "1"
    return cv2.imread(str(folder / str(view) / name), cv2.IMREAD_UNCHANGED)


def test_boxes_are_those_of_the_spheres(about):
    for name, (centre, radius) in GEOMETRY_SPHERES.items():
        box = about["boxes"][str(about["ids"][name])]
        assert box["centre"] == pytest.approx(centre, abs=2e-3)
        assert box["size"] == pytest.approx([2 * radius] * 3, abs=4e-3)
    floor = about["boxes"][str(about["ids"]["room_floor"])]
    assert (floor["centre"], floor["size"]) == ([0, 0, 0], [8, 8, 0])


def test_seen_share_is_that_of_the_cap_in_front(about):
    """A sphere of radius r at distance d shows (1 - r / d) / 2 of its surface."""
    for view, shares in zip(GEOMETRY_VIEWS, about["seen"], strict=True):
        (centre, radius) = GEOMETRY_SPHERES["big"]
        distance = np.linalg.norm(np.subtract(centre, view["position"]))
        expected = (1 - radius / distance) / 2
        assert shares[str(about["ids"]["big"])] == pytest.approx(expected, abs=0.05)
    first = about["seen"][0]
    assert first[str(about["ids"]["behind"])] == 0
    assert 0.02 < first[str(about["ids"]["half"])] < 0.4


def test_room_is_the_square_under_the_camera(about):
    for layout in about["layouts"]:
        assert (layout["name"], layout["kind"]) == ("room_floor", None)
        assert sorted(map(tuple, layout["polygon"])) == [(-4, -4), (-4, 4), (4, -4), (4, 4)]
        assert (layout["floor"], layout["height"]) == (0, pytest.approx(3, abs=1e-3))


@pytest.mark.parametrize(("one", "two"), permutations(range(3), 2))
def test_depth_of_one_panorama_lands_on_the_surfaces_of_another(folder, one, two):
    poses = [opencv_pose(view["position"], view["rotation_euler"]) for view in GEOMETRY_VIEWS]
    y, x = np.mgrid[: WIDTH // 2, :WIDTH]
    points = world_points(x, y, read(folder, one, "depth.exr"), WIDTH, poses[one])
    u, v, expected = project(points, WIDTH, poses[two])
    found = cv2.remap(
        np.pad(read(folder, two, "depth.exr"), ((0, 0), (1, 1)), mode="wrap"),
        (u + 1).astype(np.float32),
        v.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    ids = [read(folder, view, "ids.png") for view in (one, two)]
    column, row = nearest_pixel(u, v, WIDTH, WIDTH // 2)
    seen = ids[1][row, column]
    both = (ids[0] == seen) & (abs(found - expected) < 0.3)  # else something stands before it
    assert both.mean() > 0.5
    assert np.median(abs(found - expected)[both]) < 0.01


def test_points_of_a_sphere_lie_on_it(folder, about):
    for number, view in enumerate(GEOMETRY_VIEWS):
        pose = opencv_pose(view["position"], view["rotation_euler"])
        y, x = np.nonzero(read(folder, number, "ids.png") == about["ids"]["big"])
        depth = read(folder, number, "depth.exr")[y, x]
        (centre, radius) = GEOMETRY_SPHERES["big"]
        points = world_points(x, y, depth, WIDTH, pose)
        errors = abs(np.linalg.norm(points - centre, axis=1) - radius)
        assert np.median(errors) < 0.002 and len(errors) > 300


def test_albedo_is_the_colour_of_the_material(folder, about):
    ids, albedo = read(folder, 0, "ids.png"), read(folder, 0, "albedo.exr")
    inside = cv2.erode((ids == about["ids"]["big"]).astype(np.uint8), np.ones((5, 5))) > 0
    # the coat of a dielectric, which reflects the rest, leaves 0.95 of it
    assert np.allclose(albedo[inside], 0.95 * np.array([0.2, 0.3, 0.7]), atol=0.01)  # BGR
