"""Equal settings are equal however they are written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.run_settings import (
    GENERATORS,
    PROFILES,
    RunSettings,
    from_json,
    generator_of_seed,
    make_settings,
    scene_files,
    scene_id,
    settings_hash,
    to_json,
)
from tests.errors import raises_user_error


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("indoors", "indoors:3"),
        ("indoors:3,rooms:1", "rooms:1,indoors:3"),
        ("indoors:3,rooms:1", "indoors:0.75,rooms:0.25"),
        ("indoors,rooms:2", "rooms:1,indoors:0.5"),
    ],
)
def test_one_mix_has_one_hash_and_one_draw(one, other):
    first, second = make_settings(generator=one), make_settings(generator=other)
    assert first == second
    assert settings_hash(first) == settings_hash(second)
    draws = [[generator_of_seed(each, seed) for seed in range(50)] for each in (first, second)]
    assert draws[0] == draws[1]


def test_the_weights_are_the_shares():
    mix = make_settings(generator="rooms:1,indoors:3")
    assert mix.generators == (("indoors", 0.75), ("rooms", 0.25))
    drawn = [generator_of_seed(mix, seed) for seed in range(4000)]
    assert drawn.count("indoors") == pytest.approx(3000, abs=150)


WEIGHTS = st.lists(st.floats(0.01, 1000), min_size=1, max_size=len(GENERATORS))


@given(WEIGHTS)
def test_settings_stay_the_same_through_a_file(weights):
    settings = RunSettings(tuple(zip(GENERATORS, weights, strict=False)))
    assert from_json(json.loads(json.dumps(to_json(settings)))) == settings
    assert sum(share for _, share in settings.generators) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("mix", ["indoors:1e9,rooms:1", "indoors:1e308,rooms:1e308"])
def test_a_share_of_nothing_is_refused(mix):
    with pytest.raises(UserError, match="millionth"):
        make_settings(generator=mix)


def test_passes_are_kept_in_one_order():
    assert make_settings(passes=("normal", "depth")) == make_settings(passes=("depth", "normal"))


@pytest.mark.parametrize("profile", PROFILES)
def test_width_and_samples_are_the_profiles_unless_given(profile):
    settings = make_settings(profile=profile)
    assert (settings.width, settings.samples) == (
        PROFILES[profile].width,
        PROFILES[profile].samples,
    )
    assert make_settings(profile=profile, samples=3).samples == 3
    assert from_json(to_json(settings)) == settings


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"generator": "nature"}, "GENERATOR=nature"),
        ({"generator": "rooms:0"}, "the weight 0.0 of rooms"),
        ({"generator": "rooms,rooms"}, "GENERATOR names rooms twice"),
        ({"detail": "richer"}, "DETAIL"),
        ({"lighting": (("night", 1.0),)}, "LIGHTING=night is unknown"),
        ({"profile": "fast"}, "PROFILE=fast"),
        ({"profile": "auto"}, "PROFILE=auto"),
        ({"width": 1001}, "WIDTH=1001 is not even"),
        ({"width": 16384}, "WIDTH=16384 is out of range"),
        ({"passes": ("flow",)}, "PASSES=flow"),
        ({"panos": 0}, "PANOS=0"),
        ({"seed": -5}, "SEED=-5"),
        ({"samples": 0}, "SAMPLES=0"),
        ({"min_area": 0}, "MIN_AREA=0"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_name(wrong, said):
    with pytest.raises(UserError) as error:
        make_settings(**wrong)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_hash_of_a_run_is_what_it_was():
    """Runs that were begun by earlier versions continue: the hashed text must not change."""
    assert to_json(RunSettings()) == {
        "generators": [["indoors", 1.0]],
        "seed": 0,
        "panos": 2,
        "profile": "cpu",
        "width": 4096,
        "samples": 2,
        "detail": "fast",
        "lighting": [["day", 1.0]],
        "passes": [],
        "min_area": 100,
    }


def test_files_are_scenes_by_name(tmp_path):
    for name in ("b.glb", "a.blend", "notes.txt", "c.OBJ"):
        (tmp_path / name).touch()
    settings = make_settings(f"files:{tmp_path}/*", profile="draft")
    assert settings.pattern == f"{tmp_path}/*" and settings.last_seed == 2
    assert [path.name for path in scene_files(settings.pattern)] == ["a.blend", "b.glb", "c.OBJ"]
    assert scene_id(settings, 2) == "files-0000000002"
    assert from_json(to_json(settings)) == settings
    with raises_user_error("matches no scene"):
        scene_files(f"{tmp_path}/*.usdz")


def test_files_are_no_part_of_a_mix():
    with raises_user_error("GENERATOR=files"):
        make_settings("rooms:1,files:2")
