"""The exposure of pictures whose luminance is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.exposure import EXPOSURE_STOPS, MIDDLE_GREY, automatic_exposure


def grey(luminance: float) -> np.ndarray:
    return np.full((32, 64, 3), luminance, np.float32)


@pytest.mark.parametrize("stops", [-3.0, 0.0, 2.5])
def test_grey_picture_becomes_middle_grey(stops):
    assert automatic_exposure(grey(MIDDLE_GREY / 2**stops)) == pytest.approx(stops, abs=1e-5)


def test_exposure_is_limited():
    assert automatic_exposure(grey(0.0)) == EXPOSURE_STOPS[1]
    assert automatic_exposure(grey(1e6)) == EXPOSURE_STOPS[0]


def test_rows_are_weighted_by_solid_angle():
    picture = grey(0.18)
    picture[:8] = picture[-8:] = 0.18 / 16  # within 45° of a pole: 1 - 1/sqrt(2) of the sphere
    assert automatic_exposure(picture) == pytest.approx(4 * (1 - 0.5**0.5), abs=0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixel_that_is_not_finite_counts_as_black(bad):
    picture = grey(0.09)
    picture[16, 5, 1] = bad
    assert automatic_exposure(picture) == pytest.approx(1.0, abs=0.02)
