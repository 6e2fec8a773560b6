"""Validate untrusted rows before counting them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.annotations.sizes import SIZES
from pipeline.shards.schema import make_schema
from pipeline.statistics.counts import COLUMNS, PANORAMA_NUMBERS

_SCHEMA = make_schema()
_DEGREES = 360
"""Largest angle of a spherical box."""
_SPHERE = 4 * np.pi * (1 + 1e-6)
"""Largest solid angle in steradian: 4 pi and rounding errors of the sum over pixels."""
_MAX_STOPS = 1e12
"""Limit of `exposure_stops`, so that sums stay finite."""


def validation_error(batch: pa.RecordBatch) -> str | None:
    """Why a batch of `COLUMNS` cannot be counted; None if it can.

    In a valid batch nothing is null except numbers of the provenance, and numbers are in range.
    """
    leaves = {}
    for path in COLUMNS:
        name = path.replace(".list.element", "")
        try:
            leaves[name] = _leaf(batch, name)
        except ValueError as error:
            return f"{name} {error}"
    provenance = leaves.pop("provenance")
    for name in PANORAMA_NUMBERS:
        if not _within(provenance.field(name).drop_null(), -_MAX_STOPS, _MAX_STOPS):
            return f"provenance.{name} is out of range"
    ranges = {
        "width": (1, 2**31),
        "height": (1, 2**31),
        "objects.area": (1, 2**62),
        "objects.solid_angle": (0, _SPHERE),
    }
    for name, (low, high) in ranges.items():
        if not _within(leaves[name], low, high):
            return f"{name} is out of range"
    boxes = leaves["objects.bfov"]
    if not pc.all(pc.equal(pc.list_value_length(boxes), 4), min_count=0).as_py():
        return "objects.bfov does not hold four numbers"
    angles = boxes.flatten()
    if angles.null_count or not _within(angles, -_DEGREES, _DEGREES):
        return "objects.bfov is out of range"
    sizes = pc.is_in(leaves["objects.size"], value_set=pa.array(SIZES))
    if not pc.all(sizes, min_count=0).as_py():
        return f"objects.size is not one of {', '.join(SIZES)}"
    return None


def _leaf(batch: pa.RecordBatch, path: str) -> pa.Array:
    """The values of a column, or of a field inside it such as `objects.area`, of all rows.

    Raises:
        ValueError: The field is missing, has another type than the schema, or holds a null.
    """
    name, *inside = path.split(".")
    array, kind = batch.column(name), _SCHEMA.field(name).type
    while True:
        if array.null_count:
            raise ValueError("is null")
        if not inside:
            break
        if not pa.types.is_list(array.type) or not pa.types.is_struct(array.type.value_type):
            raise ValueError("has another type")
        array, kind, field = array.flatten(), kind.value_type, inside.pop(0)
        if array.null_count:
            raise ValueError("is null")
        if array.type.get_field_index(field) < 0:
            raise ValueError("is missing")
        array, kind = array.field(field), kind.field(field).type
    if not _has(array.type, kind):
        raise ValueError("has another type")
    return array


def _has(found: pa.DataType, kind: pa.DataType) -> bool:
    """Whether a type fits that of the schema. Structs may have more fields, as in older shards.

    >>> _has(pa.struct({"a": pa.int32(), "b": pa.int32()}), pa.struct({"b": pa.int32()}))
    True
    """
    if not pa.types.is_struct(kind) or not pa.types.is_struct(found):
        return found == kind
    places = [(found.get_field_index(field.name), field) for field in kind]
    return all(k >= 0 and _has(found.field(k).type, field.type) for k, field in places)


def _within(numbers: pa.Array, low: float, high: float) -> bool:
    """Whether all numbers are in [low, high] and not NaN."""
    values = numbers.to_numpy(zero_copy_only=False)
    return bool(np.all((values >= low) & (values <= high)))
