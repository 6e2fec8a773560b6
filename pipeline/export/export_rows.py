"""The rows of an export: those of all splits by seed, each with a name that is safe for a file.

Shards may be a download from a stranger: nothing in a row is trusted to be what we would write.
"""

from __future__ import annotations

import heapq
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
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
"""What is read of a row."""

_PANORAMA = re.compile(r"(?P<scene>[A-Za-z0-9_][A-Za-z0-9_.-]{0,199})/(?P<k>0|[1-9][0-9]{0,8})")
"""An `image_id` that is safe as a file's name."""

IMAGE_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]*-[0-9]+\.(?:{'|'.join(FORMATS)})")
"""Names of image files, of any format, as `Row.stem` makes them."""


@dataclass(frozen=True)
class Row:
    """One panorama.

    Attributes:
        split: Where it belongs.
        place: Where it stands, for messages: its shard, and its number in it.
        order: Its seed and scene.
        stem: Name of its image file, without the format.
        webp: Its picture.
        values: The row as the reader gives it.
    """

    split: str
    place: str
    order: tuple[int, str]
    stem: str
    webp: bytes
    values: Mapping[str, Any]


def side_by_side(reader: ShardReader) -> Iterator[Row]:
    """The rows of all splits, merged by seed and scene; each split's stay in their order.

    Raises:
        UserError: A row is not ours or its name would not be safe, or a shard is damaged.
    """
    parts, start = [], 0
    for split, count in reader.splits.items():  # the reader has one after the other
        parts.append(_rows(reader, split, range(start, start + count)))
        start += count
    return heapq.merge(*parts, key=lambda row: row.order)


def source_of(reader: ShardReader) -> dict[str, object]:
    """What tells a dataset from others, and stays as it grows: its first scene, and its settings.

    Raises:
        UserError: A split's first row is not ours, or a shard is damaged.
    """
    firsts, start = [], 0
    for count in reader.splits.values():
        shard, number = reader.locate(start)
        values = reader.row(start, ("seed", "scene_id", "provenance.settings_hash"))
        try:
            seed, scene = int(values["seed"]), str(values["scene_id"])
            firsts.append((seed, scene, str(values["provenance"]["settings_hash"])))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(not_ours(f"row {number} of {shard}")) from error
        start += count
    _, scene, settings = min(firsts)
    return {"first_scene": scene, "settings_hash": settings}


def _rows(reader: ShardReader, split: str, indices: Iterable[int]) -> Iterator[Row]:
    for index in indices:
        shard, number = reader.locate(index)
        place = f"row {number} of {shard}"
        values = reader.row(index, COLUMNS)
        try:
            name = _PANORAMA.fullmatch(values["image_id"])
            if name is None or name["scene"] != values["scene_id"]:
                raise UserError(
                    f"{place} has the image_id {reprlib.repr(values['image_id'])}, which is no "
                    "plain <scene_id>/<k> and so not safe as a file name; do not trust this dataset"
                )
            webp, seed = values["image"]["bytes"], int(values["seed"])
            is_whole = is_webp(webp)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(not_ours(place)) from error
        if not is_whole:
            raise UserError(f"{place} holds no whole WebP image; download or pack again")
        stem = f"{name['scene']}-{name['k']}"
        yield Row(split, place, (seed, name["scene"]), stem, webp, values)


def not_ours(place: str) -> str:
    """The user's line about a row that is not as our packer writes them."""
    return f"{place} does not fit the schema; download or pack again"
