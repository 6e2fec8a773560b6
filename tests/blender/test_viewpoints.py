"""Where the camera may stand, against the exact distances of a room with spheres."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def test_viewpoints_are_free_apart_and_at_eye_height(viewpoints):
    chosen = viewpoints("furnished")
    positions = np.array(chosen["positions"])
    assert len(positions) == 4
    assert chosen["rooms"] == ["room_floor"]
    assert (chosen["clearance"], chosen["eye_height"]) == (0.35, [1.0, 1.8])
    assert np.all((positions[:, 2] >= 1.0) & (positions[:, 2] <= 1.8))
    assert np.all(np.abs(positions[:, :2]) <= chosen["half_room"] - 0.35 + 1e-6)
    for x, y, z, radius in chosen["balls"]:
        gap = np.linalg.norm(positions - (x, y, z), axis=1) - radius
        assert np.all(gap >= 0.35 - 0.01)
    for one, two in combinations(positions, 2):
        assert np.linalg.norm(one - two) >= chosen["min_distance"]


def test_no_wall_fills_a_quarter_of_the_sphere(viewpoints):
    chosen = viewpoints("furnished")
    for x, y, z in chosen["positions"]:
        for across, along in ((x, y), (-x, y), (y, x), (-y, x)):
            distance = chosen["half_room"] - across
            corners = [
                (chosen["half_room"] - side * along, half)
                for side in (-1, 1)
                for half in (3.0 - z, z)
            ]
            wall = sum(_solid_angle(a, b, distance) for a, b in corners)
            assert wall <= 4 * np.pi * (0.25 + 0.01)  # rays count to a percent


def _solid_angle(a: float, b: float, distance: float) -> float:
    """Steradian of a rectangle a × b seen from `distance` in front of one of its corners."""
    return np.arctan(a * b / (distance * np.sqrt(a**2 + b**2 + distance**2)))


def test_the_horizon_is_level(viewpoints):
    for x, y, _ in viewpoints("furnished")["rotations"]:
        assert np.isclose(x, np.pi / 2) and y == 0


def test_an_empty_room_is_refused(viewpoints):
    assert viewpoints("empty") == {"refused": "no viewpoint for a panorama: no furnished room"}


def test_a_room_without_a_free_place_is_refused_with_the_reason(viewpoints):
    refused = viewpoints("crowded")["refused"]
    assert "× too close to something" in refused or "× no free floor below" in refused
