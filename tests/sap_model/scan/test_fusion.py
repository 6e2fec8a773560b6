"""Masks → panorama: against brute force without tiles, the definition, and known objects."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sap_model.scan.fusion import pieces
from sap_model.scan.tiles import BLOCK, TileMaps
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import ErpWindowViews, MappedViews, PerspectiveViews, soft_masks
from tests.sap_model.scan import peers
from tests.synthetic import disc

SIZE, WIDTH = 96, 384
DEFAULT = PerspectiveViews(Scan(), SIZE, WIDTH)
BIG = PerspectiveViews(Scan(), 256, 1024)
ALL = [
    DEFAULT,
    PerspectiveViews(Scan(90, 0), SIZE, WIDTH),  # with holes
    PerspectiveViews(Scan(), 75, 500),  # tiles that do not fill the rows, a fraction of a column
    PerspectiveViews(Scan(90, 2 / 3), SIZE, 326),  # 2 × 163: only huge or tiny tiles
    ErpWindowViews(Scan(), SIZE, WIDTH),
]
DISCS = st.tuples(st.floats(-180, 180), st.floats(-90, 90), st.floats(3, 170))
FUSIONS = st.sampled_from(["max", "mean"])


def without_tiles(views: MappedViews, masks: np.ndarray, fusion: str) -> np.ndarray:
    """Soft mask by sampling everything that every view sees, with the same positions."""
    total = np.zeros((views.height, views.width), np.float32)
    whole = masks.dtype == bool
    for place, mask in zip(views.maps.places, masks, strict=True):
        box, table = views.maps.writing(place.pitch, place.fraction)
        source = mask.astype(np.uint8) * 255 if whole else mask
        values = cv2.remap(source, *table, cv2.INTER_LINEAR).astype(np.float32)
        for here, there in pieces(place.column + box.west, box.east - box.west, views.width):
            part = total[box.top : box.bottom, here]
            combine = np.maximum if fusion == "max" else np.add
            combine(part, values[:, there], out=part)
    one = np.maximum(views.counts(), 1) if fusion == "mean" else 1
    return total / (one * np.float32(255 if whole else 1))


def some_masks(views: MappedViews, seed: int) -> np.ndarray:
    """Noise, single pixels, full and empty views, blocks, borders: each view for itself."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((len(views), views.size, views.size), bool)
    for mask in masks:
        kind = generator.integers(6)
        if kind == 0:
            mask[:] = True
        elif kind == 1:
            mask[tuple(generator.integers(0, views.size, 2))] = True
        elif kind == 2:
            mask[:] = generator.random(mask.shape) < 0.9
        elif kind == 3:
            left, top = generator.integers(0, views.size, 2)
            mask[top:, left:] = True
        elif kind == 4:
            mask[:, 0] = mask[-1] = True
    return masks


@given(st.sampled_from(ALL), st.integers(0, 1000), FUSIONS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_tiles_change_nothing(views, seed, fusion, soft):
    masks = some_masks(views, seed)
    given_masks = cv2.blur(masks.astype(np.float32).T, (5, 5)).T.copy() if soft else masks
    if soft:
        given_masks = soft_masks(np.where(given_masks > 0.99, 9, 10 * given_masks - 5))
    due = without_tiles(views, given_masks, fusion)
    found = views.soft_panorama(given_masks, fusion)
    np.testing.assert_allclose(found, due, rtol=0, atol=1e-6)
    hard = views.to_panorama(given_masks, fusion)
    certain = abs(due - 0.5) > 0.0021
    np.testing.assert_array_equal(hard[certain], (due >= 0.5)[certain])


@pytest.mark.parametrize("views", ALL, ids=lambda views: f"{type(views).__name__} {views.width}")
def test_tiles_read_the_blocks_they_say(views):
    tile_maps = TileMaps(views.maps)
    for place in views.maps.places[:5]:
        box, table = views.maps.writing(place.pitch, place.fraction)
        tiles, _ = tile_maps.of(place)
        rows, columns = np.nonzero(table.whole[..., 0] >= 0)
        x, y = np.moveaxis(table.whole[rows, columns].astype(int), -1, 0)
        fraction = table.fraction[rows, columns]
        row = (rows + box.top) // tile_maps.edge - tiles.row
        shift = place.column % tile_maps.edge
        column = (columns + box.west + shift) // tile_maps.edge - tiles.column
        assert tiles.any_seen[row, column].all()
        assert (tiles.left[row, column] <= x // BLOCK).all()
        assert (tiles.top[row, column] <= y // BLOCK).all()
        # between two pixels both are read
        assert (tiles.right[row, column] > (x + (fraction % 32 > 0)) // BLOCK).all()
        assert (tiles.bottom[row, column] > (y + (fraction // 32 > 0)) // BLOCK).all()


@given(st.sampled_from([DEFAULT, ALL[2], ALL[3]]), DISCS, FUSIONS)
@settings(max_examples=10, deadline=None)
def test_fusion_is_the_papers_equation(views, shape, fusion):
    masks = views.render_ids(disc(*shape, views.width))
    x, y = np.meshgrid(np.arange(views.width), np.arange(views.height))
    values, seen, clear = [], [], True
    last = views.size - 1
    for view, mask in zip(views.scan.views, masks.astype(float), strict=True):
        u, v, depth = peers.project(x, y, views.width, view, 90, views.size)
        visible = (depth > 0) & (u >= 0) & (v >= 0) & (u <= last) & (v <= last)
        inside = np.min([u, v, last - u, last - v], axis=0)
        clear &= (depth < 1e-6) | (abs(inside) > 1e-5)  # on a border rounding decides
        u, v = np.where(visible, u, 0), np.where(visible, v, 0)
        left, top = np.minimum(u.astype(int), last - 1), np.minimum(v.astype(int), last - 1)
        a, b = u - left, v - top
        value = (1 - b) * ((1 - a) * mask[top, left] + a * mask[top, left + 1])
        value += b * ((1 - a) * mask[top + 1, left] + a * mask[top + 1, left + 1])
        values.append(value * visible)
        seen.append(visible)
    due = np.max(values, axis=0)
    if fusion == "mean":
        due = np.sum(values, axis=0) / np.maximum(np.sum(seen, axis=0), 1)
    # positions are rounded to 1/32 pixel, and the values to 1/255
    assert np.mean(clear) > 0.95
    assert abs(views.soft_panorama(masks, fusion) - due)[clear].max() < 2 / 64 + 1 / 255


@given(DISCS, st.integers(0, 7), FUSIONS)
@settings(max_examples=20, deadline=None)
def test_rolling_by_yaw_steps_rolls_the_oracles_mask_exactly(shape, steps, fusion):
    truth = disc(*shape, WIDTH)
    turned = np.roll(truth, steps * WIDTH // 8, axis=1)
    found = DEFAULT.to_panorama(DEFAULT.render_ids(truth), fusion)
    found_turned = DEFAULT.to_panorama(DEFAULT.render_ids(turned), fusion)
    np.testing.assert_array_equal(np.roll(found, steps * WIDTH // 8, axis=1), found_turned)


@given(st.floats(-180, 180), st.floats(-90, 90), st.floats(20, 120), st.integers(0, 1023), FUSIONS)
@settings(max_examples=10, deadline=None)
def test_rolling_by_any_columns_rolls_the_oracles_mask(lon, lat, radius, columns, fusion):
    truth = disc(lon, lat, radius, 1024)
    found = BIG.to_panorama(BIG.render_ids(truth), fusion)
    turned = BIG.to_panorama(BIG.render_ids(np.roll(truth, columns, axis=1)), fusion)
    assert peers.iou(np.roll(found, columns, axis=1), turned) >= 0.98


@pytest.mark.parametrize(
    "shape",
    [(180, 10, 20), (0, 90, 25), (0, -90, 25), (-90, 85, 30), (10, 0, 60), (0, 90, 100)],
    ids=["seam", "zenith", "nadir", "beside the zenith", "ahead", "more than a half"],
)
def test_the_oracle_finds_objects_wherever_they_lie(shape):
    truth = disc(*shape, 1024)
    masks = BIG.render_ids(truth)
    assert peers.iou(BIG.to_panorama(masks, "mean"), truth) > 0.99
    maximum = BIG.to_panorama(masks)
    assert peers.iou(maximum, truth) > 0.95
    assert (maximum | ~BIG.to_panorama(masks, "mean")).all()  # max dilates


@pytest.mark.parametrize("views", ALL, ids=lambda views: f"{type(views).__name__} {views.width}")
@pytest.mark.parametrize("fusion", ["max", "mean"])
def test_all_and_nothing(views, fusion):
    nothing = np.zeros((len(views), views.size, views.size), bool)
    assert not views.to_panorama(nothing, fusion).any()
    assert not views.soft_panorama(nothing.astype(np.float32), fusion).any()
    seen = views.counts() > 0
    np.testing.assert_array_equal(views.to_panorama(~nothing, fusion), seen)
    np.testing.assert_array_equal(views.soft_panorama(~nothing, fusion), seen)
    np.testing.assert_array_equal(views.to_panorama((~nothing).astype(np.float16), fusion), seen)


def test_what_one_of_four_views_says_is_maximum_but_not_mean():
    masks = np.zeros((24, SIZE, SIZE), bool)
    masks[1] = True  # yaw 0, pitch 0
    x, y = WIDTH // 2 + 1, WIDTH // 4 + 1
    count = int(DEFAULT.counts()[y, x])
    assert DEFAULT.soft_panorama(masks)[y, x] == 1
    assert DEFAULT.soft_panorama(masks, "mean")[y, x] == pytest.approx(1 / count)
