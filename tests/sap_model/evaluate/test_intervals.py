"""Intervals against theory: on simulated scenes they cover the truth as often as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sap_model.evaluate.intervals import estimate, reweighted


def scenes(seed, count=60, each=10, between=0.2, within=0.1):
    """Values of instances with a share common to their scene: values and clusters (N,)."""
    draw = np.random.default_rng(seed)
    common = draw.normal(0.5, between, count)
    clusters = np.repeat(np.arange(count), each)
    return common[clusters] + draw.normal(0, within, count * each), clusters


def percentile_bootstrap(values, clusters, seed, resamples=400):
    """What the evaluator did before: scenes drawn with replacement, the middle 95 % of means."""
    count = clusters.max() + 1
    weights = np.random.default_rng(seed).multinomial(count, [1 / count] * count, resamples)
    means = weights @ np.bincount(clusters, values) / (weights @ np.bincount(clusters))
    return np.quantile(means, [0.025, 0.975])


@given(st.lists(st.tuples(st.integers(0, 7), st.floats(0, 1)), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_interval_contains_the_mean(instances):
    clusters, values = map(np.array, zip(*instances, strict=True))
    found = estimate(values, clusters)
    assert found.mean == pytest.approx(values.mean())
    assert found.instances == len(values)
    assert found.scenes == len(set(clusters))
    if found.scenes > 1:
        assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    else:
        assert np.isnan(found.low) and np.isnan(found.high)


@pytest.mark.parametrize("count", [3, 5, 12, 60])
def test_interval_covers_the_truth_as_often_as_it_says(count):
    covered = before = 0
    for seed in range(400):
        values, clusters = scenes(seed, count)
        found = estimate(values, clusters)
        covered += found.low <= 0.5 <= found.high
        low, high = percentile_bootstrap(values, clusters, seed, 200)
        before += low <= 0.5 <= high
    assert abs(covered - 380) < 3.5 * np.sqrt(400 * 0.95 * 0.05)
    if count <= 5:
        assert before < 350, "percentiles of a bootstrap are too narrow for few scenes"


def test_interval_of_equal_scenes_is_students():
    """Where all scenes have equally many instances, it is the t interval of their means."""
    values, clusters = scenes(1, count=7)
    means = values.reshape(7, 10).mean(axis=1)
    low, high = stats.t.interval(0.95, 6, means.mean(), stats.sem(means))
    assert estimate(values, clusters)[1:3] == pytest.approx((low, high))


def test_paired_differences_have_the_narrow_interval_of_the_difference():
    hard, clusters = scenes(2, count=100)
    gain = 0.05 + np.random.default_rng(3).normal(0, 0.02, hard.size)
    difference = estimate((hard + gain) - hard, clusters)
    assert 0.04 < difference.low < 0.05 < difference.high < 0.06
    loss = estimate(hard - (hard + gain), clusters)
    assert loss[:3] == pytest.approx((-difference.mean, -difference.high, -difference.low))
    one, other = estimate(hard, clusters), estimate(hard + gain, clusters)
    assert one.high > other.low, "single intervals overlap"


def test_subsets_are_averaged_over_the_scenes_that_have_them():
    values, clusters = scenes(5, count=30)
    found = estimate(values, clusters, clusters < 6)
    assert (found.scenes, found.instances) == (6, 60)
    assert found.mean == pytest.approx(values[:60].mean())
    assert estimate(values, clusters, clusters < 0) is None
    assert estimate(np.array([]), np.array([], int)) is None


def test_reweighted_means_are_those_of_the_other_mix():
    draw = np.random.default_rng(0)
    strata = draw.choice(["small", "large"], 500, p=[0.9, 0.1])
    clusters = draw.integers(0, 25, 500)
    values = np.where(strata == "small", 0.2, 0.8) + draw.normal(0, 0.05, 500)
    mix = {"small": 25.0, "large": 75.0}
    found = reweighted(values, clusters, strata, mix)
    means = {name: values[strata == name].mean() for name in mix}
    assert found.mean == pytest.approx(0.25 * means["small"] + 0.75 * means["large"])
    # large objects decide, of which there are few: the error is mostly theirs
    error = 0.75 * 0.05 / np.sqrt((strata == "large").sum())
    assert (found.high - found.low) / 2 == pytest.approx(2.06 * error, rel=0.35)
    assert reweighted(values, clusters, strata, mix | {"medium": 1.0}) is None
    own = {name: (strata == name).mean() for name in mix}
    raw = estimate(values, clusters)
    assert reweighted(values, clusters, strata, own).mean == pytest.approx(raw.mean)
