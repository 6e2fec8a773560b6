"""Categories of objects, from their names in scenes of both InfiniGen versions.

v1 (Indoors) names an object after its factory, `ChairFactory(5481524).spawn_asset(1030904)`, and
structure after its room, `living-room_0/0.wall`. v2 names it after its function or role,
`dining_chair.002`, `bowl_rand`, `room_wall_back_03`. `base_name` reduces each name to a word
(`chair`, `wall`, `dining_chair`, `bowl`, `room_wall_back`), and the tables below map words to
categories. A word that is in no table is a category itself, so no object is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

STRUCTURE: dict[str, tuple[str, ...]] = {
    # annotated like objects, and marked `is_structure`
    "wall": (
        "room_wall",
        "room_wall_back",
        "room_wall_corners",
        "room_wall_sill",
        "house_wall_interior",
        "house_wall_exterior",
        "house_wall_corner",
        "house_wall_back",
        "house_wall_sill",
        "standalone_wall",
    ),
    "floor": ("room_floor", "house_floor"),
    "ceiling": (
        "room_ceiling",
        "room_ceiling_back",
        "room_ceiling_sill",
        "house_ceiling",
        "house_ceiling_back",
        "house_ceiling_sill",
        "house_ceiling_feature",
        "ceiling_feature",
    ),
    "skirting": (
        "room_skirting",
        "house_skirting",
        "skirtingboard",
        "skirtingboard_support",
        "skirtingboard_ceiling",
        "cutout_trim_edges",
    ),
    "exterior": ("house_exterior",),
    "pillar": (),
    "staircase": (
        "straight_staircase",
        "curved_staircase",
        "spiral_staircase",
        "cantilever_staircase",
        "l_shaped_staircase",
        "u_shaped_staircase",
    ),
    "terrain": ("nature_backdrop", "ground"),
}

OBJECTS: dict[str, tuple[str, ...]] = {
    # seating and beds
    "chair": ("dining_chair", "kitchen_chair", "arm_chair"),
    "office_chair": ("desk_chair",),
    "bar_chair": ("kitchen_stool", "stool"),
    "sofa": ("static_sofa",),
    "bed": ("bed_frame",),
    "mattress": (),
    "pillow": ("cushion_bed_pillow", "cushion_throw_pillow", "cushion"),
    "blanket": ("comforter", "box_comforter"),
    # tables
    "dining_table": ("table_dining", "kitchen_table"),
    "coffee_table": ("table_cocktail", "cocktail_table", "table_coffee_legged"),
    "side_table": ("bedside_table", "sidetable_desk"),
    "desk": ("simple_desk",),
    "table": ("static_table",),
    # storage
    "shelf": ("large_shelf", "cell_shelf", "static_shelf", "triangle_shelf", "rack"),
    "wall_shelf": ("wall_board_shelf", "wall_cubby", "house_wall_wall_board_shelf",
                   "house_wall_wall_cubby"),
    "bookcase": ("simple_bookcase",),
    "cabinet": (
        "single_cabinet",
        "storage",
        "wall_storage",
        "house_wall_storage",
        "house_wall_wall_storage",
        "bathroom_wall_storage",
        "sink_cabinet",
        "drawer",
    ),
    "kitchen_cabinet": ("kitchen_upper_cabinet", "kitchen_space", "kitchen_plinth"),
    "kitchen_island": (),
    "kitchen_countertop": (),
    "tv_stand": ("tv_storage",),
    # appliances and screens
    "tv": ("television",),
    "monitor": ("desk_monitor",),
    "fridge": ("beverage_fridge",),
    "microwave": (),
    "oven": (),
    "dishwasher": (),
    "range_hood": (),
    "hardware": ("kitchen_hardware", "bathroom_hardware"),
    # bathroom
    "sink": ("bathroom_sink", "kitchen_sink", "standing_sink"),
    "tap": ("kitchen_tap", "bathroom_tap", "bathtub_tap", "sink_tap"),
    "bathtub": (),
    "toilet": (),
    "mirror": ("bathroom_mirror",),
    "towel": (),
    # openings
    "window": ("house_wall_window", "house_wall_window_trim", "window_trim"),
    "door": ("house_wall_door", "panel_door", "glass_panel_door", "lite_door", "louver_door"),
    "door_casing": (),
    # light
    "ceiling_light": ("ceiling_classic_lamp",),
    "floor_lamp": ("lamp_floor",),
    "desk_lamp": ("lamp_desk", "bedside_lamp", "lamp"),
    # decoration
    "wall_art": ("wall_painting",),
    "rug": (),
    "vase": (),
    "balloon": (),
    "aquarium": ("aquarium_tank",),
    "ornament": ("nature_shelf_trinkets", "rock", "boulder"),
    "plant": ("plant_container", "large_plant_container", "plant_pot", "plant_pot_small",
              "plant_pot_large"),
    # books, clothes
    "book": (),
    "book_stack": (),
    "book_column": (),
    "pants": (),
    "shirt": (),
    # kitchen and food
    "plate": (),
    "bowl": (),
    "cup": (),
    "wineglass": (),
    "pan": (),
    "pot": (),
    "lid": (),
    "fork": (),
    "knife": (),
    "spoon": (),
    "chopsticks": (),
    "bottle": (),
    "can": (),
    "jar": (),
    "food_bag": (),
    "food_box": (),
    "fruit": ("fruit_container",),
    # simple shapes: v2's decoration, and the analytic test scene
    "primitive": ("circle", "cone", "cube", "cylinder", "monkey", "plane", "torus", "uv_sphere"),
    "sphere": (),
}  # fmt: skip

FIXTURES = ("window", "door", "door_casing", "ceiling_light")
"""Objects that do not count as furniture."""

UNNAMED = ("alias", "mesh_single_vertex")
"""Meaningless names of a few v2 objects; their category is `object`."""

_CATEGORY_OF = {
    word: category
    for table in (STRUCTURE, OBJECTS)
    for category, words in table.items()
    for word in (category, *words)
}


class Category(NamedTuple):
    """The category of an object.

    Attributes:
        name: The category, for example `book_stack`.
        is_structure: Whether it is a part of the building.
        in_table: Whether the object's word is in a table; otherwise it is the category itself.
    """

    name: str
    is_structure: bool
    in_table: bool


def known_categories() -> Iterator[tuple[str, bool]]:
    """Name and `is_structure` of all categories, in the order in which an export numbers them."""
    for name in STRUCTURE:
        yield name, True
    for name in OBJECTS:
        yield name, False


def base_name(object_name: str) -> str:
    """Reduce an object's name to a word.

    >>> base_name("BookStackFactory(5481524).spawn_asset(1030904)")
    'book_stack'
    >>> base_name("living-room_0/0.wall")
    'wall'
    >>> base_name("dining_chair_03.002")
    'dining_chair'
    >>> base_name("cone_rand_effect_screw_ring.004")
    'cone'
    """
    factory = re.match(r"(?:.*\.)?(\w+?)Factory\b", object_name)
    if factory:
        return _snake(factory.group(1))
    name = re.sub(r"(\.\d+)+$", "", object_name)  # Blender's suffix for duplicate names
    room_part = re.match(r"[\w-]+_\d+/\d+\.(\w+)$", name)
    if room_part:
        return _snake(room_part.group(1))
    name = name.split("_rand")[0]
    name = re.sub(r"[_.]\d+$", "", name)
    word = _snake(name)
    return "object" if not word or word in UNNAMED else word


def category_of(object_name: str) -> Category:
    """The category of an object, from its name.

    >>> category_of("kitchen_stool_01.003")
    Category(name='bar_chair', is_structure=False, in_table=True)
    >>> category_of("ZeppelinFactory(3).spawn_asset(4)")
    Category(name='zeppelin', is_structure=False, in_table=False)
    """
    word = base_name(object_name)
    name = _CATEGORY_OF.get(word, word)
    return Category(name, name in STRUCTURE, word in _CATEGORY_OF)


def room_of_floor(floor: str) -> tuple[str, str | None]:
    """Name and kind of a room, from the name of its floor; the kind is None where that has none.

    >>> room_of_floor("living-room_0/0.floor")
    ('living-room_0/0', 'living_room')
    >>> room_of_floor("house_floor.003")
    ('house_floor.003', None)
    """
    indoors = re.fullmatch(r"(([\w-]+)_\d+/\d+)\.floor", floor)
    return (indoors[1], _snake(indoors[2])) if indoors else (floor, None)


def _snake(text: str) -> str:
    text = re.sub(r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3_\2\4", text)
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
