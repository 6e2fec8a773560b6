"""The picture at the head of the card: a panorama above, its instance masks below."""

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
"""Pixels of the picture; a smaller panorama is not enlarged."""

FURNITURE = 5
"""A room is furnished from this many objects on, without its windows, doors and lamps."""

QUALITY = 88
"""Of the JPEG: about 400 KB at the full width."""

GAP = 8
"""White rows between the two halves, in pixels."""

Picture = NDArray[np.uint8]


def example(shards: ShardReader) -> tuple[bytes, str]:
    """The picture of the first panorama of a furnished scene, or of the first of all.

    Returns:
        The JPEG file, and the panorama's image_id.
    """
    row = shards.row(_first_furnished(shards))
    picture, ids = decode_image(row["image"]), decode_ids(row["ids"])
    structure = {thing["id"] for thing in row["objects"] if thing["is_structure"]}
    annotated = {thing["id"] for thing in row["objects"]}
    halves = [_smaller(picture), _smaller(paint(picture, ids, annotated, structure))]
    gap = np.full((GAP, halves[0].shape[1], 3), 255, np.uint8)
    file = io.BytesIO()
    both = np.concatenate([halves[0], gap, halves[1]])
    Image.fromarray(both).save(file, "jpeg", quality=QUALITY, subsampling=0, optimize=True)
    return file.getvalue(), row["image_id"]


def paint(
    picture: Picture, ids: NDArray[np.uint16], annotated: set[int], pale: set[int]
) -> Picture:
    """A colour for each instance over the picture in grey, with a dark line around it.

    Args:
        picture: (H, W, 3) uint8 RGB.
        ids: (H, W) instance ids.
        annotated: The ids to colour.
        pale: Those of them that get little colour: walls, floors and the like.
    """
    table = np.full((2**16, 3), 40.0, np.float32)
    for order, label in enumerate(sorted(annotated)):
        hue = order * 0.618034 % 1.0  # the golden ratio keeps neighbours in the list apart
        table[label] = 255 * np.array(
            colorsys.hsv_to_rgb(hue, 0.18, 0.72)
            if label in pale
            else colorsys.hsv_to_rgb(hue, (0.75, 0.55, 0.9)[order % 3], (0.95, 1.0, 0.8)[order % 3])
        )
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    shaded = table[ids] * (0.55 + 0.45 * grey[..., None])
    border = np.zeros(ids.shape, bool)
    border |= ids != np.roll(ids, 1, axis=1)  # the left and right border are neighbours
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


def _smaller(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    if width <= MAX_WIDTH:
        return picture
    size = (MAX_WIDTH, round(height * MAX_WIDTH / width))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
