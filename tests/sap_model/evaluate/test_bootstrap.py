"""Intervals against theory: on simulated data they cover the truth as often as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sap_model.evaluate.bootstrap import Bootstrap


def panoramas(seed, count=60, each=10, between=0.2, within=0.1):
    """Values of instances with a share common to their panorama: values and clusters (N,)."""
    draw = np.random.default_rng(seed)
    common = draw.normal(0.5, between, count)
    clusters = np.repeat(np.arange(count), each)
    return common[clusters] + draw.normal(0, within, count * each), clusters


@given(
    st.lists(st.tuples(st.integers(0, 7), st.floats(0, 1)), min_size=1, max_size=60),
    st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_the_interval_contains_the_mean(instances, seed):
    clusters, values = map(np.array, zip(*instances, strict=True))
    estimate = Bootstrap(clusters, resamples=500, seed=seed).mean(values)
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.instances == len(values) and estimate.panoramas == len(set(clusters))
    if estimate.panoramas > 1:
        assert estimate.low - 1e-9 <= estimate.mean <= estimate.high + 1e-9
    else:
        assert np.isnan(estimate.low) and np.isnan(estimate.high)


def test_the_interval_is_as_wide_as_the_clusters_make_it():
    values, clusters = panoramas(0, count=400)
    low, high = Bootstrap(clusters).mean(values)[1:3]
    per_panorama = values.reshape(400, 10).mean(axis=1)
    expected = 2 * 1.96 * per_panorama.std() / np.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.08)
    # instances taken for independent would give less than half of that
    alone = Bootstrap(np.arange(values.size)).mean(values)
    assert alone.high - alone.low < (high - low) / 2


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        values, clusters = panoramas(seed)
        estimate = Bootstrap(clusters, resamples=400, seed=seed).mean(values)
        covered += estimate.low <= 0.5 <= estimate.high
    assert 180 <= covered <= 199  # 95 % of 200, ± 3 standard deviations


def test_it_agrees_with_resampling_panoramas_one_by_one():
    values, clusters = panoramas(1, count=20, each=5)
    values, clusters = values[:-3], clusters[:-3]  # panoramas of unequal size
    draw, means = np.random.default_rng(0), []
    for _ in range(4000):
        drawn = draw.integers(0, 20, 20)
        means.append(np.concatenate([values[clusters == c] for c in drawn]).mean())
    estimate = Bootstrap(clusters, resamples=4000, seed=1).mean(values)
    assert [estimate.low, estimate.high] == pytest.approx(
        np.quantile(means, [0.025, 0.975]), abs=0.01
    )


def test_paired_differences_have_the_narrow_interval_of_the_difference():
    hard, clusters = panoramas(2, count=100)
    gain = 0.05 + np.random.default_rng(3).normal(0, 0.02, hard.size)
    bootstrap = Bootstrap(clusters)
    difference = bootstrap.mean((hard + gain) - hard)
    assert difference.low < 0.05 < difference.high
    assert difference.low > 0.04 and difference.high < 0.06
    loss = bootstrap.mean(hard - (hard + gain))
    assert loss[:3] == pytest.approx((-difference.mean, -difference.high, -difference.low))
    one, other = bootstrap.mean(hard), bootstrap.mean(hard + gain)
    assert one.high > other.low  # apart, the two could not be told apart


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    values, clusters = panoramas(4)
    assert Bootstrap(clusters, seed=0).mean(values) == Bootstrap(clusters, seed=0).mean(values)
    assert Bootstrap(clusters, seed=0).mean(values) != Bootstrap(clusters, seed=1).mean(values)


def test_a_subset_is_averaged_over_the_panoramas_that_have_it():
    values, clusters = panoramas(5, count=30)
    chosen = clusters < 6
    estimate = Bootstrap(clusters).mean(values, chosen)
    assert estimate.panoramas == 6 and estimate.instances == 60
    assert estimate.mean == pytest.approx(values[:60].mean())
    assert estimate.low < estimate.mean < estimate.high
    assert Bootstrap(clusters).mean(values, clusters < 0) is None
    assert Bootstrap(np.array([], int)).mean(np.array([])) is None
