"""Pictures of cases: the object is in them, also across the seam."""

from __future__ import annotations

import numpy as np
import pytest

from sap_model.evaluate.pictures import PREDICTED, SIDE, case_picture
from tests.synthetic import disc


@pytest.mark.parametrize(("lon", "lat"), [(0, 0), (180, 10), (40, 88), (-179, -30)])
def test_prediction_outline_and_click_are_seen(lon, lat):
    truth = disc(lon, lat, 12, 512)
    ys, xs = np.nonzero(truth)
    click = [int(xs[len(xs) // 2]), int(ys[len(ys) // 2]), 1]
    picture = case_picture(np.zeros((256, 512, 3), np.uint8), truth, truth, [click])
    assert max(picture.shape[:2]) == SIDE
    filled = np.abs(picture.astype(int) - np.array(PREDICTED) // 2).max(axis=-1) <= 2
    assert 0.03 < filled.mean() < 0.9  # it fills a good part, and not all
    assert (picture == 255).all(axis=-1).sum() > 50  # the outline
    assert (picture[..., 1].astype(int) - picture[..., 0] > 100).sum() > 20  # the click


def test_an_object_all_around_is_shown_whole():
    band = np.zeros((256, 512), bool)
    band[100:150] = True
    picture = case_picture(np.zeros((256, 512, 3), np.uint8), band, ~band, [])
    assert picture.shape[1] == SIDE
