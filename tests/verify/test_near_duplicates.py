"""Near duplicates against the definition: all rolls are tried."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.verify import near_duplicates

SHAPE = near_duplicates.HEIGHT, near_duplicates.WIDTH


def random_picture(seed):
    """Noise of any contrast around any grey level."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.integers(0, 256, 2))
    return rng.integers(low, high + 1, SHAPE).astype(np.uint8)


PICTURES = st.integers(0, 2**32 - 1).map(random_picture)


def smallest_difference(one, other):
    rolls = (np.roll(one, roll, axis=1) for roll in range(near_duplicates.WIDTH))
    return min(float(np.sqrt(np.mean(np.square(rolled - other)))) for rolled in rolls)


@given(PICTURES, PICTURES)
def test_difference_is_that_of_the_best_roll(one, other):
    one, other = one.astype(np.float32), other.astype(np.float32)
    expected = smallest_difference(one.astype(float), other)
    assert near_duplicates.difference(one, other) == pytest.approx(expected, abs=0.05)


@given(PICTURES, PICTURES, st.integers(0, near_duplicates.WIDTH))
def test_magnitudes_ignore_rolls_and_bound_the_difference(one, other, roll):
    one, other = one.astype(np.float32), other.astype(np.float32)
    first, second = (near_duplicates.magnitudes(a).astype(float) for a in (one, other))
    rolled = near_duplicates.magnitudes(np.roll(one, roll, axis=1)).astype(float)
    assert np.linalg.norm(first - rolled) < 0.25
    assert np.linalg.norm(first - second) < smallest_difference(one, other) + 0.25


@given(PICTURES)
def test_packed_magnitudes_survive_the_round_trip(picture):
    found = near_duplicates.magnitudes(picture.astype(np.float32))
    text = near_duplicates.pack(found)
    assert len(text) == 256
    np.testing.assert_array_equal(near_duplicates.unpack(text), found)


def test_pairs_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr(near_duplicates, "BLOCK", 4)
    table = np.random.default_rng(0).uniform(0, 100, (11, 96)).astype(np.float16)
    table[9] = table[2]
    table[6] = table[5]
    assert sorted(near_duplicates.candidates(table)) == [(2, 9), (5, 6)]


def test_frequent_duplicate_has_few_partners():
    table = np.zeros((50, 96), np.float16)
    pairs = list(near_duplicates.candidates(table))
    assert {j for _, j in pairs} == set(range(1, 50))
    assert max(np.bincount([j for _, j in pairs])) == near_duplicates.PARTNERS
