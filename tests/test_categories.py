"""Categories of object names of both InfiniGen versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.categories import (
    FIXTURES,
    OBJECTS,
    STRUCTURE,
    UNNAMED,
    category_of,
    known_categories,
)


@pytest.mark.parametrize(
    ("name", "category", "is_structure"),
    [
        # v1: factories, with and without a module prefix, parts, Blender's suffixes
        ("ChairFactory(5481524).spawn_asset(1030904)", "chair", False),
        ("static_assets.StaticSofaFactory(3).spawn_asset(4)", "sofa", False),
        ("TVStandFactory(1).spawn_asset(2).001", "tv_stand", False),
        ("LShapedStaircaseFactory(1)", "staircase", True),
        # v1: structure, named after its room
        ("living-room_0/0.wall", "wall", True),
        ("kitchen_0/1.floor.001", "floor", True),
        ("bedroom_0/0.ceiling", "ceiling", True),
        ("bedroom_0/0.exterior", "exterior", True),
        ("skirtingboard_support", "skirting", True),
        # v2: roles and functions, with two kinds of numbers
        ("dining_chair_03.002", "chair", False),
        ("house_wall_interior_12", "wall", True),
        ("house_wall_door_00", "door", False),
        ("cone_rand_effect_screw_ring.004", "primitive", False),
        ("plant_pot_small_rand", "plant", False),
    ],
)
def test_category_of_name(name, category, is_structure):
    assert category_of(name) == (category, is_structure, True)


@pytest.mark.parametrize("name", UNNAMED)
def test_meaningless_name_is_an_object(name):
    assert category_of(f"{name}_7.001") == ("object", False, False)


def test_each_word_has_one_category():
    words = [
        word
        for table in (STRUCTURE, OBJECTS)
        for category, others in table.items()
        for word in (category, *others)
    ]
    assert len(words) == len(set(words))
    assert set(FIXTURES) <= set(OBJECTS)


@given(st.text(min_size=1, max_size=60))
def test_every_name_has_a_category(name):
    category = category_of(name)
    assert category.name and category.name == category.name.strip("_ ")


def test_known_categories_follow_the_tables():
    known = list(known_categories())
    assert [name for name, _ in known] == [*STRUCTURE, *OBJECTS]
    assert all(category_of(name) == (name, is_structure, True) for name, is_structure in known)
