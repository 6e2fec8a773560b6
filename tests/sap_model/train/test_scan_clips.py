"""Clips along the scan: which views, truth and prompts. Discs on a sphere are the judge."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sap_model.clicks import POSITIVE, Click
from sap_model.predict.methods import METHODS, scan_of
from sap_model.predict.prompts import first_of, plan_prompts
from sap_model.scan.trajectory import Scan
from sap_model.train.clip import Clip, NoObjectError
from sap_model.train.scan_clips import ScanClips, draw, pixels_of
from sap_model.train.shard_rows import DecodedPanorama
from tests.sap_model.scan import peers
from tests.synthetic import CEILING, DISCS, FLOOR, TINY, disc

WIDTH, SIDE = 256, 64
BALLS = {10 + k: (36.0 * k - 170, 20.0 * (-1) ** k, 9.0) for k in range(10)}
"""Further discs: id, longitude, latitude, radius in degrees."""

MANY = {
    100 + k: (137.5 * k % 360 - 180, float(np.degrees(np.arcsin(1 - (2 * k + 1) / 40))), 7.0)
    for k in range(40)
}
"""Equal discs, spread evenly over the sphere: 13 % of them lie above 60° of latitude."""

ABLATIONS = ("erp", "sap-no-overlap", "sap-no-scan")


def room(things: dict = DISCS | BALLS) -> DecodedPanorama:
    """Discs between a floor and a ceiling; a picture whose every direction has its own colour."""
    ids = np.full((WIDTH // 2, WIDTH), CEILING, np.uint16)
    ids[WIDTH // 4 :] = FLOOR
    clicks = {FLOOR: (5, WIDTH // 2 - 10), CEILING: (40, 40)}
    for label, (lon, lat, radius) in things.items():
        ids[disc(lon, lat, radius, WIDTH)] = label
        x = round((lon / 360 + 0.5) * WIDTH - 0.5) % WIDTH
        clicks[label] = (x, max(0, round((0.5 - lat / 180) * WIDTH / 2 - 0.5)))
    objects = np.unique(ids[ids > 0]).astype(np.int64)
    image = np.round(peers.smooth_panorama(WIDTH)).astype(np.uint8)
    return DecodedPanorama("room", image, ids, objects, np.array([clicks[k] for k in objects]))


def alone(lon: float, lat: float, radius: float) -> DecodedPanorama:
    """A single disc, and nothing else."""
    ids = np.where(disc(lon, lat, radius, WIDTH), 3, 0).astype(np.uint16)
    image = np.round(peers.smooth_panorama(WIDTH)).astype(np.uint8)
    x, y = round((lon / 360 + 0.5) * WIDTH - 0.5), round((0.5 - lat / 180) * WIDTH / 2 - 0.5)
    return DecodedPanorama("alone", image, ids, np.array([3]), np.array([[x, y]]))


def scans(
    rows: Sequence[DecodedPanorama], objects: int = 4, frames: int = 24, **options
) -> ScanClips:
    return ScanClips(rows, SIDE, objects, frames, **options)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


DIRECTIONS = np.stack([peers.view_directions(view, 90, SIDE) for view in Scan().views])
PICTURES = peers.smooth(DIRECTIONS)[:, ::8, ::8]


def _nearest() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of the panorama's pixel that each view's pixel looks at; where two tie."""
    x, y, z = np.moveaxis(DIRECTIONS, -1, 0)
    column = (np.arctan2(x, z) / (2 * np.pi) + 0.5) * WIDTH - 0.5
    row = np.arccos(np.clip(-y, -1, 1)) / np.pi * (WIDTH // 2) - 0.5
    tie = np.minimum(abs(column % 1 - 0.5), abs(row % 1 - 0.5)) < 1e-6
    whole = np.clip(np.rint(row).astype(int), 0, WIDTH // 2 - 1)
    return whole, np.rint(column).astype(int) % WIDTH, tie


ROW, COLUMN, TIE = _nearest()


def shown(clip: Clip) -> np.ndarray:
    """(T, K): which view of the paper's scan each frame is, told from its colours."""
    far = [abs(PICTURES - image[::8, ::8]).mean(axis=(1, 2, 3)) for image in clip.images]
    assert max(min(row) for row in far) < 2
    return np.argmin(far, axis=1)[clip.views]


def masks_of(clip: Clip, k: int) -> np.ndarray:
    """(T, S, S): one object's truth, frame by frame."""
    return (clip.truth[clip.views[:, k]] >> k & 1).astype(bool)


def followed(clip: Clip, panorama: DecodedPanorama) -> list[int]:
    """Ids of a clip's objects, as the views looked up independently tell; checks all truth."""
    order, found = shown(clip), []
    seen = panorama.ids[ROW, COLUMN]
    for k in range(order.shape[1]):
        truth, due, sure = masks_of(clip, k), seen[order[:, k]], ~TIE[order[:, k]]
        label = np.bincount(due[truth & sure]).argmax()
        np.testing.assert_array_equal((due == label)[sure], truth[sure])
        found.append(int(label))
    return found


@pytest.mark.parametrize("frames", [7, 24, 30, 48])
@pytest.mark.parametrize("sap", [0.0, 1.0])
def test_windows_are_stretches_of_the_closed_scan(frames, sap):
    clip = scans([room()], frames=frames, inference_prompt_fraction=sap).clip(0, rng(frames))
    order = shown(clip)
    assert order.shape == (frames, 4)
    for column in order.T:
        np.testing.assert_array_equal(column, (column[0] + np.arange(frames)) % 24)
        assert tuple(column) == Scan().cyclic(int(column[0]))[:frames]
    assert len(clip.images) == len(np.unique(order)), "each view once, and none that nobody visits"
    assert clip.images.dtype == clip.truth.dtype == np.uint8
    assert (clip.prompts is None) == (sap == 0.0)


@pytest.mark.parametrize("sap", [0.0, 1.0])
def test_truth_is_the_object_through_every_view_and_it_is_there_at_the_start(sap):
    panorama = room()
    source = scans([panorama], objects=8, inference_prompt_fraction=sap, min_pixels=16)
    for seed in range(4):
        clip = source.clip(0, rng(seed))
        ids = followed(clip, panorama)
        assert TINY not in ids, "a few pixels are noise"
        assert all(masks_of(clip, k)[0].sum() >= 16 for k in range(8))


def test_truth_hugs_the_discs_themselves():
    panorama = room(BALLS)
    clip = scans([panorama], objects=8, frames=24, inference_prompt_fraction=0.0).clip(0, rng(2))
    order = shown(clip)
    checked = 0
    for k, label in enumerate(followed(clip, panorama)):
        if label not in BALLS:
            continue
        lon, lat, radius = BALLS[label]
        lon, lat = np.radians([lon, lat])
        centre = [np.cos(lat) * np.sin(lon), -np.sin(lat), np.cos(lat) * np.cos(lon)]
        angle = np.degrees(np.arccos(np.clip(DIRECTIONS[order[:, k]] @ centre, -1, 1)))
        mask = masks_of(clip, k)
        pixel = 360 / WIDTH
        assert mask[angle < radius - pixel].all()
        assert not mask[angle > radius + pixel].any()
        checked += 1
    assert checked >= 3


def test_objects_start_where_they_are_and_share_images():
    clip = scans([room()], objects=8, frames=12, inference_prompt_fraction=0.0).clip(0, rng(1))
    order = shown(clip)
    assert len(set(order[0])) > 3
    assert len(clip.images) < order.size / 2


def test_starts_are_any_views_that_show_the_object():
    panorama = alone(0.0, 0.0, 12.0)
    source = scans([panorama], objects=1, frames=1, inference_prompt_fraction=0.0, min_pixels=16)
    starts = {int(shown(source.clip(0, rng(seed)))[0, 0]) for seed in range(60)}
    enough = {v for v in range(24) if (panorama.ids[ROW[v], COLUMN[v]] == 3).sum() >= 16}
    assert starts == enough
    assert len(enough) >= 5


@pytest.mark.parametrize("frames", [10, 24, 48])
def test_clips_as_at_inference_are_what_a_click_at_inference_would_be(frames):
    panorama, cycles = room(), -(-frames // 24)
    source = scans([panorama], objects=6, frames=frames, inference_prompt_fraction=1.0)
    views, stored = source.views(WIDTH), 0
    for seed in range(4):
        clip = source.clip(0, rng(seed))
        order, ids = shown(clip), followed(clip, panorama)
        assert clip.prompts is not None
        for k, label in enumerate(ids):
            prompts = clip.prompts[k]
            assert min(prompts) == 0
            assert max(prompts) < frames
            # back from the first view to the pixel that was clicked, which lies on the object
            ((u, v, _),) = prompts[0]
            ray = np.linalg.inv(peers.intrinsics(90, SIDE)) @ [u, v, 1]
            x, y, z = peers.rotation(Scan().views[order[0, k]]) @ ray
            column = (np.arctan2(x, z) / (2 * np.pi) + 0.5) * WIDTH - 0.5
            row = (np.arctan2(y, np.hypot(x, z)) / np.pi + 0.5) * WIDTH / 2 - 0.5
            click = Click(round(column) % WIDTH, round(row), POSITIVE)
            assert abs(column - round(column)) < 1e-3
            assert abs(row - round(row)) < 1e-3
            assert panorama.ids[click.y, click.x] == label
            stored += list(click[:2]) in panorama.clicks.tolist()
            # from there on it is the predictor's video
            due = plan_prompts([click], views, cycles, SIDE)
            assert due is not None
            assert due.views[:frames] == tuple(order[:, k])
            assert prompts == {t: s for t, s in due.conditioning.items() if t < frames}
    assert 4 < stored < 24, "stored clicks, and clicks anywhere"


def test_clicks_lie_on_the_object_in_every_view_that_sees_them():
    panorama = room()
    source = scans([panorama], objects=8, inference_prompt_fraction=1.0)
    for seed in range(4):
        clip = source.clip(0, rng(seed))
        for k, prompts in enumerate(clip.prompts):
            for frame, ((u, v, label),) in prompts.items():
                mask = masks_of(clip, k)[frame]
                near = np.argwhere(mask)[:, ::-1] - (u, v)
                # a clicked pixel of the panorama may fall between pixels of the view
                assert np.hypot(*near.T).min() < 1.5
                assert label == POSITIVE


def patterns(source: ScanClips, panorama: DecodedPanorama) -> tuple[Counter, float]:
    """How often objects of clips are prompted on which frames, and the share of polar clicks.

    Polar is a click above 60° of latitude, where the paper's table 7 looks.
    """
    found: Counter = Counter()
    polar = 0
    for seed in range(60):
        clip = source.clip(0, rng(seed))
        found.update(tuple(sorted(prompts)) for prompts in clip.prompts)
        for label in followed(clip, panorama):
            polar += abs(MANY[label][1]) > 60 if label in MANY else 0
    return found, polar / found.total()


def test_prompt_patterns_occur_as_often_as_at_inference():
    """Grouping objects by pattern, and taking the largest group, gave two patterns 94 %."""
    panorama = room(MANY)
    source = scans([panorama], objects=8, inference_prompt_fraction=1.0)
    found, polar = patterns(source, panorama)
    draws, clicks = rng(1), []
    for k in draws.choice(len(panorama.objects), 2000):  # its stored click or any of its pixels
        pixels = np.argwhere(panorama.ids == panorama.objects[k])[:, ::-1]
        clicks.append(panorama.clicks[k] if draws.random() < 0.5 else draws.choice(pixels))
    _, _, seen = source.views(WIDTH).project(*np.transpose(clicks))
    prior: Counter = Counter()
    for column in seen.T:
        views = np.flatnonzero(column).tolist()
        prior[tuple(sorted((view - first_of(views, 24)) % 24 for view in views))] += 1
    assert len(prior) > 8
    names = prior.keys() | found.keys()
    apart = sum(abs(prior[n] / prior.total() - found[n] / found.total()) for n in names) / 2
    assert apart < 0.12
    share = sum(abs(lat) > 60 for _, lat, _ in MANY.values()) / len(panorama.objects)
    assert abs(polar - share) < 0.04


def test_an_object_is_taken_twice_only_where_no_other_can_be_had():
    ring = {20 + k: (45.0 * k - 179, 1.0, 10.0) for k in range(8)}
    panorama = room(ring)
    clip = scans([panorama], objects=8, inference_prompt_fraction=0.0).clip(0, rng())
    assert len(set(followed(clip, panorama))) == 8
    few = alone(30.0, 10.0, 12.0)
    for sap in (0.0, 1.0):
        clip = scans([few], objects=3, inference_prompt_fraction=sap).clip(0, rng())
        assert followed(clip, few) == [3, 3, 3]
    assert clip.prompts is not None
    assert len({prompts[0] for prompts in clip.prompts}) == 3, "each time by another click"
    kept = np.isin(panorama.objects, list(ring))
    only = DecodedPanorama("ring", panorama.image, panorama.ids, *(
        part[kept] for part in (panorama.objects, panorama.clicks)
    ))  # fmt: skip
    source = scans([only], objects=4, inference_prompt_fraction=1.0)
    for seed in range(6):
        assert len(set(followed(source.clip(0, rng(seed)), only))) == 4


def test_a_row_with_nothing_to_train_on_says_so():
    empty = DecodedPanorama(
        "empty", room().image, room().ids, np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    )
    for sap in (0.0, 1.0):
        with pytest.raises(NoObjectError, match="empty"):
            scans([empty], inference_prompt_fraction=sap).clip(0, rng())
        with pytest.raises(NoObjectError, match="room"):
            scans([room()], inference_prompt_fraction=sap, min_pixels=SIDE**2 + 1).clip(0, rng())


def test_what_lies_between_views_that_do_not_overlap_is_not_trained_on():
    options = {"scan": Scan(90, 0.0), "objects": 2, "frames": 8}
    for sap in (0.0, 1.0):
        with pytest.raises(NoObjectError):
            scans([alone(45.0, 0.0, 4.0)], inference_prompt_fraction=sap, **options).clip(0, rng())
    # of a larger one the rim is seen, and clicked
    clip = scans([alone(45.0, 0.0, 25.0)], inference_prompt_fraction=1.0, **options).clip(0, rng())
    assert clip.views.shape == (8, 2)
    assert masks_of(clip, 0)[0].sum() >= 16


@pytest.mark.parametrize("method", ABLATIONS)
@pytest.mark.parametrize("sap", [0.0, 1.0])
def test_ablations_see_their_own_views(method, sap):
    panorama = room()
    source = scans(
        [panorama],
        inference_prompt_fraction=sap,
        scan=scan_of(method),
        views=METHODS[method].views,
        frames=24,
    )
    clip = source.clip(0, rng(3))
    views = source.views(WIDTH)
    ids, pictures = views.render_ids(panorama.ids), views.render(panorama.image)
    count = {"erp": 24, "sap-no-overlap": 8, "sap-no-scan": 1}[method]
    assert len(ids) == count
    assert len(clip.views) == (1 if method == "sap-no-scan" else 24), "a still is one frame"
    order = np.array([[np.array_equal(a, b) for b in pictures] for a in clip.images]).argmax(1)
    for k in range(4):
        column = order[clip.views[:, k]]
        np.testing.assert_array_equal(column, (column[0] + np.arange(len(column))) % count)
        truth = masks_of(clip, k)
        assert any(np.array_equal(truth, ids[column] == label) for label in panorama.objects)
        assert truth[0].sum() >= 16
    if sap:
        assert len(clip.prompts) == 4
        for frame, spots in (pair for prompts in clip.prompts for pair in prompts.items()):
            assert all(0 <= u <= SIDE - 1 and 0 <= v <= SIDE - 1 for u, v, _ in spots)
            assert frame < len(clip.views)
    else:
        assert clip.prompts is None


def test_the_same_random_state_gives_the_same_clip_also_elsewhere():
    source = scans([room()], inference_prompt_fraction=0.5)
    elsewhere = pickle.loads(pickle.dumps(source))  # noqa: S301
    for seed in range(4):
        one, other = source.clip(0, rng(seed)), elsewhere.clip(0, rng(seed))
        for name in ("images", "truth", "views"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert one.shape == other.shape
    assert not np.array_equal(one.views, source.clip(0, rng(99)).views)


def test_pixels_are_counted_for_each_object_in_each_view():
    ids = rng().integers(0, 7, (3, 5, 5)).astype(np.uint16)
    objects = np.array([4, 900, 1])
    due = [[(view == label).sum() for label in objects] for view in ids]
    np.testing.assert_array_equal(pixels_of(ids, objects), due)
    assert pixels_of(ids, objects[:0]).shape == (3, 0)


@given(st.sets(st.integers(0, 99), min_size=1), st.integers(1, 40), st.integers(0, 9))
@settings(deadline=None)
def test_all_are_drawn_before_any_twice(able, count, seed):
    drawn = draw(np.array(sorted(able)), count, rng(seed)).tolist()
    times = [drawn.count(each) for each in able]
    assert sum(times) == count
    assert max(times) - min(times) <= 1
