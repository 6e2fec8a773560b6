"""A case as a picture: what was predicted, what is true, where was clicked."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.annotations.boxes import coco_box, wrapped_crop
from pipeline.sphere import take_columns
from sap_model.predict.overlay import CLICKS, PREDICTED

TRUE = (255, 255, 255)
"""Colour of the outline in RGB."""

SIDE = 360
"""Pixels of a picture's longer side, at least; larger cut-outs are reduced to it."""

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def case_picture(
    image: Picture, truth: Mask, prediction: Mask, clicks: Sequence[Sequence[int]]
) -> Picture:
    """Cut an object out of its panorama, across the seam where it lies there, and paint on it.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W), at least one pixel set; its outline is drawn in white.
        prediction: (H, W), filled in orange.
        clicks: [x, y, label] each.

    Returns:
        (h, w, 3) uint8 RGB with a longer side of `SIDE` pixels.
    """
    height, width = truth.shape
    either = truth | prediction
    x, y, w, h = wrapped_crop(either, True, coco_box(either) or (0, 0, 1, 1)).box
    margin = max(8, round(0.25 * max(w, h)))
    w = min(w + 2 * margin, width)
    x = (x - margin) % width if w < width else 0
    y, bottom = max(0, y - margin), min(height, y + h + margin)

    def cut(array: NDArray) -> NDArray:
        return np.ascontiguousarray(take_columns(array[y:bottom], x, w))

    scale = SIDE / max(w, bottom - y)
    size = max(1, round(w * scale)), max(1, round((bottom - y) * scale))
    picture = np.asarray(cv2.resize(cut(image), size, interpolation=cv2.INTER_AREA), np.uint8)
    filled = _resize(cut(prediction), size)
    picture[filled] = (picture[filled] // 2) + np.array(PREDICTED, np.uint8) // 2
    outline, _ = cv2.findContours(
        _resize(cut(truth), size).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(picture, outline, -1, (0, 0, 0), 3)
    cv2.drawContours(picture, outline, -1, TRUE, 1)
    for click_x, click_y, label in clicks:
        column, row = (click_x - x) % width, click_y - y
        if column < w and 0 <= row < bottom - y:
            centre = round((column + 0.5) * scale), round((row + 0.5) * scale)
            cv2.circle(picture, centre, 6, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(picture, centre, 4, CLICKS[int(label)], -1, cv2.LINE_AA)
    return picture


def _resize(mask: Mask, size: tuple[int, int]) -> Mask:
    grey = cv2.resize(mask.view(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(grey) >= 128
