"""Correction clicks against SAM2's own function, and where the seam makes them differ."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sap_model.clicks import NEGATIVE, POSITIVE, Click, correction_click, first_click
from tests.synthetic import disc

WIDTH = 128


def blobs(seed):
    """A mask (H, W) of blobs with ragged borders."""
    noise = np.random.default_rng(seed).normal(size=(WIDTH // 2, WIDTH)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1 + seed % 6)
    return smooth > np.quantile(smooth, 0.2 + (seed % 7) / 10)


def away_from_the_seam(seed):
    """A prediction and a truth whose errors of either kind span the columns 41 to 127.

    The largest gap of both kinds then holds the seam, so that ties are broken as in SAM2.
    """
    prediction, truth = blobs(seed), blobs(seed + 1)
    prediction[:, :40] = truth[:, :40] = False
    for column in (41, 127):
        truth[:, column] = [True, False] * (WIDTH // 4)
        prediction[:, column] = ~truth[:, column]
    return prediction, truth


def sam2_click(prediction, truth):
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("sam2.modeling.sam2_utils")
    masks = [torch.from_numpy(mask)[None, None] for mask in (truth, prediction)]
    points, labels = utils.get_next_point(*masks, method="center")
    x, y = points[0, 0].int().tolist()
    return Click(x, y, int(labels[0, 0]))


@pytest.fixture
def exact_distances(monkeypatch):
    """OpenCV without its rounding, whose last bit decides between equal distances."""
    transform = cv2.distanceTransform

    def exact(*arguments):
        return np.sqrt(np.rint(transform(*arguments).astype(np.float64) ** 2))

    monkeypatch.setattr(cv2, "distanceTransform", exact)


@pytest.mark.parametrize("seed", range(0, 200, 2))
def test_errors_away_from_the_seam_get_sam2s_click(seed, exact_distances):
    prediction, truth = away_from_the_seam(seed)
    assert correction_click(prediction, truth) == sam2_click(prediction, truth)


@pytest.mark.parametrize("seed", range(0, 60, 2))
def test_sam2_with_opencvs_rounding_differs_only_between_equally_good_points(seed):
    prediction, truth = away_from_the_seam(seed)
    ours, theirs = correction_click(prediction, truth), sam2_click(prediction, truth)
    assert ours.label == theirs.label
    wrong = truth & ~prediction if ours.label else prediction & ~truth
    distance = cv2.distanceTransform(np.pad(wrong.astype(np.uint8), 1), cv2.DIST_L2, 0)[1:-1, 1:-1]
    assert distance[ours.y, ours.x] == pytest.approx(distance[theirs.y, theirs.x], rel=1e-6)


def test_the_first_click_is_sam2s_for_an_empty_prediction(exact_distances):
    _, truth = away_from_the_seam(3)
    assert first_click(truth) == sam2_click(np.zeros_like(truth), truth)
    assert first_click(truth).label == POSITIVE


def test_the_thicker_region_is_clicked_and_not_the_larger():
    truth, prediction = np.zeros((64, 128), bool), np.zeros((64, 128), bool)
    truth[10:19, 20:29] = True  # missed: 81 pixels, up to 5 from the outside
    prediction[40:44, 20:100] = True  # added: 320 pixels, up to 2
    assert correction_click(prediction, truth) == (24, 14, POSITIVE)
    assert correction_click(truth, prediction) == (24, 14, NEGATIVE)


def test_equally_thick_regions_give_a_negative_click_as_in_sam2():
    truth, prediction = np.zeros((64, 128), bool), np.zeros((64, 128), bool)
    truth[10:15, 20:25] = prediction[40:45, 60:65] = True
    assert (
        correction_click(prediction, truth) == (62, 42, NEGATIVE) == sam2_click(prediction, truth)
    )


def test_what_is_right_gets_no_click():
    mask = disc(170, 40, 20, WIDTH)
    assert correction_click(mask, mask) is None
    assert correction_click(mask & False, mask & False) is None
    assert first_click(mask & False) is None


def test_a_disc_on_the_seam_that_was_missed_is_clicked_in_its_middle():
    truth = disc(180, 0, 8, 4096)
    click = correction_click(truth & False, truth)
    assert click.label == POSITIVE
    assert min(click.x, 4096 - click.x) <= 1 and abs(click.y - 1023.5) <= 1


def test_a_model_that_stops_at_the_seam_is_told_of_the_other_half():
    truth = disc(180, 0, 8, 1024)
    prediction = truth.copy()
    prediction[:, :512] = False
    click = correction_click(prediction, truth)
    assert click.label == POSITIVE and click.x < 512
    surplus = correction_click(truth, prediction)
    assert surplus == (click.x, click.y, NEGATIVE)


def test_first_and_last_row_are_edges():
    truth = np.zeros((32, 64), bool)
    truth[:9, 20:40] = True
    assert correction_click(truth & False, truth).y == 4


@given(st.integers(0, 10_000), st.integers(0, WIDTH - 1))
@settings(max_examples=40, deadline=None)
def test_rolling_the_panorama_rolls_the_click(seed, columns):
    prediction, truth = away_from_the_seam(seed)
    x, y, label = correction_click(prediction, truth)
    rolled = correction_click(*(np.roll(mask, columns, axis=1) for mask in (prediction, truth)))
    assert rolled == ((x + columns) % WIDTH, y, label)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_click_lies_in_an_error_of_its_kind(seed):
    prediction, truth = blobs(seed), blobs(seed + 1)
    x, y, label = correction_click(prediction, truth)
    assert (truth[y, x], prediction[y, x]) == ((True, False) if label else (False, True))
