"""Confidence intervals of means over instances whose scenes are few.

Instances of a panorama, panoramas of a scene and frames of a video share light, style and what the
model makes of them: they are no independent draws. What is drawn are scenes. The interval is
Student's with one degree of freedom less than scenes, around the mean over instances (as in the
paper), with the standard error that is robust to scenes:

    u_g = sum of (value - mean) over the instances of scene g, divided by their number in all
    variance of the mean = G / (G - 1) * sum of u_g² over the G scenes

A bootstrap of scenes with percentiles is too narrow when scenes are few: of 5 scenes its "95 %"
cover the truth in four of five cases (a test measures it).

Two methods on the same instances are compared by their differences per instance, whose interval is
much narrower than either method's where both fail on the same instances.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over instances and its interval.

    Attributes:
        mean: In the values' unit.
        low: Lower end of the interval, NaN with a single scene.
        high: Upper end, or NaN.
        instances: How many were averaged.
        scenes: How many scenes (or other clusters) hold these instances.
    """

    mean: float
    low: float
    high: float
    instances: int
    scenes: int


def estimate(
    values: NDArray[np.float64],
    clusters: NDArray[np.integer],
    chosen: NDArray[np.bool_] | None = None,
) -> Estimate | None:
    """The mean of the chosen instances' values; None if none is chosen.

    Args:
        values: (N,) one per instance: scores, or differences of two methods' scores.
        clusters: (N,) which scene each instance is of.
        chosen: (N,) bool, the subset; all by default.
    """
    if chosen is not None:
        values, clusters = values[chosen], clusters[chosen]
    return reweighted(values, clusters, np.zeros(len(values), int), {0: 1.0})


def reweighted(
    values: NDArray[np.float64],
    clusters: NDArray[np.integer],
    strata: NDArray,
    shares: Mapping,
) -> Estimate | None:
    """The mean that a benchmark with another mix of strata would have.

    Args:
        values, clusters: As for `estimate`.
        strata: (N,) the stratum of each instance, such as its size class.
        shares: Stratum: its share in the other benchmark; they are scaled to a sum of 1.

    Returns:
        None if a stratum has no instance.
    """
    total = sum(shares.values())
    mean, influence = 0.0, np.zeros(len(values))
    for stratum, share in shares.items():
        within = strata == stratum
        count = np.count_nonzero(within)
        if not count:
            return None
        average = float(np.mean(values[within]))
        mean += share / total * average
        influence[within] = share / total * (values[within] - average) / count
    sums = np.bincount(np.unique(clusters, return_inverse=True)[1], influence)
    scenes, low, high = len(sums), float("nan"), float("nan")
    if scenes > 1:
        error = np.sqrt(scenes / (scenes - 1) * np.sum(sums**2))
        half = float(student.ppf((1 + CONFIDENCE) / 2, scenes - 1) * error)
        low, high = mean - half, mean + half
    return Estimate(mean, low, high, len(values), scenes)
