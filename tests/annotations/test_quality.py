"""A good panorama has no defects; each kind of defect is found."""

import numpy as np
import pytest

from pipeline.annotations.quality import defects
from tests.synthetic import disc_ids, picture

IMAGE = picture(disc_ids(64), seed=0)
OBJECTS = [
    {"name": "wall", "is_structure": True, "solid_angle": 0.67 * 4 * np.pi},
    {"name": "chair", "is_structure": False, "solid_angle": 0.1},
]


def test_good_panorama_has_no_defects():
    assert defects(IMAGE, OBJECTS) == []


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (IMAGE * (np.arange(64)[:, None] == 0), "black"),  # one lit column
        (np.where(np.arange(64)[:, None] < 40, 255, IMAGE).astype(np.uint8), "blown out"),
        (np.full_like(IMAGE, 128), "constant"),
    ],
)
def test_defective_picture(image, reason):
    (found,) = defects(image, OBJECTS)
    assert found.startswith(reason)


def test_bright_window_is_no_defect():
    image = IMAGE.copy()
    image[:10] = 255
    assert defects(image, OBJECTS) == []


def test_camera_inside_an_object():
    cupboard = {"name": "cupboard", "is_structure": False, "solid_angle": 0.9 * 4 * np.pi}
    assert defects(IMAGE, [cupboard]) == ["cupboard fills 90% of the sphere"]


@pytest.mark.parametrize("objects", [[], OBJECTS[:1]])
def test_empty_room(objects):
    assert defects(IMAGE, objects) == ["no objects, only structure or nothing"]
