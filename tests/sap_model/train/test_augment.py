"""Augmentation: what is turned is where the formula says, and truth moves along."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import sphere
from sap_model.train.augment import (
    DEGREES,
    FILL,
    MAX_TILT,
    SHEAR,
    Turn,
    draw_affine,
    draw_turn,
    recolour,
    turn_panorama,
    turn_points,
    warp_frames,
)
from sap_model.train.shard_rows import DecodedPanorama
from tests.sap_model.scan import peers
from tests.synthetic import disc

WIDTH = 512
PIXEL = 360 / WIDTH
PLACES = {7: (0.0, 0.0), 8: (179.0, 20.0), 9: (-100.0, 70.0), 10: (60.0, -86.0), 11: (20.0, -40.0)}
RADIUS = 10.0
TURNS = [
    Turn(),
    Turn(columns=100),
    Turn(mirrored=True),
    Turn(mirrored=True, columns=509),
    Turn(np.radians(9), np.radians(30)),
    Turn(np.radians(5), np.radians(-170), True, 77),
]


def room() -> DecodedPanorama:
    ids = np.zeros((WIDTH // 2, WIDTH), np.uint16)
    clicks = []
    for label, (lon, lat) in PLACES.items():
        ids[disc(lon, lat, RADIUS, WIDTH)] = label
        x, y = sphere.lonlat_to_pixel(np.radians(lon), np.radians(lat), WIDTH, WIDTH // 2)
        clicks.append(np.ravel(sphere.nearest_pixel(x, y, WIDTH, WIDTH // 2)))
    image = np.round(peers.smooth_panorama(WIDTH)).astype(np.uint8)
    return DecodedPanorama("room", image, ids, np.array(list(PLACES)), np.array(clicks))


def moved(lon: float, lat: float, turn: Turn) -> tuple[float, float]:
    """Where a turn takes a direction, in degrees: Rodrigues' formula, a mirror, a shift."""
    x, y, z = sphere.lonlat_to_direction(np.radians(lon), np.radians(lat))
    # the axis lies on the horizon, to the right of `towards`
    axis = np.array([np.cos(turn.towards), -np.sin(turn.towards), 0.0])
    point = np.array([x, y, z])
    angle = -turn.tilt
    turned = (
        point * np.cos(angle)
        + np.cross(axis, point) * np.sin(angle)
        + axis * (axis @ point) * (1 - np.cos(angle))
    )
    lon, lat = np.degrees(np.ravel(sphere.direction_to_lonlat(turned)))
    lon = -lon if turn.mirrored else lon
    return (lon + turn.columns * PIXEL + 180) % 360 - 180, lat


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_masks_follow_turned_panoramas(turn):
    turned = turn_panorama(room(), turn)
    assert turned.objects.tolist() == list(PLACES)
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(WIDTH // 2))
    lon, lat = sphere.pixel_to_lonlat(x, y, WIDTH, WIDTH // 2)
    directions = sphere.lonlat_to_direction(lon, lat)
    for label, place in PLACES.items():
        centre = sphere.lonlat_to_direction(*np.radians(moved(*place, turn)))
        angle = np.degrees(np.arccos(np.clip(directions @ centre, -1, 1)))
        mask = turned.ids == label
        assert mask[angle < RADIUS - PIXEL].all()
        assert not mask[angle > RADIUS + PIXEL].any()


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_clicks_follow_turned_panoramas(turn):
    turned = turn_panorama(room(), turn)
    for place, (x, y) in zip(PLACES.values(), turned.clicks, strict=True):
        lon, lat = sphere.pixel_to_lonlat(x, y, WIDTH, WIDTH // 2)
        there = sphere.lonlat_to_direction(*np.radians(moved(*place, turn)))
        apart = np.degrees(np.arccos(np.clip(sphere.lonlat_to_direction(lon, lat) @ there, -1, 1)))
        assert apart < 2 * PIXEL


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_pictures_follow_turned_panoramas(turn):
    """Colours are a smooth function of the direction: each pixel has its source's."""
    turned = turn_panorama(room(), turn)
    x, y = np.meshgrid(np.arange(5, WIDTH, 41), np.arange(3, WIDTH // 2, 37))
    places = np.stack([x.ravel(), y.ravel()], axis=1)
    targets = turn_points(places, turn, WIDTH)
    before = room().image[places[:, 1], places[:, 0]].astype(int)
    after = turned.image[targets[:, 1], targets[:, 0]].astype(int)
    away = abs(places[:, 1] - WIDTH // 4) < WIDTH // 6  # rounding moves little there
    assert abs(after - before)[away].max() <= 6


def test_a_click_that_is_rounded_off_its_object_moves_to_it():
    ids = np.zeros((64, 128), np.uint16)
    ids[20, 30:60] = 3  # a line one pixel thin
    image, clicks = np.zeros((64, 128, 3), np.uint8), np.array([[45, 20]])
    line = DecodedPanorama("line", image, ids, np.array([3]), clicks)
    for degrees in range(1, 11):
        turned = turn_panorama(line, Turn(np.radians(degrees), 0.5))
        for label, (x, y) in zip(turned.objects, turned.clicks, strict=True):
            assert turned.ids[y, x] == label


def test_turns_are_small_and_of_every_kind():
    rng = np.random.default_rng(0)
    turns = [draw_turn(WIDTH, rng) for _ in range(400)]
    assert all(0 <= turn.tilt <= np.radians(MAX_TILT) for turn in turns)
    assert 150 < sum(turn.tilt > 0 for turn in turns) < 250
    assert 150 < sum(turn.mirrored for turn in turns) < 250
    assert len({turn.columns for turn in turns}) > 200


def test_masks_follow_warped_frames():
    size = 96
    rows, columns = np.indices((size, size))
    truth = ((columns - 60) ** 2 + (rows - 40) ** 2 < 12**2).astype(np.uint8)
    image = np.where(truth, 250, 10).astype(np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        affine = draw_affine(size, rng)
        (warped,), (bits,) = warp_frames(np.stack([image] * 3, -1)[None], truth[None], affine)
        # where the formula takes the result's pixels from
        x = affine[0, 0] * columns + affine[0, 1] * rows + affine[0, 2]
        y = affine[1, 0] * columns + affine[1, 1] * rows + affine[1, 2]
        angle = np.degrees(np.arctan2(affine[1, 0], affine[0, 0]))
        assert abs(angle) <= DEGREES
        assert abs(np.linalg.det(affine[:, :2]) - 1) < 1e-9
        distance = np.hypot(x - 60, y - 40)
        assert bits[distance < 11].all()
        assert not bits[distance > 13].any()
        assert (warped[distance < 10] > 200).all()
        outside = (x < -1) | (x > size) | (y < -1) | (y > size)
        assert (warped[outside] == FILL).all()
    assert SHEAR < 45


def test_colours_change_little_together_or_by_frame():
    frames = np.full((4, 8, 8, 3), (90, 120, 160), np.uint8)
    greys = changes = 0
    for seed in range(300):
        together = recolour(frames, np.random.default_rng(seed), by_frame=False)
        assert (together == together[0]).all()
        apart = recolour(frames, np.random.default_rng(seed), by_frame=True)
        changes += not (apart == apart[0]).all()
        grey = np.ptp(together[0, 0, 0].astype(int)) <= 1
        greys += grey
        if not grey:
            assert abs(together.astype(int) - frames).max() <= 0.12 * 160 + 8
    assert changes > 290
    assert 3 <= greys <= 35
