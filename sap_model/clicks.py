"""The simulated user of the paper's protocol (section 5.2), on panoramas.

The first click goes to the point of the object that is farthest from its boundary. Each further
click corrects the prediction: of what was missed and what was added, the thicker region is clicked
where it is thickest, as missing or as surplus. "Thicker" means the larger distance to the region's
own boundary, not the larger area: the paper says "larger error region", and this is what the SAM
series' protocol does (RITM's clicker; `sample_one_point_from_error_center` in SAM2).

Distances know that the left and right border touch: `pipeline.annotations.click_point` cuts every
region out along its smallest periodic box, which also makes small errors cheap. The first and
last row are edges, as they are for SAM2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.annotations.click_point import click_mask

POSITIVE, NEGATIVE = 1, 0
"""SAM2's labels of points: this belongs to the object, this does not."""


class Click(NamedTuple):
    """A prompt: a pixel (x, y) of the panorama, and `POSITIVE` or `NEGATIVE`."""

    x: int
    y: int
    label: int


def first_click(truth: NDArray[np.bool_]) -> Click | None:
    """The first click on an object; None if its mask (H, W) is empty.

    It is the `click` that shards store of each object.
    """
    click = click_mask(truth)
    return click and Click(click.x, click.y, POSITIVE)


def correction_click(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Click | None:
    """The click that corrects a prediction; None if there is nothing to correct.

    Args:
        prediction: (H, W) bool, what the model gave for the clicks so far.
        truth: (H, W) bool, the object.

    Returns:
        A positive click where truth was missed or a negative one where it was exceeded, whichever
        lies deeper in its region; a negative one where both are equally deep, as in SAM2. SAM2
        clicks on pixel (0, 0) when the masks are equal; here that is None.

    >>> truth = np.zeros((16, 32), bool)
    >>> truth[4:9, 30:] = truth[4:9, :3] = True  # across the seam
    >>> correction_click(truth & False, truth)
    Click(x=0, y=6, label=1)
    >>> correction_click(truth, truth) is None
    True
    """
    missed = click_mask(truth & ~prediction)
    added = click_mask(prediction & ~truth)
    if missed and (added is None or missed.distance > added.distance):
        return Click(missed.x, missed.y, POSITIVE)
    return added and Click(added.x, added.y, NEGATIVE)
