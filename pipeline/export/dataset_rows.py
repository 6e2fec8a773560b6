"""The rows to export: of all splits, merged by seed, each with a safe file name.

The shards may come from an untrusted source, so every value is checked.
"""

from __future__ import annotations

import heapq
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.export.images import FORMATS, is_webp
from pipeline.shards.reader import ShardReader

COLUMNS = (
    "image",
    "image_id",
    "scene_id",
    "width",
    "height",
    "generator",
    "seed",
    "camera",
    "objects",
)
"""The columns that an export reads."""

_PANORAMA = re.compile(r"(?P<scene>[A-Za-z0-9_][A-Za-z0-9_.-]{0,199})/(?P<k>0|[1-9][0-9]{0,8})")
"""An `image_id` that is safe as a file name."""

IMAGE_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]*-[0-9]+\.(?:{'|'.join(FORMATS)})")
"""Names of exported image files of any format."""


@dataclass(frozen=True)
class DatasetRow:
    """One panorama.

    Attributes:
        split: Its split.
        place: Its shard and row number, for messages.
        order: Its seed and scene, the sort key of all rows.
        stem: Name of its image file, without the extension.
        webp: The encoded image.
        values: The columns as read.
    """

    split: str
    place: str
    order: tuple[int, str]
    stem: str
    webp: bytes
    values: Mapping[str, Any]


def merged_rows(reader: ShardReader, more: Sequence[str] = ()) -> Iterator[DatasetRow]:
    """The rows of all splits, merged by seed and scene; each split keeps its order.

    Args:
        reader: The shards.
        more: Columns that are read beside `COLUMNS`.

    Raises:
        UserError: A row does not fit the schema, its name is unsafe, or a shard is damaged.
    """
    parts, start = [], 0
    for count in reader.splits.values():  # the reader concatenates the splits
        parts.append(_rows(reader, range(start, start + count), (*COLUMNS, *more)))
        start += count
    return heapq.merge(*parts, key=lambda row: row.order)


def dataset_source(reader: ShardReader) -> dict[str, object]:
    """The identity of a dataset, which stays as it grows: its first scene and its settings hash.

    Raises:
        UserError: The first row of a split does not fit the schema, or a shard is damaged.
    """
    firsts, start = [], 0
    for count in reader.splits.values():
        shard, number = reader.locate(start)
        values = reader.row(start, ("seed", "generator", "scene_id", "provenance.settings_hash"))
        try:
            seed, scene = seed_of(values), str(values["scene_id"])
            firsts.append((seed, scene, str(values["provenance"]["settings_hash"])))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(schema_mismatch(f"row {number} of {shard}")) from error
        start += count
    _, scene, settings = min(firsts)
    return {"first_scene": scene, "settings_hash": settings}


def _rows(
    reader: ShardReader, indices: Iterable[int], columns: Sequence[str]
) -> Iterator[DatasetRow]:
    for index in indices:
        yield check_row(reader, index, reader.row(index, columns))


def check_row(reader: ShardReader, index: int, values: Mapping[str, Any]) -> DatasetRow:
    """A row with a safe file name.

    Args:
        reader: Where it comes from.
        index: Its number there.
        values: Its columns, at least those that name it, and its image.

    Raises:
        UserError: It does not fit the schema, or its name is unsafe.
    """
    shard, number = reader.locate(index)
    place = f"row {number} of {shard}"
    try:
        name = _PANORAMA.fullmatch(values["image_id"])
        if name is None or name["scene"] != values["scene_id"]:
            raise UserError(
                f"{place} has image_id {reprlib.repr(values['image_id'])}, which is unsafe as "
                "a file name; do not trust this dataset"
            )
        webp, seed = values["image"]["bytes"], seed_of(values)
        complete = is_webp(webp)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(schema_mismatch(place)) from error
    if not complete:
        raise UserError(f"{place} has an incomplete WebP image; download or pack again")
    stem = f"{name['scene']}-{name['k']}"
    return DatasetRow(shard.split("-")[0], place, (seed, name["scene"]), stem, webp, values)


def seed_of(values: Mapping[str, Any]) -> int:
    """The seed of a row; -1 of an imported panorama, which has none.

    Raises:
        KeyError, TypeError, ValueError: The row has no seed.
    """
    imported = values["generator"] == "import" and values["seed"] is None
    return -1 if imported else int(values["seed"])


def schema_mismatch(place: str) -> str:
    """The message about a row that does not fit the schema."""
    return f"{place} does not fit the schema; download or pack again"
