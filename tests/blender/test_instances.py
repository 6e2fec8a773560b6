"""What becomes an instance: copies, helpers and hidden objects."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pipeline.annotations.instance_ids import digits_of


def test_copies_are_told_apart(analytic):
    rendered = analytic("copies")
    names = Counter(entry["name"].split(".")[0] for entry in rendered.instances)
    # A square has four corners and one face; the hair has three strands.
    assert names.pop("leaf") == 3
    assert names == {"front": 1, "twin": 2, "bush": 1, "ball_verts": 4, "ball_faces": 1}
    seen = set(np.unique(rendered.ids).tolist())
    assert seen == set(range(len(rendered.instances) + 1)), "each has an id, and is seen"


def test_what_geometry_nodes_scatter_belongs_to_its_owner(analytic):
    rendered = analytic("copies")
    bush = rendered.ids == rendered.id_of("bush")
    columns = np.flatnonzero(bush.any(axis=0))
    assert np.count_nonzero(np.diff(columns) > 1) >= 2, "three leaves (and the seam), one id"


def test_helpers_and_hidden_objects_do_not_appear(analytic):
    names = {entry["name"] for entry in analytic("copies").instances}
    assert not names & {"front_COLLIDE", "ghost", "leaf", "emitter", "on_verts", "on_faces"}


def test_unknown_names_are_counted(analytic):
    unknown = analytic("copies").unknown
    assert unknown["front"] == unknown["bush"] == 1 and unknown["twin"] == 2


def test_two_digits_are_unique():
    numbers = [1, 2, 32_766, 32_767, 32_768, 65_534, 65_535]
    assert len({digits_of(number) for number in numbers}) == len(numbers)
    assert all(1 <= low <= 32_767 for low, _ in map(digits_of, numbers))
