"""Warp and zoom against analytic truth: a model that answers with the truth of each view."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import sphere
from pipeline.annotations.boxes import coco_box, wrapped_crop
from pipeline.errors import UserError
from sap_model.clicks import NEGATIVE, POSITIVE, Click
from sap_model.model.tracker import Answer, Query
from sap_model.predict.objects import Prompt
from sap_model.predict.warp import BOX_CORNERS, WarpPredictor
from sap_model.predict.zoom import ZoomPredictor
from sap_model.scan.views import PerspectiveViews

WIDTH, SIZE = 1024, 256


class ColourOracle:
    """Segments whatever has the colour that is clicked; counts what it is asked."""

    image_size = SIZE

    def __init__(self) -> None:
        self.queries: list[Query] = []

    def encode(self, frames: NDArray[np.uint8], at_once: int = 4) -> NDArray[np.uint8]:
        return frames

    def decode(self, features: NDArray[np.uint8], queries: Sequence[Query]) -> list[Answer]:
        self.queries += queries
        answers = []
        for query in queries:
            frame = features[query.view].astype(int)
            corners = {label: (u, v) for u, v, label in query.spots if label in BOX_CORNERS}
            if corners:
                u, v = np.mean([corners[label] for label in BOX_CORNERS], axis=0)
            else:
                u, v, label = query.spots[-1]
                assert label == POSITIVE
            colour = frame[round(v), round(u)]
            inside = abs(frame - colour).max(axis=-1) < 60
            small = inside.reshape(SIZE // 4, 4, SIZE // 4, 4).mean(axis=(1, 3))
            answers.append(Answer(((small - 0.5) * 16).astype(np.float32), 0.9))
        return answers


def disc(lon: float, lat: float, radius: float) -> NDArray[np.bool_]:
    """All pixels within `radius` degrees of a direction (degrees)."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(WIDTH // 2))
    pixels = sphere.lonlat_to_direction(*sphere.pixel_to_lonlat(x, y, WIDTH, WIDTH // 2))
    centre = sphere.lonlat_to_direction(np.radians(lon), np.radians(lat))
    return pixels @ centre >= np.cos(np.radians(radius))


def painted(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A grey panorama with a red object."""
    image = np.full((*mask.shape, 3), 128, np.uint8)
    image[mask] = 255, 0, 0
    return image


def click(lon: float, lat: float) -> Click:
    x, y = sphere.lonlat_to_pixel(np.radians(lon), np.radians(lat), WIDTH, WIDTH // 2)
    return Click(round(float(x)) % WIDTH, round(float(y)), POSITIVE)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(
    ("lon", "lat"),
    [
        (10, 5),
        (180, -10),  # across the seam
        (30, 88),  # over a pole
        (-120, -80),
    ],
)
@pytest.mark.parametrize("predictor", [WarpPredictor, ZoomPredictor])
def test_disc_is_found_wherever_it_lies(predictor, lon, lat):
    truth = disc(lon, lat, 18)
    method = predictor(ColourOracle())
    method.set_panorama(painted(truth))
    (found,) = method.predict_many([Prompt([click(lon, lat)])])
    assert iou(found.mask, truth) > 0.9
    assert found.iou == pytest.approx(0.9)


def test_mask_follows_an_object_into_views_that_do_not_see_the_click():
    band = np.zeros((WIDTH // 2, WIDTH), bool)  # a third of the horizon, clicked at one end
    band[236:280, 200:540] = True
    model = ColourOracle()
    method = WarpPredictor(model)
    method.set_panorama(painted(band))
    spot = Click(208, 256, POSITIVE)
    clicked = {
        sighting.view for sighting in PerspectiveViews(method.scan, SIZE, WIDTH).visible(*spot[:2])
    }
    (found,) = method.predict_many([Prompt([spot])])
    asked = {query.view for query in model.queries}
    assert asked > clicked
    assert iou(found.mask, band) > 0.9


def test_views_without_the_object_are_not_asked():
    model = ColourOracle()
    method = WarpPredictor(model)
    method.set_panorama(painted(disc(0, 0, 10)))
    method.predict_many([Prompt([click(0, 0)])])
    assert len(model.queries) < 12  # of 24 views


def test_objects_do_not_influence_each_other():
    image = painted(disc(20, 0, 15))
    image[disc(-100, 30, 12)] = 0, 0, 255
    method = WarpPredictor(ColourOracle())
    method.set_panorama(image)
    prompts = [Prompt([click(20, 0)]), Prompt([click(-100, 30)])]
    together = method.predict_many(prompts)
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = method.predict_many([prompt])
        assert np.array_equal(alone.mask, found.mask)


@pytest.mark.parametrize(("lon", "lat"), [(12, 40), (179.5, 0), (0, 89)])
def test_zoom_sharpens_small_objects(lon, lat):
    truth = disc(lon, lat, 3.5)
    scores = []
    for predictor in (WarpPredictor, ZoomPredictor):
        method = predictor(ColourOracle())
        method.set_panorama(painted(truth))
        scores.append(iou(method.predict_many([Prompt([click(lon, lat)])])[0].mask, truth))
    assert scores[1] > max(0.85, scores[0])


def test_zoom_keeps_all_positive_clicks_in_view():
    truth = disc(0, 0, 2) | disc(40, 0, 2)  # the second one is outside of any narrow view
    model = ColourOracle()
    method = ZoomPredictor(model)
    method.set_panorama(painted(truth))
    clicks = [click(0, 0), click(40, 0)]
    (found,) = method.predict_many([Prompt(clicks)])
    assert found.mask[clicks[1].y, clicks[1].x]


def test_object_without_positive_click_is_refused():
    method = WarpPredictor(ColourOracle())
    method.set_panorama(painted(disc(0, 0, 10)))
    with pytest.raises(UserError, match="positive click"):
        method.predict_many([Prompt([Click(3, 4, NEGATIVE)])])


def box_around(truth: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """The box of a mask, which may reach beyond the right border."""
    x, y, w, h = wrapped_crop(truth, True, coco_box(truth)).box
    return float(x), float(y), float(w), float(h)


@pytest.mark.parametrize("predictor", [WarpPredictor, ZoomPredictor])
@pytest.mark.parametrize(
    ("lon", "lat", "radius"),
    [(10, 5, 15), (179, -10, 12), (100, 50, 10), (-60, 0, 4), (0, 0, 55)],
    ids=["ahead", "seam", "high", "small", "larger than a view"],
)
def test_box_finds_what_it_surrounds(predictor, lon, lat, radius):
    truth = disc(lon, lat, radius)
    method = predictor(ColourOracle())
    method.set_panorama(painted(truth))
    (found,) = method.predict_many([Prompt(box=box_around(truth))])
    assert iou(found.mask, truth) > 0.85


@pytest.mark.parametrize(
    ("lon", "lat", "radius"), [(10, 5, 15), (179, -10, 12), (0, 88, 12), (50, 20, 1)]
)
def test_rough_mask_is_a_prompt(lon, lat, radius):
    truth = disc(lon, lat, radius)
    model = ColourOracle()
    method = WarpPredictor(model)
    method.set_panorama(painted(truth))
    rough = np.roll(truth, 4 if radius > 1 else 1, axis=1)
    (found,) = method.predict_many([Prompt(mask=rough)])
    assert iou(found.mask, truth) > (0.85 if radius > 1 else 0.3)
    assert radius == 1 or all(query.mask is not None for query in model.queries)


def test_refinement_asks_views_again_with_a_mask():
    plain, again = ColourOracle(), ColourOracle()
    truth = disc(20, 10, 12)
    for model, refine in ((plain, False), (again, True)):
        method = WarpPredictor(model, refine=refine)
        method.set_panorama(painted(truth))
        (found,) = method.predict_many([Prompt([click(20, 10)])])
        assert iou(found.mask, truth) > 0.9
    assert len(plain.queries) < len(again.queries) <= 2 * len(plain.queries)
    assert all(query.mask is not None for query in again.queries[len(plain.queries) :])
