"""Equal settings are equal however they are written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.settings import (
    GENERATORS,
    RunSettings,
    from_json,
    generator_of_seed,
    make_settings,
    settings_hash,
    to_json,
)


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


WEIGHTS = st.lists(st.floats(0.001, 1000), min_size=1, max_size=len(GENERATORS))


@given(WEIGHTS)
def test_settings_stay_the_same_through_a_file(weights):
    settings = RunSettings(tuple(zip(GENERATORS, weights, strict=False)))
    assert from_json(json.loads(json.dumps(to_json(settings)))) == settings
    assert sum(share for _, share in settings.generators) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("mix", ["indoors:1e9,rooms:1", "indoors:1e308,rooms:1e308"])
def test_a_share_of_nothing_is_refused(mix):
    with pytest.raises(UserError, match="less than a millionth"):
        make_settings(generator=mix)
