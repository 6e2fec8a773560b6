"""The context of the card's template: figures of the dataset, and tables of its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline import __version__
from pipeline.annotations.quality import BLACK_MEAN, BLOWN_SHARE, FILLING_SHARE
from pipeline.annotations.sizes import SIZES
from pipeline.card.preview_rows import MEANINGS as PREVIEW_MEANINGS
from pipeline.card.preview_rows import PREVIEW_WIDTH
from pipeline.run_settings import PASSES, PROFILES
from pipeline.shards.schema import IMAGE_FILES, MEANINGS
from pipeline.shards.splits import VALIDATION_FRACTION, VALIDATION_PANORAMAS
from pipeline.taxonomy import TAXONOMY_NAMES, class_of
from pipeline.units import format_bytes, format_count

PLACEHOLDER = "USER/DATASET"
"""Stands for the dataset's name until that is known."""

PAPER_PANORAMAS, PAPER_MASKS = 183_440, 6_409_732
"""The paper's dataset (section 4.1)."""

GENERATOR_DESCRIPTIONS = {
    "indoors": "InfiniGen Indoors, the first version of the generator and the paper's: furnished "
    "rooms whose furniture is arranged by a constraint solver",
    "rooms": "InfiniGen 2, single furnished rooms: living room, kitchen, bedroom, bathroom or "
    "dining room",
    "house": "InfiniGen 2, furnished houses of several rooms",
    "spheres": "spheres in a plain room, without InfiniGen: a test scene",
    "files": "scenes that the publisher provided as files",
}
"""The generators of scenes, for readers who do not know this code."""

OLDER_FIELD = "of an earlier version of the pipeline"
"""The meaning of a field that older shards have and today's schema has not."""


def template_context(
    schema: pa.Schema, statistics: Mapping[str, Any], repo: str | None
) -> dict[str, Any]:
    """All variables of the template except the licence and the example picture.

    Args:
        schema: The Arrow schema of the shards.
        statistics: The statistics of `pipeline.statistics.measure`.
        repo: The dataset's name on the Hub; None writes `PLACEHOLDER`.
    """
    total = statistics["total"]
    return {
        "repo": repo or PLACEHOLDER,
        "statistics": statistics,
        "total": total,
        "splits": statistics["splits"],
        "sizes": SIZES,
        "columns": schema_table(schema),
        "fields": schema_table(schema, inside="objects"),
        "geometry": "room" in schema.names,
        "passes": [name for name in PASSES if name in schema.names],
        "generators": [
            {"name": name, "about": GENERATOR_DESCRIPTIONS.get(name, ""), "group": group}
            for name, group in statistics["generators"].items()
        ],
        "profiles": [
            {"name": name, "about": describe_profile(name)}
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
        "preview_width": PREVIEW_WIDTH,
        "preview_columns": PREVIEW_MEANINGS,
        "taxonomies": TAXONOMY_NAMES,
        "counterpart": lambda category, taxonomy: (
            f"{found.name} ({found.id})" if (found := class_of(category, taxonomy)) else ""
        ),
        "paper": {**statistics["paper"], "panoramas": PAPER_PANORAMAS, "masks": PAPER_MASKS},
        "values": lambda name: ", ".join(values_of(total, name)),
        "widths": [entry["width"] for entry in statistics["size_thresholds"]] or [0],
        "number": format_number,
        "count": format_count,
        "bytes": format_bytes,
    }


def schema_table(schema: pa.Schema, inside: str = "") -> list[dict[str, str]]:
    """Name, type and meaning of each column, or of each field of the list column `inside`.

    Structs are listed by field (`camera.position`); lists of structs are one line.
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
        meaning = MEANINGS.get(f"{inside}.{name}" if inside else name, OLDER_FIELD)
        rows.append({"name": name, "type": _type_name(name, kind), "meaning": meaning})
    return rows


def _type_name(name: str, kind: pa.DataType) -> str:
    if name in IMAGE_FILES:
        return "image"
    if pa.types.is_list(kind):
        element = kind.value_type
        return "list" if pa.types.is_struct(element) else f"list of {_type_name('', element)}"
    return {"double": "float64"}.get(str(kind), str(kind))


def describe_profile(name: str) -> str:
    """Describe a render profile in one sentence, without its number of samples."""
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
    """The values of a provenance field in a group of the statistics, most frequent first."""
    return [entry["value"] for entry in group["made_with"][fact]]


def format_number(value: float, digits: int = 0) -> str:
    """Format a number with thousands separators.

    >>> format_number(6409732), format_number(34.94, 1)
    ('6,409,732', '34.9')
    """
    return f"{value:,.{digits}f}"
