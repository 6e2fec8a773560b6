"""What the analytic scene of spheres holds; also for the tests, which must not load Blender."""

from __future__ import annotations

import math

WIDTH = 1024
DISTANCE = 4.0

SPHERES = {
    # name: (longitude, latitude in degrees, radius in metres), all DISTANCE metres away
    "front": (0.0, 0.0, 0.8),
    "seam": (180.0, 10.0, 1.0),
    "right": (90.0, -25.0, 0.3),
    "left": (-100.0, 40.0, 0.5),
    "top": (0.0, 90.0, 0.9),
    "bottom": (45.0, -80.0, 1.2),
}
CAMERA = {"position": [0.0, 0.0, 0.0], "rotation_euler": [math.pi / 2, 0.0, 0.0]}

GEOMETRY_SPHERES = {
    # name: (centre, radius in metres); the first view sees nothing of the second, half of the third
    "big": ((0.0, 2.0, 1.0), 0.8),
    "behind": ((0.0, 3.2, 1.0), 0.2),
    "half": ((1.15, 3.2, 1.0), 0.2),
}
GEOMETRY_VIEWS = [
    {"position": [0.0, -1.0, 1.0], "rotation_euler": [math.pi / 2, 0.0, 0.0]},
    {"position": [1.5, 1.0, 1.4], "rotation_euler": [math.pi / 2, 0.0, 2.0]},
    {"position": [-2.0, 3.0, 1.7], "rotation_euler": [math.pi / 2, 0.0, -1.0]},
]
"""Panoramas of these spheres in the room of `pipeline.blender.spheres`."""


def angular_radius(name: str) -> float:
    """Radius in radians of the disc that a sphere covers as seen from the camera."""
    return math.asin(SPHERES[name][2] / DISTANCE)
