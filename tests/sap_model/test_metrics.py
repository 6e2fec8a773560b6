"""Scores against formulas for discs, pycocotools, and the definition of the boundary band."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from sap_model.metrics import boundary_iou, boundary_width, iou, score, spherical_iou
from tests.synthetic import directions, disc

WIDTH = 128


def blobs(seed):
    """A mask (H, W): from a few pixels to nearly all, with ragged borders."""
    noise = np.random.default_rng(seed).normal(size=(WIDTH // 2, WIDTH)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1 + seed % 6)
    return smooth > np.quantile(smooth, 0.02 + 0.95 * (seed % 10) / 9)


masks = st.integers(0, 10_000).map(blobs)


def reference_band(mask, width):
    """The boundary band as Boundary IoU's reference code defines it: an erosion by 3 × 3, `width`
    times, with nothing around the frame. Columns are made periodic by three copies."""
    copies = np.pad(np.tile(mask, 3).astype(np.uint8), 1)
    eroded = cv2.erode(copies, np.ones((3, 3), np.uint8), iterations=width)
    middle = eroded[1:-1, 1 + mask.shape[1] : 1 + 2 * mask.shape[1]]
    return mask & (middle == 0)


def encode(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


@given(masks, masks)
@settings(max_examples=60, deadline=None)
def test_iou_is_pycocotools(prediction, truth):
    expected = coco.iou([encode(prediction)], [encode(truth)], [0])[0, 0]
    assert iou(prediction, truth) == pytest.approx(expected, abs=1e-12)


@given(masks, masks)
@settings(max_examples=60, deadline=None)
def test_spherical_iou_weighs_pixels_with_the_sphere(prediction, truth):
    rows = np.linspace(np.pi / 2, -np.pi / 2, WIDTH // 2 + 1)
    weights = (np.sin(rows[:-1]) - np.sin(rows[1:]))[:, None]
    expected = (weights * (prediction & truth)).sum() / (weights * (prediction | truth)).sum()
    assert spherical_iou(prediction, truth) == pytest.approx(expected, abs=1e-12)


@given(masks, masks)
@settings(max_examples=60, deadline=None)
def test_boundary_iou_is_the_bands_iou(prediction, truth):
    width = boundary_width(WIDTH, WIDTH // 2)
    expected = iou(reference_band(prediction, width), reference_band(truth, width))
    assert boundary_iou(prediction, truth) == pytest.approx(expected, abs=1e-12)


@given(masks, masks, st.integers(0, WIDTH - 1))
@settings(max_examples=60, deadline=None)
def test_scores_are_symmetric_bounded_and_unchanged_by_rolling(prediction, truth, columns):
    scores = score(prediction, truth)
    assert all(0 <= value <= 1 for value in scores)
    assert score(truth, prediction) == scores
    rolled = [np.roll(mask, columns, axis=1) for mask in (prediction, truth)]
    assert score(*rolled) == pytest.approx(scores, abs=1e-12)
    assert scores == (
        iou(prediction, truth),
        spherical_iou(prediction, truth),
        boundary_iou(prediction, truth),
    )


@given(masks)
@settings(max_examples=20, deadline=None)
def test_a_mask_matches_itself(mask):
    assert score(mask, mask) == (1, 1, 1)


@pytest.mark.parametrize("function", [score, iou, spherical_iou, boundary_iou])
def test_nothing_for_nothing_is_right_and_something_for_nothing_is_wrong(function):
    nothing, something = np.zeros((32, 64), bool), np.eye(32, 64, dtype=bool)
    assert np.all(np.array(function(nothing, nothing)) == 1)
    assert np.all(np.array(function(something, nothing)) == 0)
    assert np.all(np.array(function(nothing, something)) == 0)


@pytest.mark.parametrize(("lon", "lat"), [(0, 0), (180, 10), (50, 60), (0, 90), (20, -90)])
def test_a_disc_within_a_disc_scores_the_ratio_of_their_caps(lon, lat):
    small, large = disc(lon, lat, 10, 2048), disc(lon, lat, 20, 2048)
    caps = (1 - np.cos(np.radians(10))) / (1 - np.cos(np.radians(20)))
    assert spherical_iou(small, large) == pytest.approx(caps, rel=0.01)
    if lat == 0:  # on the horizon pixels are nearly equal
        assert iou(small, large) == pytest.approx(caps, rel=0.03)


def test_a_lens_of_two_discs_on_the_seam():
    lens = 2 * np.arccos(0.5) - np.sin(2 * np.arccos(0.5))  # of flat unit discs at distance 1
    found = spherical_iou(disc(175, 0, 10, 2048), disc(-175, 0, 10, 2048))
    assert found == pytest.approx(lens / (2 * np.pi - lens), rel=0.02)


def test_pixels_at_the_poles_count_less_on_the_sphere():
    truth = np.abs(directions(512)[..., 2]) > 0.5  # both caps beyond 30°: half of the sphere
    half = truth.copy()
    half[:128] = False
    assert spherical_iou(half, truth) == pytest.approx(0.5)
    cap, polar = disc(0, 90, 60, 720), disc(0, 90, 30, 720)  # whole rows: two to a degree
    assert iou(polar, cap) == pytest.approx(30 / 60)
    assert spherical_iou(polar, cap) == pytest.approx((1 - np.sqrt(0.75)) / 0.5)


def test_boundaries_of_large_objects_count_what_iou_overlooks():
    truth = disc(0, 0, 60, 1024)
    prediction = disc(0, 0, 58, 1024)  # 6 pixels of 171 are missing all around
    scores = score(prediction, truth)
    assert scores.iou > 0.92
    # bands are 23 pixels thick, 23 √2 where the border is oblique, and 5.7 pixels apart
    thinnest, thickest = ((band - 5.7) / (band + 5.7) for band in (23, 23 * np.sqrt(2)))
    assert thinnest < scores.boundary_iou < thickest


def test_a_band_around_the_panorama_has_no_ends():
    band = np.zeros((64, 128), bool)
    band[20:44] = True
    broken = band.copy()
    broken[20:44, 127] = False
    width = boundary_width(128, 64)
    inside = 24 - 2 * width
    # the missing column opens a border of `width` columns on both sides, at the seam
    expected = 127 * 2 * width / (128 * 24 - 128 * inside + 2 * width * inside)
    assert boundary_iou(band, broken) == pytest.approx(expected)


def test_the_boundary_is_two_percent_of_the_diagonal():
    assert boundary_width(640, 480) == 16
    assert boundary_width(4096, 2048) == 92
    assert boundary_width(16, 8) == 1
