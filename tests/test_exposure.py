"""The exposure of pictures whose luminance is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.exposure import EXPOSURE_STOPS, MIDDLE_GREY, automatic_exposure


def grey(luminance: float) -> np.ndarray:
    return np.full((32, 64, 3), luminance, np.float32)


@pytest.mark.parametrize("stops", [-3.0, 0.0, 2.5])
def test_a_grey_picture_is_brought_to_middle_grey(stops):
    assert automatic_exposure(grey(MIDDLE_GREY / 2**stops)) == pytest.approx(stops, abs=1e-5)


def test_the_limits_hold():
    assert automatic_exposure(grey(0.0)) == EXPOSURE_STOPS[1]
    assert automatic_exposure(grey(1e6)) == EXPOSURE_STOPS[0]


def test_the_poles_count_by_their_solid_angle():
    picture = grey(0.18)
    picture[:8] = picture[-8:] = 0.18 / 16  # within 45 degrees of a pole: 1 - 1/sqrt(2) of it
    assert automatic_exposure(picture) == pytest.approx(4 * (1 - 0.5**0.5), abs=0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_no_number_does_not_decide(bad):
    picture = grey(0.09)
    picture[16, 5, 1] = bad
    assert automatic_exposure(picture) == pytest.approx(1.0, abs=0.02)
