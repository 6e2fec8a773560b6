"""Clicks against SAM2's rule on full frames."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations.click_point import click_mask
from tests.synthetic import disc


def sam2_click(mask):
    """SAM2's sample_one_point_from_error_center with padding, without periodic columns."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = exact(cv2.distanceTransform(padded, cv2.DIST_L2, 0)[1:-1, 1:-1])
    y, x = np.unravel_index(np.argmax(distance), distance.shape)
    return int(x), int(y), float(distance[y, x])


def exact(distance):
    """Distances without OpenCV's rounding errors: their squares are integers."""
    return np.sqrt(np.rint(distance.astype(np.float64) ** 2))


def periodic_distance(mask):
    """Distances with periodic columns: the middle of three copies."""
    padded = np.pad(np.tile(mask, 3).astype(np.uint8), 1)
    width = mask.shape[1]
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 0)
    return exact(distance[1:-1, 1 + width : 1 + 2 * width])


def random_mask(seed, width=128):
    """Blobs of all sizes with ragged borders."""
    noise = np.random.default_rng(seed).normal(size=(width // 2, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1 + seed % 6)
    return smooth > np.quantile(smooth, (seed % 10) / 10)


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_click_off_the_seam_matches_sam2(seed):
    mask = random_mask(seed)
    mask[:, :40] = False  # the largest gap, and it holds the seam
    mask[:, 41] = mask[:, 127] = True
    assert click_mask(mask) == sam2_click(mask)


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_click_is_at_the_largest_periodic_distance(seed):
    mask = random_mask(seed)
    distance = periodic_distance(mask)
    click = click_mask(mask)
    assert click.distance == distance.max() == distance[click.y, click.x]


@given(st.integers(0, 10_000), st.integers(0, 127))
@settings(max_examples=60, deadline=None)
def test_click_follows_a_rolled_panorama(seed, columns):
    mask = random_mask(seed)
    mask[:, 30:70] = False  # the largest gap
    click = click_mask(mask)
    rolled = click_mask(np.roll(mask, columns, axis=1))
    assert rolled == ((click.x + columns) % 128, click.y, click.distance)


def test_click_of_a_disc_on_the_seam_is_its_middle():
    click = click_mask(disc(180, 0, 8, 4096))
    assert min(click.x, 4096 - click.x) <= 1
    assert abs(click.y - 1023.5) <= 1
    assert click.distance == pytest.approx(
        8 / 360 * 4096, abs=1.5
    )  # 45 if the seam were a boundary


def test_first_and_last_row_are_boundaries():
    mask = np.zeros((32, 64), bool)
    mask[:9] = True
    assert click_mask(mask) == (0, 4, 5)
    assert click_mask(np.ones((31, 62), bool)) == (0, 15, 16)


def test_mask_in_every_column_has_no_left_and_right_boundary():
    mask = np.zeros((32, 64), bool)
    mask[10:15] = True
    mask[5:20, 60:] = mask[5:20, :3] = True  # the thick part lies across the seam
    click = click_mask(mask)
    assert click.x in (62, 63, 0) and click.distance > 3


def test_empty_mask_has_no_click():
    assert click_mask(np.zeros((4, 8), bool)) is None
