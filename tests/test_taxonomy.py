"""The table of taxonomies against the taxonomies' own lists; each file names its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.categories import OBJECTS, STRUCTURE
from pipeline.taxonomy import TAXONOMIES, category_named, class_of, classes

LISTS = Path(__file__).parent / "taxonomies"
COUNTS = {"coco": 133, "lvis": 1203, "ade20k": 150, "nyu40": 40}


def names_of(taxonomy: str) -> dict[int, str]:
    lines = (LISTS / f"{taxonomy}.txt").read_text().splitlines()[1:]
    return {int(number): name for number, _, name in (line.partition(" ") for line in lines)}


@pytest.mark.parametrize("taxonomy", TAXONOMIES)
def test_each_class_exists_under_its_number_and_name(taxonomy):
    names = names_of(taxonomy)
    assert len(names) == COUNTS[taxonomy]
    assert len(classes(taxonomy)) > 15
    for each in classes(taxonomy):
        assert names[each.id] == each.name


def test_some_known_numbers():
    found = [class_of("book", taxonomy).id for taxonomy in TAXONOMIES]
    assert found == [84, 127, 68, 23]


def test_the_table_names_every_category_once():
    text = (Path(__file__).parents[1] / "pipeline" / "taxonomy.csv").read_text()
    rows = [line.partition(",")[0] for line in text.splitlines()[1:]]
    assert rows == [*STRUCTURE, *OBJECTS]


@pytest.mark.parametrize(
    ("label", "category"),
    [
        ("chair", "chair"),
        ("Couch", "sofa"),
        ("wine_glass", "wineglass"),
        ("refridgerator", "fridge"),
        ("floor mat", "rug"),
        ("painting, picture", None),
        ("picture", "wall_art"),
        ("otherprop", None),
        ("", None),
    ],
)
def test_labels_of_others_find_a_category(label, category):
    assert category_named(label) == category


def test_a_name_without_a_counterpart_has_none():
    assert class_of("primitive", "coco") is None and class_of("zeppelin", "lvis") is None
