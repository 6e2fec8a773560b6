"""The picture at the head of the card: a panorama, and below it its instance masks."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.categories import FIXTURES
from pipeline.shards.reader import ShardReader, decode_ids, decode_image

MAX_WIDTH = 1600
"""Width of the picture in pixels; a smaller panorama is not enlarged."""

FURNITURE = 5
"""A furnished room has at least this many objects besides windows, doors and ceiling lights."""

QUALITY = 88
"""JPEG quality; the file has about 400 kB at the full width."""

GAP = 8
"""Height of the white band between the two halves, in pixels."""

Picture = NDArray[np.uint8]


def example_picture(shards: ShardReader) -> tuple[bytes, str]:
    """Draw the first panorama of a furnished room, or the first of all if no room is furnished.

    Returns:
        The JPEG file, and the panorama's image_id.
    """
    row = shards.row(_first_furnished(shards))
    picture, ids = decode_image(row["image"]), decode_ids(row["ids"])
    structure = {thing["id"] for thing in row["objects"] if thing["is_structure"]}
    annotated = {thing["id"] for thing in row["objects"]}
    top, bottom = _shrink(picture), _shrink(paint(picture, ids, annotated, structure))
    gap = np.full((GAP, top.shape[1], 3), 255, np.uint8)
    file = io.BytesIO()
    stacked = np.concatenate([top, gap, bottom])
    Image.fromarray(stacked).save(file, "jpeg", quality=QUALITY, subsampling=0, optimize=True)
    return file.getvalue(), row["image_id"]


def paint(
    picture: Picture, ids: NDArray[np.uint16], annotated: set[int], pale: set[int]
) -> Picture:
    """Paint each instance in its own colour over the grey picture, with a dark outline.

    Args:
        picture: (H, W, 3) uint8 RGB.
        ids: (H, W) uint16 instance ids.
        annotated: The ids to colour.
        pale: The ids among them that get a pale colour: walls, floors and other structure.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    table = np.full((2**16, 3), 40.0, np.float32)
    for order, label in enumerate(sorted(annotated)):
        hue = order * 0.618034 % 1.0  # the golden ratio separates neighbouring ids
        table[label] = 255 * np.array(
            colorsys.hsv_to_rgb(hue, 0.18, 0.72)
            if label in pale
            else colorsys.hsv_to_rgb(hue, (0.75, 0.55, 0.9)[order % 3], (0.95, 1.0, 0.8)[order % 3])
        )
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    shaded = table[ids] * (0.55 + 0.45 * grey[..., None])
    border = np.zeros(ids.shape, bool)
    border |= ids != np.roll(ids, 1, axis=1)  # columns are periodic
    border[1:] |= ids[1:] != ids[:-1]
    thickness = max(1, round(ids.shape[1] / MAX_WIDTH))
    lines = cv2.dilate(border.view(np.uint8), np.ones((thickness, thickness), np.uint8))
    shaded[lines > 0] *= 0.35
    return shaded.astype(np.uint8)


def _first_furnished(shards: ShardReader) -> int:
    columns = [f"objects.list.element.{name}" for name in ("category", "is_structure")]
    for index, row in enumerate(shards.annotations(columns)):
        if sum(map(_is_furniture, row["objects"])) >= FURNITURE:
            return index
    return 0


def _is_furniture(thing: Mapping[str, Any]) -> bool:
    return not thing["is_structure"] and thing["category"] not in FIXTURES


def _shrink(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    if width <= MAX_WIDTH:
        return picture
    size = (MAX_WIDTH, round(height * MAX_WIDTH / width))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
