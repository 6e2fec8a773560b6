"""Our categories in the taxonomies of other datasets: the table taxonomy.csv.

    coco     COCO panoptic, whose things have the ids of COCO's detection classes
    lvis     LVIS v1, by the first synonym of each class
    ade20k   the 150 classes of ADE20K's scene parsing benchmark, counted from 1
    nyu40    the 40 classes of NYU Depth V2

A category without a counterpart has none there. Where a taxonomy is coarser, several categories
have the same one.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

TAXONOMIES = ("coco", "lvis", "ade20k", "nyu40")

TAXONOMY_NAMES = {"coco": "COCO", "lvis": "LVIS", "ade20k": "ADE20K", "nyu40": "NYU40"}
"""As they are written in a text."""


class TaxonomyClass(NamedTuple):
    """A class of a taxonomy: its number and its name there."""

    id: int
    name: str


def class_of(category: str, taxonomy: str) -> TaxonomyClass | None:
    """The counterpart of one of our categories; None if there is none.

    >>> class_of("sofa", "coco")
    TaxonomyClass(id=63, name='couch')
    """
    return _table().get(category, {}).get(taxonomy)


def classes(taxonomy: str) -> list[TaxonomyClass]:
    """The classes of a taxonomy that are a counterpart of any category, by id."""
    return sorted({row[taxonomy] for row in _table().values() if taxonomy in row})


def category_named(label: str) -> str | None:
    """The category that somebody else's label means; None if no taxonomy has that name.

    Of several categories with one counterpart, the first in the table is taken.

    >>> category_named("Couch"), category_named("coffee table"), category_named("unicorn")
    ('sofa', 'coffee_table', None)
    """
    return _by_label().get(_words(label))


@cache
def _table() -> dict[str, dict[str, TaxonomyClass]]:
    """Category → taxonomy → class."""
    text = files("pipeline").joinpath("taxonomy.csv").read_text(encoding="utf-8")
    return {
        row["category"]: {
            taxonomy: TaxonomyClass(int(row[f"{taxonomy}_id"]), row[taxonomy])
            for taxonomy in TAXONOMIES
            if row[taxonomy]
        }
        for row in csv.DictReader(text.splitlines())
    }


@cache
def _by_label() -> dict[str, str]:
    found = {_words(category): category for category in _table()}
    for category, row in _table().items():
        for each in row.values():
            if not each.name.startswith("other"):  # NYU40's rest means nothing in particular
                for synonym in each.name.split(","):
                    found.setdefault(_words(synonym), category)
    return found


def _words(label: str) -> str:
    return " ".join(label.lower().replace("_", " ").replace("-", " ").split())
