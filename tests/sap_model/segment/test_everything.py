"""Everything in a panorama, against analytic truth: a model that answers with the truth."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline import sphere
from pipeline.errors import UserError
from sap_model.model.tracker import Answer, Query
from sap_model.predict.objects import solid_angle
from sap_model.predict.predictor import SapPredictor
from sap_model.segment.duplicates import best_of
from sap_model.segment.everything import EverythingOptions, Segment, fibonacci_points
from sap_model.segment.proposing import grid_points
from tests.sap_model.models import panorama, responsive

WIDTH, SIZE = 512, 256
DISCS = {
    "ahead": (10, 5, 15, (255, 0, 0)),
    "seam": (180, -10, 12, (0, 255, 0)),
    "pole": (30, 85, 14, (0, 0, 255)),
    "small": (-60, 20, 5, (255, 255, 0)),
    "larger than a view": (-100, -40, 60, (0, 255, 255)),
}
"""Longitude, latitude and radius in degrees, and colour."""


class ColourModel:
    """Segments whatever has the colour of the point."""

    image_size = SIZE
    multimask_output_in_sam = False

    def encode(self, frames: NDArray[np.uint8], at_once: int = 4) -> NDArray[np.uint8]:
        return frames

    def propose(
        self, features: NDArray[np.uint8], view: int, points: NDArray[np.float32]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = [self._segment(features[view], u, v) for u, v in points]
        return torch.from_numpy(np.stack(logits)[:, None]), torch.full((len(points), 1), 0.9)

    def decode(self, features: NDArray[np.uint8], queries: Sequence[Query]) -> list[Answer]:
        return [Answer(self._segment(features[q.view], *q.spots[-1][:2]), 0.9) for q in queries]

    def _segment(self, frame: NDArray[np.uint8], u: float, v: float) -> NDArray[np.float32]:
        row, column = np.clip([round(float(v)), round(float(u))], 0, SIZE - 1)
        colour = frame[row, column].astype(int)
        inside = cv2.inRange(frame, colour - 60, colour + 60)
        small = cv2.resize(inside, (SIZE // 4, SIZE // 4), interpolation=cv2.INTER_AREA)
        return (small.astype(np.float32) / 255 - 0.5) * 16


def disc(lon: float, lat: float, radius: float) -> NDArray[np.bool_]:
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(WIDTH // 2))
    pixels = sphere.lonlat_to_direction(*sphere.pixel_to_lonlat(x, y, WIDTH, WIDTH // 2))
    return pixels @ sphere.lonlat_to_direction(*np.radians([lon, lat])) >= np.cos(
        np.radians(radius)
    )


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    image = np.full((WIDTH // 2, WIDTH, 3), 128, np.uint8)
    for lon, lat, radius, colour in DISCS.values():
        image[disc(lon, lat, radius)] = colour
    return image


def find(image: NDArray[np.uint8], **options) -> list[Segment]:
    predictor = SapPredictor(ColourModel(), "warp")
    predictor._method.set_panorama(image)  # in one step, because its features are pictures
    predictor._image = image
    return predictor.segment_everything(points=512, **options)


@pytest.fixture(scope="module")
def segments(image) -> list[Segment]:
    return find(image)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("name", DISCS)
def test_each_object_is_found_once(segments, name):
    lon, lat, radius, _ = DISCS[name]
    truth = disc(lon, lat, radius)
    matches = [one for one in segments if iou(one.mask, truth) > 0.5]
    assert len(matches) == 1
    assert iou(matches[0].mask, truth) > 0.85
    exact = 2 * np.pi * (1 - np.cos(np.radians(radius)))
    assert matches[0].solid_angle == pytest.approx(exact, rel=0.15)
    x, y = np.floor(np.array(matches[0].point) + 0.5).astype(int)
    assert truth[y, x % WIDTH]


def test_nothing_else_is_found_but_the_ground(segments):
    others = [
        one
        for one in segments
        if all(iou(one.mask, disc(*about[:3])) < 0.5 for about in DISCS.values())
    ]
    assert len(others) == 1
    assert others[0].solid_angle > 2 * np.pi
    assert [one.solid_angle for one in segments] == sorted(
        (one.solid_angle for one in segments), reverse=True
    )


def test_masks_need_not_overlap(image, segments):
    apart = find(image, overlapping=False)
    count = np.sum([one.mask for one in apart], axis=0)
    assert count.max() == 1
    assert np.sum([one.mask for one in segments], axis=0).max() == 2, "at the borders"
    for one in apart:
        assert one.solid_angle == pytest.approx(solid_angle(one.mask))


def test_without_following_large_objects_stay_cut_off(image):
    lon, lat, radius, _ = DISCS["larger than a view"]
    truth = disc(lon, lat, radius)
    assert max(iou(one.mask, truth) for one in find(image, follow=False)) < 0.8


def test_filters_keep_what_they_promise():
    predictor = SapPredictor(responsive(), "warp")
    predictor.set_panorama(panorama())
    every = predictor.segment_everything(points=96, iou=0, stability=0, follow=False)
    least = float(np.median([one.iou for one in every]))
    some = predictor.segment_everything(points=96, iou=least, stability=0, follow=False)
    assert 0 < len(some) < len(every)
    assert all(one.iou >= least for one in some)
    steady = predictor.segment_everything(points=96, iou=0, stability=0.9, follow=False)
    assert all(one.stability >= 0.9 for one in steady)


@pytest.mark.parametrize("size", ["nano", "tiny"])
def test_proposals_are_what_single_clicks_give(size):
    model = responsive(size)
    predictor = SapPredictor(model, "warp")
    predictor.set_panorama(panorama())
    features, _ = predictor._method.encoded
    points = np.array([[20, 30], [40, 10]], np.float32)
    logits, ious = model.propose(features, 3, points)
    assert logits.shape[1] == (3 if size == "tiny" else 1)
    for point, candidates, guesses in zip(points, logits, ious, strict=True):
        (answer,) = model.decode(features, [Query(3, ((*point.tolist(), 1),))])
        best = int(guesses.argmax())
        assert abs(candidates[best].numpy() - answer.logits).max() < 1e-4
        assert float(guesses[best]) == pytest.approx(answer.iou, abs=1e-5)


def test_flat_panorama_is_sam2s_grid():
    predictor = SapPredictor(responsive(), "sam2")
    predictor.set_panorama(panorama())
    found = predictor.segment_everything(points=64, iou=0, stability=0)
    assert found and found[0].mask.shape == panorama().shape[:2]
    points = grid_points(16, 64)
    assert points.shape == (16, 2)
    np.testing.assert_allclose(points[0], [7.5, 3.5])


def test_methods_with_memory_find_single_objects():
    predictor = SapPredictor(responsive(), "sap")
    predictor.set_panorama(panorama())
    with pytest.raises(UserError, match="METHOD=zoom"):
        predictor.segment_everything()
    for wrong in ({"points": 0}, {"iou": 2}, {"overlap": -1}):
        with pytest.raises(UserError):
            EverythingOptions(**wrong)


def test_points_have_equal_areas():
    x, y = fibonacci_points(1000, 1024).T
    lon, lat = sphere.pixel_to_lonlat(x, y, 1024, 512)
    assert abs(sphere.lonlat_to_direction(lon, lat).mean(axis=0)).max() < 2e-3
    for low, high in ((-90, -45), (-10, 10), (60, 90)):
        share = (np.sin(np.radians(high)) - np.sin(np.radians(low))) / 2
        inside = (np.degrees(lat) > low) & (np.degrees(lat) <= high)
        assert inside.mean() == pytest.approx(share, abs=2e-3)


def test_best_masks_stay():
    masks = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1]], bool)
    assert best_of(masks, np.array([0.5, 0.9, 0.1, 0.2]), 0.7) == [1, 3]
    assert best_of(masks[:0], np.zeros(0), 0.7) == []
