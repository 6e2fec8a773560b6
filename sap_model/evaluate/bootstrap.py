"""Confidence intervals of means over instances, by resampling panoramas.

Instances of a panorama share its light, its style and what the model makes of them, so they are no
independent draws: whole panoramas are drawn with replacement and all their instances counted as
often as they are drawn (cluster bootstrap). Resampling instances would give intervals that are too
narrow. The mean stays the mean over instances, as in the paper, not over panoramas.

Two methods on the same instances are compared by their differences per instance, whose interval is
much narrower than either method's own where they fail on the same instances (paired bootstrap).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Another seed then moves the ends of an interval by about 1.5 % of its width (of normal means)."""
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over instances and its interval.

    Attributes:
        mean: In the values' unit.
        low: Lower end of the interval, NaN where it cannot be told: with one panorama.
        high: Upper end, or NaN.
        instances: How many were averaged.
        panoramas: How many of them, or of whatever the clusters are, hold these instances.
    """

    mean: float
    low: float
    high: float
    instances: int
    panoramas: int


class Bootstrap:
    """The resamples of a benchmark: drawn once, the same for every method and subset.

    Args:
        clusters: (N,) int, the cluster of each instance, numbered from 0 to C - 1.
        resamples: How many resamples are drawn; they take resamples × C × 8 bytes.
        seed: Of the draws.
    """

    def __init__(
        self, clusters: NDArray[np.integer], resamples: int = RESAMPLES, seed: int = 0
    ) -> None:
        self.clusters = np.asarray(clusters, np.int64)
        self.count = int(self.clusters.max()) + 1 if self.clusters.size else 0
        self.resamples, self.seed = resamples, seed
        self._weights = np.zeros((resamples, self.count))  # how often each cluster was drawn
        if self.count:
            shares = np.full(self.count, 1 / self.count)
            draw = np.random.default_rng(seed)
            self._weights += draw.multinomial(self.count, shares, resamples)

    def mean(
        self, values: NDArray[np.float64], chosen: NDArray[np.bool_] | None = None
    ) -> Estimate | None:
        """The mean of the chosen instances' values; None if none is chosen.

        The interval holds the middle 95 % of the resamples' means (percentile method). Resamples
        without any chosen instance have no mean and are left out.

        Args:
            values: (N,) one per instance: scores, or differences of two methods' scores.
            chosen: (N,) bool, the subset; all by default.
        """
        clusters = self.clusters
        if chosen is not None:
            values, clusters = values[chosen], clusters[chosen]
        if not values.size:
            return None
        totals = np.bincount(clusters, values, self.count)
        counts = np.bincount(clusters, minlength=self.count)
        panoramas = int(np.count_nonzero(counts))
        low = high = float("nan")
        if panoramas > 1:
            drawn = self._weights @ counts
            some = drawn > 0
            means = (self._weights @ totals)[some] / drawn[some]
            outside = (1 - CONFIDENCE) / 2
            low, high = (float(end) for end in np.quantile(means, [outside, 1 - outside]))
        return Estimate(float(np.mean(values)), low, high, int(values.size), panoramas)
