"""Images of the nano recipe: masks and pictures belong together, and the same state draws the
same image."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.annotations.click_point import click_mask
from sap_model.train.nano_images import (
    Pool,
    Scene,
    anywhere,
    dead_leaves,
    half_known,
    innermost,
    pasted,
    varied,
    view,
    visible,
)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def pool(shards) -> Pool:
    return Pool([str(shards)])


@pytest.fixture
def blob() -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[10:40, 20:50] = True
    mask[15:20, 50:60] = True
    return mask


def test_same_state_draws_same_image(pool):
    for draw in (
        lambda rng: view(pool.draw(rng), 64, rng),
        lambda rng: dead_leaves(64, rng),
    ):
        first, again, other = draw(random(1)), draw(random(1)), draw(random(2))
        assert np.array_equal(first.image, again.image) and np.array_equal(first.ids, again.ids)
        assert not np.array_equal(first.image, other.image)


def test_view_shows_objects_that_it_names(pool):
    scene = view(pool.draw(random()), 128, random(3))
    counts = {int(key): int((scene.ids == key).sum()) for key in scene.objects}
    assert counts and all(count >= 6 for count in counts.values())  # 24 at 256 × 256
    assert set(visible(scene.ids)) == set(counts)


def test_leaves_cover_each_other():
    scenes = [dead_leaves(128, random(seed)) for seed in range(6)]
    assert all(len(scene.objects) >= 3 for scene in scenes)
    assert any(scene.ids.max() > len(scene.objects) for scene in scenes), "some are hidden"


def test_pasted_object_brings_its_pixels():
    grey = Scene(np.full((64, 64, 3), 90, np.uint8), np.zeros((64, 64), np.uint16), np.array([]))
    ids = np.zeros((64, 64), np.uint16)
    ids[5:20, 5:20] = 7
    image = np.where((ids == 7)[..., None], np.uint8([250, 0, 0]), np.uint8(128))
    found = pasted(grey, Scene(image, ids, np.array([7])), 1, random(5))
    inside = found.ids == found.objects[0]
    assert len(found.objects) == 1 and inside.any()
    assert (found.image[inside] != 90).any(axis=-1).all()
    assert (found.image[~inside] == 90).all()
    assert (grey.image == 90).all(), "the scene itself is left alone"


def test_colours_change_and_shape_does_not():
    image = dead_leaves(64, random(6)).image
    found = varied(image, random(7))
    assert found.shape == image.shape and found.dtype == np.uint8
    assert not np.array_equal(found, image)


def test_innermost_point_is_the_first_click(blob):
    click = click_mask(blob)
    x, y = innermost(blob)
    assert blob[y, x]
    assert abs(x - click.x) <= 1 and abs(y - click.y) <= 1


def test_any_point_lies_on_the_object(blob):
    points = {anywhere(blob, random(seed)) for seed in range(30)}
    assert len(points) > 20 and all(blob[y, x] for x, y in points)


def test_half_known_mask_is_a_part_with_a_wrong_outline(blob):
    shares = []
    for seed in range(40):
        known = half_known(blob, random(seed))
        assert (known & blob).sum() >= 12
        shares.append((known & blob).sum() / blob.sum())
        near = np.zeros_like(blob)
        near[7:43, 17:63] = True
        assert not (known & ~near).any()
    assert min(shares) < 0.5 and max(shares) == 1
