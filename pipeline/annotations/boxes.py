"""Boxes of an instance in a panorama: COCO's, one that may cross the seam, and a spherical box.

An instance is cut out of the panorama once, along its smallest box on the periodic columns
(`WrappedCrop`); everything else is computed from this crop, never from the full frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.sphere import (
    Floats,
    direction_to_lonlat,
    largest_empty_gap,
    lonlat_to_direction,
    lonlat_to_pixel,
    nearest_pixel,
    pixel_to_lonlat,
    rotate,
    rotation_to_centre,
    take_columns,
)

Box = tuple[int, int, int, int]
"""[x, y, w, h] in integer pixels: column and row of the top left pixel, width and height."""

ANGLE_DIGITS = 9
"""Angles in radians are rounded to this many decimals before comparisons, because the last bits of
sines differ between processors and a seed must give the same boxes on all of them. A pixel of an
8192-pixel-wide panorama is 8e-4."""

CLEARLY_SMALLER = 1e-8
"""A later candidate box replaces an earlier one if it is smaller by this many steradians."""

AT_POLE = 1e-6
"""Within this distance of a pole, in radians, a centre's longitude is undefined."""


@dataclass(frozen=True)
class WrappedCrop:
    """One instance, cut out of a panorama along its wrapped box.

    Attributes:
        mask: (h, w) bool, at least one pixel set. If w is the panorama's width, the instance
            occupies every column, x is 0 and column w - 1 is the neighbour of column 0.
        x: Panorama column of mask[:, 0]; column i of the crop is (x + i) modulo width.
        y: Panorama row of mask[0].
        width: Panorama width in pixels.
        height: Panorama height in pixels.
    """

    mask: NDArray[np.bool_]
    x: int
    y: int
    width: int
    height: int

    @property
    def box(self) -> Box:
        """The wrapped box [x, y, w, h]: x in [0, width), x + w may exceed the width."""
        return self.x, self.y, self.mask.shape[1], self.mask.shape[0]

    @property
    def is_periodic(self) -> bool:
        """Whether every column is occupied, so that the crop has no left and right edge."""
        return self.mask.shape[1] == self.width


def coco_box(mask: NDArray[np.bool_]) -> Box | None:
    """COCO's bbox of a mask (H, W), as pycocotools' `toBbox` gives it; None for an empty mask."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    return (x, y, w, h) if w else None


def wrapped_crop(labels: NDArray, label: int, bbox: Box) -> WrappedCrop:
    """Cut the pixels equal to `label` out of a panorama along their smallest periodic box.

    Args:
        labels: (H, W) ids, or a bool mask with label True.
        label: The instance's id; it must occur.
        bbox: The instance's COCO bbox, which bounds the search.
    """
    height, width = labels.shape
    x, y, w, h = bbox
    rows = labels[y : y + h]
    if w <= width // 2:  # the gap outside the box is the largest gap
        return WrappedCrop(rows[:, x : x + w] == label, x, y, width, height)
    mask = rows == label
    start, gap = largest_empty_gap(mask.any(axis=0))
    x = (start + gap) % width
    return WrappedCrop(take_columns(mask, x, width - gap), x, y, width, height)


def crosses_seam(crop: WrappedCrop) -> bool:
    """Whether pixels of the instance touch (8-neighbourhood) across the left and right border."""
    w = crop.mask.shape[1]
    first, last = -crop.x % crop.width, (-crop.x - 1) % crop.width
    if first >= w or last >= w:
        return False
    left, right = crop.mask[:, first], crop.mask[:, last]
    return bool(
        (left & right).any() or (left[1:] & right[:-1]).any() or (left[:-1] & right[1:]).any()
    )


def touches_pole(crop: WrappedCrop) -> bool:
    """Whether a pixel of the instance lies in the panorama's first or last row."""
    return crop.y == 0 or crop.y + crop.mask.shape[0] == crop.height


def bfov(crop: WrappedCrop) -> tuple[float, float, float, float]:
    """Spherical box [longitude, latitude, horizontal, vertical] in degrees.

    Rotate the sphere so that the box's centre is at longitude and latitude 0, without roll. The
    instance then lies within ± horizontal / 2 of longitude and ± vertical / 2 of latitude (the
    "bounding field of view" of spherical object detection). The search moves the centre to the
    middle of the extents until it converges, and keeps the box of smallest solid angle among all
    centres visited. The box contains the instance and is nearly the smallest; at most it is
    360 × 180. Latitudes are those of pixel corners, so next to the rotated frame's poles half a
    pixel may lie outside.

    A disc of radius r < 90° around (lon, lat) has the box [lon, lat, 2r, 2r], anywhere on the
    sphere. A band of walls between latitudes -20° and 20° has [0, 0, 360, 40].

    Returns:
        longitude in [-180, 180), latitude, horizontal, vertical; rounded to 1e-4 degrees, which
        is 1/440 of a pixel even at a width of 8192.
    """
    edges = _outline(crop)
    smallest, best = np.inf, (0.0, 0.0, 2 * np.pi, np.pi)
    for lon, lat in _first_centres(crop):
        for _ in range(12):
            rotation = rotation_to_centre(lon, lat)
            west, east, south, north = _extents(edges, crop, rotation)
            horizontal = min(2 * max(-west, east), 2 * np.pi)
            vertical = 2 * max(-south, north)
            solid_angle = 2 * horizontal * np.sin(vertical / 2)
            if solid_angle < smallest - CLEARLY_SMALLER:
                smallest, best = solid_angle, (lon, lat, horizontal, vertical)
            shift = (west + east) / 2, (south + north) / 2
            if max(map(abs, shift)) < 0.05 * np.pi / crop.height:  # a twentieth of a pixel
                break
            middle = direction_to_lonlat(rotate(lonlat_to_direction(*shift), rotation.T))
            next_lon, lat = (round(float(angle), ANGLE_DIGITS) for angle in middle)
            if np.pi / 2 - abs(lat) > AT_POLE:
                lon = next_lon
    best = ((best[0] + np.pi) % (2 * np.pi) - np.pi, *best[1:])
    longitude, latitude, horizontal, vertical = (round(float(a), 4) for a in np.degrees(best))
    return (-180.0 if longitude == 180 else longitude), latitude, horizontal, vertical


def _first_centres(crop: WrappedCrop) -> list[tuple[float, float]]:
    """Start points (lon, lat), in radians, of the search for the box's centre.

    The first is the middle of the wrapped box, on the horizon, where the box of a band around the
    camera is smallest. An instance that touches a pole is also tried from that pole. An instance
    in every column has no middle: the mean longitude of its pixels is used instead, or 0 if they
    are evenly spread.
    """
    if crop.is_periodic:
        pixels = np.count_nonzero(crop.mask, axis=0)
        columns, _ = pixel_to_lonlat(np.arange(crop.width), 0, crop.width, crop.height)
        east = math.fsum(pixels * np.sin(columns))
        north = math.fsum(pixels * np.cos(columns))
        evenly_spread = np.hypot(east, north) < 1e-6 * pixels.sum()
        lon = 0.0 if evenly_spread else float(np.arctan2(east, north))
    else:
        middle = crop.x + (crop.mask.shape[1] - 1) / 2
        lon = float(pixel_to_lonlat(middle, 0, crop.width, crop.height)[0])
    centres = [(lon, 0.0)]
    if crop.y == 0:
        centres.append((lon, np.pi / 2))
    if crop.y + crop.mask.shape[0] == crop.height:
        centres.append((lon, -np.pi / 2))
    return centres


def _outline(crop: WrappedCrop) -> Floats:
    """Pixel edges between an instance and its surroundings: directions of both ends, (N, 2, 3)."""
    # one more column on each side: the opposite column of a periodic crop, otherwise empty
    sides = (0, 0), (1, 1)
    columns = np.pad(crop.mask, sides, mode="wrap" if crop.is_periodic else "constant")
    rows = np.pad(crop.mask, ((1, 1), (0, 0)))
    upright_y, upright_x = np.nonzero(columns[:, 1:] != columns[:, :-1])
    level_y, level_x = np.nonzero(rows[1:] != rows[:-1])
    x = np.concatenate([[upright_x, upright_x], [level_x, level_x + 1]], axis=1)
    y = np.concatenate([[upright_y, upright_y + 1], [level_y, level_y]], axis=1)
    # corner (x, y) of the pixel grid lies half a pixel up and left of pixel centre (x, y)
    lon, lat = pixel_to_lonlat(crop.x + x - 0.5, crop.y + y - 0.5, crop.width, crop.height)
    return np.moveaxis(lonlat_to_direction(lon, lat), 0, 1)


def _extents(
    edges: Floats, crop: WrappedCrop, rotation: Floats
) -> tuple[float, float, float, float]:
    """West, east, south and north limits of an instance in a rotated frame, in radians.

    Every meridian through an instance either crosses its outline or ends in a pole that the
    instance covers, so the outline and the two poles suffice.
    """
    lon, lat = np.round(direction_to_lonlat(rotate(edges, rotation)), ANGLE_DIGITS)
    over_north = _covers(crop, rotation[2])
    over_south = _covers(crop, -rotation[2])
    north = np.pi / 2 if over_north else float(lat.max())
    south = -np.pi / 2 if over_south else float(lat.min())
    west, east = (-np.pi, np.pi) if over_north or over_south else _longitude_range(lon)
    return west, east, south, north


def _covers(crop: WrappedCrop, direction: Floats) -> bool:
    """Whether an instance covers a direction. It covers a pole if it fills the row there."""
    position = lonlat_to_pixel(*direction_to_lonlat(direction), crop.width, crop.height)
    column, row = nearest_pixel(*position, crop.width, crop.height)
    h, w = crop.mask.shape
    crop_x, crop_y = int(column - crop.x) % crop.width, int(row) - crop.y
    if not (0 <= crop_y < h and crop_x < w):
        return False
    if row in (0, crop.height - 1):
        return crop.is_periodic and bool(crop.mask[crop_y].all())
    return bool(crop.mask[crop_y, crop_x])


def _longitude_range(lon: Floats) -> tuple[float, float]:
    """The smallest range (west, east) that contains all arcs (N, 2) of longitude on the circle.

    Its middle lies in [-pi, pi); its ends may lie outside.
    """
    step = (lon[:, 1] - lon[:, 0] + np.pi) % (2 * np.pi) - np.pi  # each edge is the shorter arc
    west = lon[:, 0] + np.minimum(step, 0)
    turn = np.where(west < -np.pi, 2 * np.pi, 0.0)
    west, east = west + turn, lon[:, 0] + np.maximum(step, 0) + turn
    order = np.argsort(west)
    west, east = west[order], east[order]
    # how far earlier arcs reach before each arc starts; arcs across ± pi cover the beginning
    covered = np.maximum.accumulate(np.concatenate([[east.max() - 2 * np.pi], east[:-1]]))
    gaps = west - covered
    widest = int(np.argmax(gaps))
    if gaps[widest] < 1e-9:
        return -np.pi, np.pi
    start, extent = float(west[widest]), 2 * np.pi - float(gaps[widest])
    turn_back = 2 * np.pi if start + extent / 2 >= np.pi else 0.0
    return start - turn_back, start + extent - turn_back
