"""Day, evening and daylight alone, in a scene whose radiance is known: sky 1, lamp 5."""

from __future__ import annotations

import json

import pytest

from tests.blender.conftest import make


@pytest.fixture(scope="module")
def lit(tmp_path_factory):
    return json.loads((make("lit", tmp_path_factory.mktemp("lit")) / "lit.json").read_text())


@pytest.mark.parametrize(
    ("lighting", "lamp", "sky"), [("day", 5, 1), ("evening", 5, 0.002), ("lamps_off", 0, 1)]
)
def test_lamps_and_sky_follow_the_lighting(lit, lighting, lamp, sky):
    assert lit[lighting]["used"] == lighting
    assert lit[lighting]["lamp"] == pytest.approx(lamp, abs=1e-5)
    assert lit[lighting]["sky"] == pytest.approx(sky, abs=1e-5)


def test_lamps_stay_on_where_a_viewpoint_sees_no_window(lit):
    assert lit["lamps_off without a window"] == lit["day"]
