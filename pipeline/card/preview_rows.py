"""The configuration `preview` of a published dataset: small rows for the Hub's viewer.

    preview/<split>-NNNNN.parquet     up to `ROWS_PER_FILE` panoramas: JPEG, overlay, counts

The viewer refuses pages of 100 rows that are larger than 286 MiB, and a 4K row has about 7 MB. A
file whose panoramas have not changed is not written again.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline.annotations.sizes import SIZES
from pipeline.card.example import paint
from pipeline.shards.reader import ShardReader, decode_ids, decode_image
from pipeline.shards.schema import SPLITS, hub_schema
from pipeline.storage import open_atomic

PREVIEW_WIDTH = 1024
"""Pixels; a smaller panorama is not enlarged."""

PREVIEW_QUALITY = 80
"""Of the JPEG files."""

PAGE_ROWS = 100
"""Rows of a page of the Hub's viewer, and of a row group."""

PAGE_BYTES = 286 * 2**20
"""The largest page that the viewer shows."""

ROWS_PER_FILE = 500

PREVIEW_NAME = re.compile(rf"(?:{'|'.join(SPLITS)})-\d{{5}}\.parquet")

MEANINGS: dict[str, str] = {
    "image": f"the panorama, at most {PREVIEW_WIDTH} pixels wide: JPEG",
    "overlay": "a colour for each annotated instance; walls, floors and ceilings are pale",
    "image_id": "the row's name in `full`",
    "scene_id": "the scene",
    "generator": "the program that made the scene",
    "seed": "its seed",
    "width": "pixels of the panorama in `full`",
    "instances": "annotated instances",
    "objects": "the same without walls, floors and other structure",
    **{size: f"instances of the size class `{size}`" for size in SIZES},
    "categories": "categories of the objects, most frequent first",
}
"""The columns; the card quotes this."""

_KEY = b"sap_panorama_rows"
"""Entry of a file's metadata: hash of the names of its rows."""

Picture = NDArray[np.uint8]


def preview_schema() -> pa.Schema:
    """The Arrow schema of the preview's files."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds: dict[str, pa.DataType] = {
        **dict.fromkeys(("image", "overlay"), image),
        **dict.fromkeys(("image_id", "scene_id", "generator"), pa.string()),
        "seed": pa.int64(),
        **dict.fromkeys(("width", "instances", "objects", *SIZES), pa.int32()),
        "categories": pa.list_(pa.string()),
    }
    return hub_schema([pa.field(name, kind) for name, kind in kinds.items()])


def write_previews(shards: ShardReader, folder: Path) -> list[Path]:
    """Write the preview of a dataset; equal shards give equal bytes.

    Args:
        shards: The dataset.
        folder: Where the files lie. Those of an earlier, larger dataset are removed.

    Returns:
        The files, in order.

    Raises:
        UserError: A shard cannot be read.
        OSError: The disk is full or not writable.
    """
    names = [
        (row["image_id"], row["provenance"]["settings_hash"])
        for row in shards.annotations(["image_id", "provenance.settings_hash"])
    ]
    paths, start = [], 0
    for split, count in shards.splits.items():
        for number, first in enumerate(range(start, start + count, ROWS_PER_FILE)):
            rows = range(first, min(first + ROWS_PER_FILE, start + count))
            path = folder / f"{split}-{number:05d}.parquet"
            text = json.dumps([pa.__version__, names[rows.start : rows.stop]])
            _write(shards, rows, path, hashlib.sha256(text.encode()).hexdigest())
            paths.append(path)
        start += count
    for path in folder.iterdir():
        if PREVIEW_NAME.fullmatch(path.name) and path not in paths:
            path.unlink()
    return paths


def _write(shards: ShardReader, rows: range, path: Path, key: str) -> None:
    try:
        if (pq.read_schema(path).metadata or {}).get(_KEY) == key.encode():
            return
    except (OSError, pa.ArrowException):
        pass
    schema = preview_schema()
    schema = schema.with_metadata({**schema.metadata, _KEY: key.encode()})
    with open_atomic(path) as file, pq.ParquetWriter(file, schema) as writer:
        for first in range(rows.start, rows.stop, PAGE_ROWS):
            page = range(first, min(first + PAGE_ROWS, rows.stop))
            small = [preview_row(shards.row(index)) for index in page]
            writer.write_table(pa.Table.from_pylist(small, schema), row_group_size=PAGE_ROWS)


def preview_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The small row of a row."""
    picture, ids, objects = decode_image(row["image"]), decode_ids(row["ids"]), row["objects"]
    structure = {thing["id"] for thing in objects if thing["is_structure"]}
    overlay = paint(picture, ids, {thing["id"] for thing in objects}, structure)
    sizes = Counter(thing["size"] for thing in objects)
    found = Counter(thing["category"] for thing in objects if not thing["is_structure"])
    stem = row["image_id"].replace("/", "-")
    return {
        "image": {"bytes": _jpeg(picture), "path": f"{stem}.jpg"},
        "overlay": {"bytes": _jpeg(overlay), "path": f"{stem}-overlay.jpg"},
        **{key: row[key] for key in ("image_id", "scene_id", "generator", "seed", "width")},
        "instances": len(objects),
        "objects": found.total(),
        **{size: sizes[size] for size in SIZES},
        "categories": [name for name, _ in sorted(found.items(), key=lambda p: (-p[1], p[0]))],
    }


def _jpeg(picture: Picture) -> bytes:
    height, width = picture.shape[:2]
    if width > PREVIEW_WIDTH:
        size = (PREVIEW_WIDTH, round(height * PREVIEW_WIDTH / width))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=PREVIEW_QUALITY)
    return file.getvalue()


def preview_files(folder: Path) -> Iterator[Path]:
    """The preview's files in a card's folder, in order."""
    place = folder / "preview"
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if PREVIEW_NAME.fullmatch(path.name):
            yield path
