"""From clicks to videos and prompts."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import UserError
from sap_model.clicks import Click
from sap_model.predict.prompts import batches, first_of, plan_prompts
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import PerspectiveViews

VIEWS = PerspectiveViews(Scan(), size=64, width=256)
AHEAD, BEHIND, LEFT = Click(130, 60, 1), Click(2, 60, 0), Click(70, 60, 1)


def seen_by(click: Click) -> set[int]:
    return {sighting.view for sighting in VIEWS.visible(click.x, click.y)}


def test_every_visit_to_a_view_that_sees_a_positive_click_is_prompted():
    made = plan_prompts([AHEAD], VIEWS, cycles=2, image_size=64)
    assert made is not None
    assert len(made.views) == 48
    assert not made.corrections
    prompted = [made.views[frame] for frame in made.conditioning]
    assert sorted(prompted) == sorted(2 * list(seen_by(AHEAD)))
    assert 0 in made.conditioning, "the scan starts where the object is seen"
    assert -1 % 48 not in made.conditioning, "and not in the middle of it"


def test_the_first_visits_alone_may_be_prompted():
    every, first = (
        plan_prompts([AHEAD, BEHIND], VIEWS, 2, 64, prompted=prompted)
        for prompted in ("every", "first")
    )
    assert every is not None
    assert first is not None
    assert first.views == every.views
    for all_of_them, early in (
        (every.conditioning, first.conditioning),
        (every.corrections, first.corrections),
    ):
        assert early == {frame: spots for frame, spots in all_of_them.items() if frame < 24}
        assert len(all_of_them) == 2 * len(early) > 0


def test_clicks_lie_where_the_view_sees_them_in_pixels_of_the_input():
    made = plan_prompts([AHEAD], VIEWS, cycles=1, image_size=128)
    assert made is not None
    sightings = {sighting.view: sighting for sighting in VIEWS.visible(AHEAD.x, AHEAD.y)}
    for frame, ((u, v, label),) in made.conditioning.items():
        sighting = sightings[made.views[frame]]
        assert label == 1
        # twice as many pixels: the centre of pixel 0 lies between pixels 0 and 1
        assert (u, v) == pytest.approx((2 * sighting.u + 0.5, 2 * sighting.v + 0.5))


def test_views_that_see_negative_clicks_alone_correct_and_do_not_condition():
    near = Click(134, 62, 0)
    made = plan_prompts([AHEAD, near, BEHIND], VIEWS, cycles=1, image_size=64)
    assert made is not None
    on = seen_by(AHEAD)
    assert {made.views[frame] for frame in made.conditioning} == on
    assert {made.views[f] for f in made.corrections} == (seen_by(near) | seen_by(BEHIND)) - on
    both = {made.views[f]: spots for f, spots in made.conditioning.items()}
    for view in on & seen_by(near):
        assert [label for _, _, label in both[view]] == [1, 0], "in the order of the clicks"
    assert all(label == 0 for spots in made.corrections.values() for _, _, label in spots)


def test_the_first_positive_click_decides_the_start():
    starts = [
        # never None: views that overlap see every click
        plan_prompts(clicks, VIEWS, 1, 64).views[0]
        for clicks in ([AHEAD], [AHEAD, LEFT], [BEHIND, AHEAD], [LEFT, AHEAD])
    ]
    assert starts[0] == starts[1] == starts[2] != starts[3]


@pytest.mark.parametrize(
    ("views", "first"),
    [([3], 3), ([0, 1, 2], 0), ([0, 1, 23], 23), ([5, 4, 20], 20), ([0, 12], 0)],
)
def test_first_means_after_the_longest_stretch_without(views, first):
    assert first_of(views, 24) == first


def test_first_turns_with_the_scan():
    generator = np.random.default_rng(0)
    for _ in range(50):
        views = generator.choice(24, 4, replace=False)
        ordered = np.sort(views)
        gaps = np.diff(ordered, append=ordered[0] + 24)
        if (gaps == gaps.max()).sum() == 1:
            turned = first_of([int(view + 6) % 24 for view in views], 24)
            assert turned == (first_of(views.tolist(), 24) + 6) % 24


def test_objects_without_a_positive_click_are_refused():
    for clicks in ([], [BEHIND], [Click(1, 1, 2)]):
        with pytest.raises(UserError, match="labelled 1"):
            plan_prompts(clicks, VIEWS, 2, 64)


def test_a_click_that_no_view_sees_makes_no_plan():
    apart = PerspectiveViews(Scan(overlap=0), size=64, width=256)
    # on the horizon between two columns: 45° off, where views at pitch ±45° reach only to 35.3°
    assert plan_prompts([Click(128 + 32, 64, 1)], apart, 2, 64) is None
    assert plan_prompts([Click(128, 64, 1)], apart, 2, 64) is not None


def test_batches_hold_objects_of_one_shape_and_all_of_them():
    generator = np.random.default_rng(1)
    clicks = [
        [Click(int(x), int(y), 1), *([Click(int(y), int(y), 0)] if x % 2 else [])]
        for x, y in generator.integers((0, 10), (256, 118), (40, 2))
    ]
    plans = [plan_prompts(each, VIEWS, 2, 64) for each in clicks]
    plans[7] = None
    done = []
    for indices, batch in batches(plans, limit=3):
        assert 1 <= len(indices) <= 3
        done += indices
        for row, index in enumerate(indices):
            made = plans[index]
            assert made is not None
            assert batch.views[row].tolist() == list(made.views)
            for frames, prompts in (
                (batch.conditioning, made.conditioning),
                (batch.corrections, made.corrections),
            ):
                assert frames.keys() == prompts.keys()
                for frame, spots in prompts.items():
                    points = frames[frame]
                    assert points.coords[row].tolist() == pytest.approx(
                        np.array(spots)[:, :2], abs=1e-4
                    )
                    assert points.labels[row].tolist() == [spot[2] for spot in spots]
    assert sorted(done) == [i for i in range(40) if i != 7]
