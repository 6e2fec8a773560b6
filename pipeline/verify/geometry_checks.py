"""Checks of a row's geometry: pose, room, 3D boxes, and the depth that has to fit them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.categories import room_of_floor
from pipeline.geometry import (
    UprightBox,
    blender_pose,
    distance_to,
    in_polygon,
    opencv_pose,
    polygon_area,
    world_rays,
)
from pipeline.shards.schema import SEEN_POINTS
from pipeline.verify.findings import Report

SLACK = 0.05
"""Metres by which a surface may lie beside its box: Blender subdivides it again for a render."""

MOST_OUTSIDE = 0.1
"""Share of an object's pixels that may look past its box by more than that."""

LOOKED_AT = 64
"""Pixels of an object that are compared with its box."""

ROUNDING = 1e-3
"""Metres by which equal lengths may differ."""

Row = Mapping[str, Any]


def check_geometry(
    row: Row, ids: NDArray[np.uint16] | None, depth: NDArray[np.uint16] | None, report: Report
) -> None:
    """Report all errors in the 3D columns of a row.

    Args:
        row: The row.
        ids: (H, W) instance ids; None if they cannot be decoded.
        depth: (H, W) millimetres; None without.
        report: As for `check_row`.
    """
    camera = row["camera"]
    pose = camera["position"], camera["rotation_euler"]
    for name, expected in (
        ("to_world_opencv", opencv_pose(*pose)),
        ("to_world_blender", blender_pose(*pose)),
    ):
        if not _close(camera[name], expected, 1e-9):
            report(f"camera.{name} is not the pose of position and rotation_euler")
    boxes = {}
    for thing in row["objects"]:
        box = _checked_box(thing, camera["position"], report)
        if box is not None:
            boxes[thing["id"]] = box
    if ids is not None:
        _check_pixels(row, ids, depth, boxes, report)
    if row["room"] is not None:
        _check_room(row, boxes, report)


def _checked_box(thing: Row, position: list[float], report: Report) -> UprightBox | None:
    """The box of an object; None, with a finding, if it is none."""
    label, seen = thing["id"], thing["seen"]
    if seen is not None and not (0 <= seen <= 1 and (seen * SEEN_POINTS).is_integer()):
        report(f"seen is {seen}, not a share of {SEEN_POINTS} points", object=label)
    try:
        box = UprightBox.from_json(thing["box3d"])
        shapes = (box.centre.shape, box.size.shape, box.rotation.shape)
        finite = all(np.isfinite(part).all() for part in (box.centre, box.size, box.rotation))
        upright = _close(box.rotation.T @ box.rotation, np.eye(3), 1e-9) and _close(
            box.rotation[2], [0, 0, 1], 1e-9
        )
        sound = shapes == ((3,), (3,), (3, 3)) and finite and upright and (box.size >= 0).all()
        sound = sound and np.linalg.det(box.rotation) > 0
    except (ValueError, TypeError):
        sound = False
    if not sound:
        report("box3d is not an upright box", object=label)
        return None
    expected = distance_to(box.centre.tolist(), position)
    if not abs(thing["distance"] - expected) <= ROUNDING:
        report(f"distance is {thing['distance']}, by its box {expected}", object=label)
    return box


def _check_pixels(
    row: Row,
    ids: NDArray[np.uint16],
    depth: NDArray[np.uint16] | None,
    boxes: Mapping[int, UprightBox],
    report: Report,
) -> None:
    """Compare the pixels of each object with its box: their rays, and their depth."""
    pose = opencv_pose(row["camera"]["position"], row["camera"]["rotation_euler"])
    width = ids.shape[1]
    for label, places in _some_pixels(ids, boxes).items():
        y, x = np.divmod(places, width)
        rays = world_rays(x, y, width, pose)
        beside = ~boxes[label].meets(pose[:3, 3], rays, SLACK)
        if beside.mean() > MOST_OUTSIDE:
            text = f"{np.count_nonzero(beside)} of {len(places)} pixels look past its box3d"
            report(text, object=label)
        elif depth is not None:
            metres = depth[y, x] / 1000
            outside = ~boxes[label].holds(pose[:3, 3] + metres[:, None] * rays, SLACK)
            outside &= metres > 0
            if outside.mean() > MOST_OUTSIDE:
                text = f"depth of {np.count_nonzero(outside)} of {len(places)} pixels is outside"
                report(f"{text} of its box3d", object=label)


def _some_pixels(
    ids: NDArray[np.uint16], boxes: Mapping[int, UprightBox]
) -> dict[int, NDArray[np.int64]]:
    """Up to `LOOKED_AT` pixels of each object, spread over its mask, as flat indices."""
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable")
    labels = np.array(sorted(boxes), np.uint16)
    starts = np.searchsorted(flat, labels, "left", sorter=order)
    ends = np.searchsorted(flat, labels, "right", sorter=order)
    return {
        int(label): order[np.unique(np.linspace(start, end - 1, LOOKED_AT).astype(np.int64))]
        for label, start, end in zip(labels, starts, ends, strict=True)
        if end > start
    }


def _check_room(row: Row, boxes: Mapping[int, UprightBox], report: Report) -> None:
    room, camera = row["room"], row["camera"]
    name, kind = room_of_floor(camera["room"])
    if room["name"] != name or (kind is not None and room["kind"] != kind):
        report(f"room is {room['name']} ({room['kind']}), by its floor {name} ({kind})")
    x, y, z = camera["position"]
    floor, height = room["floor"], room["height"]
    if not (math.isfinite(floor) and floor < z < floor + height < math.inf):
        report(f"room.floor {floor} and height {height} do not fit the camera at {z}")
        return
    try:
        polygon = np.array(room["polygon"], np.float64).reshape(len(room["polygon"]), 2)
        sound = len(polygon) > 2 and np.isfinite(polygon).all() and polygon_area(polygon) > 0
    except (ValueError, TypeError):
        sound = False
    if not sound:
        report("room.polygon is not a polygon that goes counter-clockwise")
        return
    if not in_polygon([[x, y]], polygon, ROUNDING)[0]:
        report("room.polygon does not hold the camera")
    for thing in row["objects"]:
        box = boxes.get(thing["id"])
        if box is None:
            continue
        if thing["name"] == camera["room"]:
            corners = np.column_stack([polygon, np.full(len(polygon), floor)])
            if not box.holds(corners, SLACK).all():
                report("room.polygon and floor lie outside of the floor's box3d")
            elif np.any(np.ptp(box.to_local(corners)[:, :2], axis=0) < box.size[:2] - 2 * SLACK):
                report("room.polygon is smaller than the floor's box3d")
    ceilings = [
        boxes[thing["id"]]
        for thing in row["objects"]
        if thing["category"] == "ceiling" and thing["id"] in boxes
    ]
    offsets = [abs(floor + height - box.centre[2]) - box.size[2] / 2 for box in ceilings]
    if offsets and min(offsets) > SLACK:
        report(f"room.height is {height}; no ceiling's box3d is there")


def _close(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether nested lists hold these numbers."""
    try:
        values = np.array(found, np.float64)
    except (ValueError, TypeError):
        return False
    return values.shape == np.shape(expected) and bool(
        np.all(np.abs(values - np.asarray(expected)) <= tolerance)
    )
