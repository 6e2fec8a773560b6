"""What the card's template is filled with: numbers as people write them, tables of the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline import __version__
from pipeline.annotations.quality import BLACK_MEAN, BLOWN_SHARE, FILLING_SHARE
from pipeline.annotations.sizes import SIZES
from pipeline.settings import PROFILES
from pipeline.shards.schema import IMAGE_FILES, MEANINGS
from pipeline.shards.writer import VALIDATION_FRACTION, VALIDATION_PANORAMAS

PLACEHOLDER = "USER/DATASET"
"""Stands for the dataset's name where that is not known yet."""

PAPER_PANORAMAS, PAPER_MASKS = 183_440, 6_409_732
"""The paper's dataset (section 4.1)."""

GENERATORS = {
    "indoors": "InfiniGen Indoors, the first version of the generator and the paper's: furnished "
    "rooms whose furniture is arranged by a constraint solver",
    "rooms": "InfiniGen 2, single furnished rooms: living room, kitchen, bedroom, bathroom or "
    "dining room",
    "house": "InfiniGen 2, furnished houses of several rooms",
    "spheres": "spheres in a plain room, without InfiniGen: a test scene",
}
"""What made the scenes, for people who do not know this code."""

OLDER = "of an earlier version of the pipeline"
"""The meaning of a field that shards have and our schema has no more."""

Row = dict[str, str]


def words(schema: pa.Schema, statistics: Mapping[str, Any], repo: str | None) -> dict[str, Any]:
    """Everything that the template needs about a dataset but its licence and its picture."""
    total = statistics["total"]
    return {
        "repo": repo or PLACEHOLDER,
        "statistics": statistics,
        "total": total,
        "splits": statistics["splits"],
        "sizes": SIZES,
        "columns": rows_of_table(schema),
        "fields": rows_of_table(schema, inside="objects"),
        "passes": [name for name in ("depth", "normal") if name in schema.names],
        "generators": [
            {"name": name, "about": GENERATORS.get(name, ""), "group": group}
            for name, group in statistics["generators"].items()
        ],
        "profiles": [
            {"name": name, "about": profile_words(name)}
            for name in values_of(total, "profile")
            if values_of(total, "pipeline") == [__version__] and name in PROFILES
        ],
        "quality": {
            "black": BLACK_MEAN,
            "blown": 100 * BLOWN_SHARE,
            "filling": 100 * FILLING_SHARE,
        },
        "validation": {
            "seeds": round(1 / VALIDATION_FRACTION),
            "panoramas": VALIDATION_PANORAMAS,
        },
        "paper": {**statistics["paper"], "panoramas": PAPER_PANORAMAS, "masks": PAPER_MASKS},
        "values": lambda name: ", ".join(values_of(total, name)),
        "widths": [entry["width"] for entry in statistics["size_thresholds"]] or [0],
        "number": number,
        "counted": counted,
        "bytes": bytes_words,
    }


def rows_of_table(schema: pa.Schema, inside: str = "") -> list[Row]:
    """Name, type and meaning of the columns and of their fields, or of the fields of one column.

    A struct of one thing is taken apart (`camera.position`); a list of things is not.
    """
    fields = [(field.name, field.type) for field in schema if not inside]
    if inside:
        thing = schema.field(inside).type.value_type
        fields = [(field.name, field.type) for field in thing]
    rows = []
    while fields:
        name, kind = fields.pop(0)
        if pa.types.is_struct(kind) and name not in IMAGE_FILES:
            fields = [(f"{name}.{field.name}", field.type) for field in kind] + fields
            continue
        meaning = MEANINGS.get(f"{inside}.{name}" if inside else name, OLDER)
        rows.append({"name": name, "type": _type_words(name, kind), "meaning": meaning})
    return rows


def _type_words(name: str, kind: pa.DataType) -> str:
    if name in IMAGE_FILES:
        return "image"
    if pa.types.is_list(kind):
        element = kind.value_type
        return "list" if pa.types.is_struct(element) else f"list of {_type_words('', element)}"
    return {"double": "float64"}.get(str(kind), str(kind))


def profile_words(name: str) -> str:
    """What a render profile does, in one sentence without its samples."""
    profile = PROFILES[name]
    if profile.fast_gi:
        light = "direct light and one bounce, and Cycles' fast approximation for all further ones"
    else:
        light = f"up to {profile.max_bounces} bounces of light"
    materials = (
        "materials with bump and displacement"
        if profile.bump
        else "materials without bump and displacement"
    )
    return f"{light}; {materials}; denoised by OpenImageDenoise"


def values_of(group: Mapping[str, Any], fact: str) -> list[str]:
    """The values that a fact of the provenance has in a group, most frequent first."""
    return [entry["value"] for entry in group["made_with"][fact]]


def number(value: float, digits: int = 0) -> str:
    """A number as people write it.

    >>> number(6409732), number(34.94, 1)
    ('6,409,732', '34.9')
    """
    return f"{value:,.{digits}f}"


def counted(value: int, thing: str) -> str:
    """A number of things.

    >>> counted(1, "pixel"), counted(2600, "pixel")
    ('1 pixel', '2,600 pixels')
    """
    return f"{number(value)} {thing}{'s' * (value != 1)}"


def bytes_words(size: int) -> str:
    """A number of bytes in decimal units, as the Hub writes it.

    >>> bytes_words(2_012_699), bytes_words(1_300_000_000_000)
    ('2.0 MB', '1.3 TB')
    """
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:,.{0 if unit == 'bytes' else 1}f} {unit}"
