"""Perspective crops: where a pixel looks, and that truth and picture look the same way."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import py360convert
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sap_model.scan.trajectory import Scan, View
from sap_model.scan.views import PerspectiveViews, pad
from sap_model.train import crops
from sap_model.train.clip import NoObjectError
from sap_model.train.crops import CropClips, reading, recoloured
from sap_model.train.scan_clips import DecodedPanorama
from tests.sap_model.scan import peers
from tests.synthetic import CEILING, DISCS, FLOOR, TINY, disc_ids

WIDTH, SIDE = 256, 48
SMOOTH = peers.smooth_panorama(WIDTH)


def look(panorama: np.ndarray, view: View, fov: float = 90.0, roll: float = 0.0) -> np.ndarray:
    """A panorama read by `reading`."""
    where = reading(*np.radians([view.yaw, view.pitch]), roll, fov, SIDE, WIDTH)
    how = cv2.INTER_NEAREST if panorama.ndim == 2 else cv2.INTER_LINEAR
    return cv2.remap(pad(panorama, 1), where, None, how)


@pytest.mark.parametrize("view", Scan().views[::5], ids=str)
def test_a_crop_on_the_scans_grid_is_the_scans_view(view):
    views, number = PerspectiveViews(Scan(), SIDE, WIDTH), Scan().views.index(view)
    assert abs(look(SMOOTH, view) - views.render(SMOOTH)[number]).max() < 0.5
    ids = disc_ids(WIDTH)
    ids[ids == CEILING] = FLOOR  # the horizon is a view's border, where two pixels are as near
    assert (look(ids, view) == views.render_ids(ids)[number]).mean() > 0.995
    theirs = py360convert.e2p(SMOOTH, 90, view.yaw, view.pitch, (SIDE, SIDE))
    assert abs(look(SMOOTH, view) - theirs).max() < 1


@given(st.floats(-180, 180), st.floats(-75, 75), st.floats(40, 100))
@settings(deadline=None, max_examples=40)
def test_a_crop_anywhere_sees_what_lies_in_its_directions_also_over_seam_and_pole(yaw, pitch, fov):
    view = View(yaw, pitch, 0, 0)
    due = peers.smooth(peers.view_directions(view, fov, SIDE))
    assert abs(look(SMOOTH, view, fov) - due).max() < 2


def test_rolling_the_camera_turns_the_picture():
    view = View(170.0, 60.0, 0, 0)
    upright = look(SMOOTH, view)
    for quarters in (1, 2, 3):
        rolled = look(SMOOTH, view, roll=quarters * np.pi / 2)
        assert abs(rolled - np.rot90(upright, quarters)).max() < 0.5


# ---- clips

COLOURS = np.random.default_rng(3).integers(30, 220, (16, 3)).astype(np.uint8)


def room() -> DecodedPanorama:
    """Discs, each in one colour."""
    ids = disc_ids(WIDTH)
    ids[ids == TINY] = FLOOR  # falls between the pixels of a crop
    objects = np.unique(ids).astype(np.int64)
    return DecodedPanorama(
        "room", COLOURS[ids], ids, objects, np.zeros((len(objects), 2), np.int64)
    )


def test_truth_hugs_the_picture_however_that_is_turned_mirrored_and_coloured():
    source = CropClips([room()], SIDE, 4, frames=3, step=12.0)
    for seed in range(12):
        clip = source.clip(0, np.random.default_rng(seed))
        assert clip.images.shape == (3, SIDE, SIDE, 3)
        assert clip.images.dtype == clip.truth.dtype == np.uint8
        np.testing.assert_array_equal(clip.views, np.repeat([[0], [1], [2]], 4, axis=1))
        assert clip.prompts is None
        for k in range(4):
            mask = (clip.truth >> k & 1).astype(np.uint8)
            assert mask[0].sum() >= 16, "visible on the first frame"
            # colours mix at an edge, even one beyond the border; inside is one, and nowhere else
            near = np.ones((9, 9), np.uint8)
            inside = np.stack([cv2.erode(m, near, borderValue=0) for m in mask])
            outside = 1 - np.stack([cv2.dilate(m, near) for m in mask])
            colours = np.unique(clip.images[inside == 1], axis=0)
            if len(colours):
                assert len(colours) == 1
                assert not (clip.images[outside == 1] == colours[0]).all(axis=-1).any()


def test_half_of_the_clips_are_mirrored(monkeypatch):
    monkeypatch.setattr(crops, "recoloured", lambda images, rng: images)
    where = []

    def noted(*arguments):
        where.append(reading(*arguments))
        return where[-1]

    monkeypatch.setattr(crops, "reading", noted)
    panorama = room()
    source, mirrored = CropClips([panorama], SIDE, 2), 0
    for seed in range(40):
        clip = source.clip(0, np.random.default_rng(seed))
        read = cv2.remap(pad(panorama.image, 1), where[-1], None, cv2.INTER_LINEAR)
        assert any(np.array_equal(clip.images[0], r) for r in (read, read[:, ::-1]))
        mirrored += np.array_equal(clip.images[0], read[:, ::-1])
    assert 10 < mirrored < 30


def test_the_camera_turns_in_small_steps_and_keeps_its_lens(monkeypatch):
    asked = []
    monkeypatch.setattr(crops, "reading", lambda *a: asked.append(a[:4]) or reading(*a))
    fovs = []
    for seed in range(20):
        asked.clear()
        CropClips([room()], SIDE, 1, frames=4, step=6.0, fov=(50.0, 80.0)).clip(
            0, np.random.default_rng(seed)
        )
        last = np.array(asked[-4:])
        assert np.ptp(last[:, 2:], axis=0).tolist() == [0, 0], "roll and field of view stay"
        steps = np.degrees(np.diff(last[:, :2], axis=0))
        assert abs(steps).max() <= 6
        assert abs(steps).max() > 1
        fovs.append(last[0, 3])
    assert 50 <= min(fovs) < 60
    assert 70 < max(fovs) <= 80


def test_the_same_random_state_gives_the_same_clip():
    source = CropClips([room()], SIDE, 3, frames=2, step=5.0)
    one, again, other = (source.clip(0, np.random.default_rng(seed)) for seed in (4, 4, 5))
    for name in ("images", "truth", "views"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.images, other.images)


def test_a_row_with_few_objects_is_used_and_one_with_none_is_not():
    whole = room()
    ids = np.ones_like(whole.ids)
    ids[: len(ids) // 2] = 2
    few = DecodedPanorama("few", whole.image, ids, np.array([1, 2]), np.zeros((2, 2), np.int64))
    clip = CropClips([few], SIDE, 4).clip(0, np.random.default_rng(0))
    assert clip.views.shape == (1, 4)
    for panorama, pixels in ((whole, SIDE**2 + 1), (few, SIDE**2 + 1)):
        with pytest.raises(NoObjectError, match=panorama.name):
            CropClips([panorama], SIDE, 2, min_pixels=pixels).clip(0, np.random.default_rng(0))
    none = DecodedPanorama(
        "none", whole.image, ids, np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    )
    with pytest.raises(NoObjectError, match="none"):
        CropClips([none], SIDE, 2).clip(0, np.random.default_rng(0))
    assert len(CropClips([few, whole], SIDE, 2)) == 2
    assert len(DISCS) + 1 == len(whole.objects)


def test_recolouring_is_one_rising_curve_for_each_channel_in_some_order():
    ramps = np.zeros((3, 256, 3), np.uint8)  # in row c, channel c alone rises
    for c in range(3):
        ramps[c, :, c] = np.arange(256)
    orders, brightness = set(), []
    for seed in range(60):
        new = recoloured(ramps, np.random.default_rng(seed))
        assert new.dtype == np.uint8
        assert not new[:, 0].any(), "black stays black"
        order = new[:, 255].argmax(axis=1)
        assert sorted(order) == [0, 1, 2]
        for c, to in enumerate(order):
            assert (np.diff(new[c, :, to].astype(int)) >= 0).all()
            assert new[c, 255, to] > 0.7 * 255
            assert not np.delete(new[c], to, axis=1).any()
            brightness.append(new[c, 128, to])
        orders.add(tuple(order))
    assert orders == set(itertools.permutations(range(3)))
    assert np.std(brightness) > 10
