"""Alike panoramas: against the definition, by trying every roll."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.verify import likeness

PICTURES = arrays(
    np.uint8, (likeness.HEIGHT, likeness.WIDTH), elements=st.integers(0, 255), fill=st.nothing()
)


def smallest_difference(one, other):
    rolls = (np.roll(one, roll, axis=1) for roll in range(likeness.WIDTH))
    return min(float(np.sqrt(np.mean(np.square(rolled - other)))) for rolled in rolls)


@given(PICTURES, PICTURES)
def test_the_difference_is_that_of_the_best_roll(one, other):
    one, other = one.astype(np.float32), other.astype(np.float32)
    expected = smallest_difference(one.astype(float), other)
    assert likeness.difference(one, other) == pytest.approx(expected, abs=0.05)


@given(PICTURES, PICTURES, st.integers(0, likeness.WIDTH))
def test_magnitudes_know_no_roll_and_bound_the_difference(one, other, roll):
    one, other = one.astype(np.float32), other.astype(np.float32)
    first, second = (likeness.magnitudes(a).astype(float) for a in (one, other))
    rolled = likeness.magnitudes(np.roll(one, roll, axis=1)).astype(float)
    assert np.linalg.norm(first - rolled) < 0.25
    assert np.linalg.norm(first - second) < smallest_difference(one, other) + 0.25


@given(PICTURES)
def test_packed_magnitudes_come_back(picture):
    found = likeness.magnitudes(picture.astype(np.float32))
    text = likeness.pack(found)
    assert len(text) == 256
    np.testing.assert_array_equal(likeness.unpack(text), found)


def test_pairs_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr(likeness, "BLOCK", 4)
    table = np.random.default_rng(0).uniform(0, 100, (11, 96)).astype(np.float16)
    table[9] = table[2]
    table[6] = table[5]
    assert sorted(likeness.candidates(table)) == [(2, 9), (5, 6)]


def test_a_picture_that_occurs_often_has_few_partners():
    table = np.zeros((50, 96), np.float16)
    pairs = list(likeness.candidates(table))
    assert {j for _, j in pairs} == set(range(1, 50))
    assert max(np.bincount([j for _, j in pairs])) == likeness.PARTNERS
