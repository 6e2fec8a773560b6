"""A mask on its panorama for a person's eyes: the object tinted and outlined, clicks as dots."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sap_model.clicks import NEGATIVE, POSITIVE, Click

PREDICTED = (230, 120, 20)
CLICKS = {POSITIVE: (40, 200, 80), NEGATIVE: (230, 40, 60)}
"""Colours in RGB: the predicted mask; positive and negative clicks."""

WHITE = (255, 255, 255)

LINES = 1024
"""Panoramas of this width have an outline of one pixel, wider ones a thicker one in proportion."""

DOT = 3
"""Radius of a click's dot in the same panoramas, inside its white rim."""


def overlay(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], clicks: Sequence[Click]
) -> NDArray[np.uint8]:
    """Paint a mask and its clicks on a panorama.

    What lies on the seam goes on at the other border; the seam itself is no outline.

    Args:
        image: (H, W, 3) uint8 RGB; left as it is.
        mask: (H, W), tinted in orange; its outline of white, just outside of it.
        clicks: In panorama pixels; green dots on the object, red ones beside it.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    width = image.shape[1]
    line = max(1, round(width / LINES))
    painted = image.copy()
    painted[mask] = image[mask] // 2 + np.array(PREDICTED, np.uint8) // 2
    painted[outline(mask, line)] = WHITE
    radius = DOT * line
    reach = radius + 2 * line
    for x, y, label in clicks:
        x, y = round(x), round(y)
        # cut out, because OpenCV knows no seam
        top = max(0, y - reach)
        columns = np.arange(x - reach, x + reach + 1) % width
        dot = np.take(painted[top : y + reach + 1], columns, axis=1)
        cv2.circle(dot, (reach, y - top), radius + line, WHITE, -1, cv2.LINE_AA)
        cv2.circle(dot, (reach, y - top), radius, CLICKS[label], -1, cv2.LINE_AA)
        painted[top : y + reach + 1, columns] = dot
    return painted


def paint_labels(image: NDArray[np.uint8], labels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Paint a map of numbered masks on a panorama, in colours that tell neighbours apart.

    Args:
        image: (H, W, 3) uint8 RGB; left as it is.
        labels: (H, W), 0 for none; white lines lie between numbers, also across the seam.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    hues = np.arange(int(labels.max()) + 1) * 180 * 0.381966 % 180  # by the golden angle
    hsv = np.stack([hues, np.full_like(hues, 190), np.full_like(hues, 235)], axis=-1)
    colours = cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]
    inside = labels > 0
    painted = image.copy()
    painted[inside] = image[inside] // 2 + colours[labels[inside]] // 2
    line = max(1, round(image.shape[1] / LINES))
    padded = np.pad(labels, ((0, 0), (line, line)), mode="wrap")
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (line + 1, line + 1))
    edge = cv2.dilate(padded, kernel) != cv2.erode(padded, kernel)
    painted[edge[:, line:-line]] = WHITE
    return painted


def outline(mask: NDArray[np.bool_], line: int) -> NDArray[np.bool_]:
    """Pixels (H, W) outside of a mask (H, W) at most `line` pixels from it, also across the seam.

    >>> outline(np.array([[1, 0, 0, 0, 0, 0]], bool), 1).astype(int)
    array([[0, 1, 0, 0, 0, 1]])
    """
    padded = np.pad(mask, ((0, 0), (line, line)), mode="wrap").view(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * line + 1, 2 * line + 1))
    return cv2.dilate(padded, kernel)[:, line:-line].astype(bool) & ~mask
