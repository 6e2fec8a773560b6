"""Export panoramas with polygons in the layout of YOLO's segmentation datasets.

    data.yaml                      path, splits, names of the classes
    images/<split>/<panorama>.jpg  with GPano metadata
    labels/<split>/<panorama>.txt  a line for each object: class x1 y1 x2 y2 …, from 0 to 1

YOLO knows neither holes, parts nor the seam: holes are filled, parts are joined by lines without
width, and an object across the seam is two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.export.dataset_rows import DatasetRow
from pipeline.export.instances_json import Categories
from pipeline.export.resumable import Record
from pipeline.pictures.write import encode_panorama
from pipeline.shards.reader import decode_image, masks
from pipeline.shards.schema import SPLITS
from pipeline.sphere import largest_empty_gap
from pipeline.storage import write_atomic

MOST_CORNERS = 256
"""Corners of a part among which the one that it is joined at is looked for."""


@dataclass(frozen=True)
class YoloExport:
    """YOLO's segmentation layout.

    Attributes:
        categories: "own" or a taxonomy.
    """

    categories: str = "own"

    @property
    def format(self) -> str:
        return "yolo-seg"

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    def write_row(self, row: DatasetRow, folder: Path) -> Record:
        """Write the picture, and list the polygon of each object."""
        image = decode_image({"bytes": row.webp, "path": row.stem})
        name = f"images/{row.split}/{row.stem}.jpg"
        write_atomic(folder / name, encode_panorama(image, ".jpg"))
        objects = row.values["objects"]
        lines = [
            [thing["category"], thing["is_structure"], outline(side)]
            for thing, mask in zip(objects, masks(objects), strict=True)
            for side in (sides_of_seam(mask) if thing["crosses_seam"] else [mask])
        ]
        return {"split": row.split, "files": [name], "stem": row.stem, "lines": lines}

    def finish(self, folder: Path, records: Iterator[Record]) -> None:
        """Number the classes, write the labels and data.yaml."""
        categories = Categories(self.categories)
        splits = set()
        for record in records:
            splits.add(record["split"])
            numbered = [
                (categories.id_of(name, is_structure), polygon)
                for name, is_structure, polygon in record["lines"]
            ]
            order = {entry["id"]: place for place, entry in enumerate(categories.entries)}
            text = "".join(
                f"{order[number]} {polygon}\n" for number, polygon in numbered if number is not None
            )
            path = folder / "labels" / record["split"] / f"{record['stem']}.txt"
            write_atomic(path, text.encode())
        about = {
            "path": ".",
            **{
                key: f"images/{split}"
                for key, split in zip(("train", "val"), SPLITS, strict=True)
                if split in splits
            },
            "names": {place: entry["name"] for place, entry in enumerate(categories.entries)},
        }
        write_atomic(folder / "data.yaml", yaml.safe_dump(about, sort_keys=False).encode())


def sides_of_seam(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The parts of a mask (H, W) on either side of the seam; the mask where it spans the width."""
    start, length = largest_empty_gap(mask.any(axis=0))
    if not length or not 0 < start < mask.shape[1] - length:
        return [mask]
    left = np.arange(mask.shape[1]) < start
    return [mask & left, mask & ~left]


def outline(mask: NDArray[np.bool_]) -> str:
    """The polygon of a mask (H, W) as YOLO writes it, one for all parts.

    A part hangs on the polygon by a line to its nearest corner and back.
    """
    height, width = mask.shape
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    parts = sorted((contour.reshape(-1, 2) for contour in found), key=len, reverse=True)
    polygon = parts[0]
    for part in parts[1:]:
        steps = [max(1, len(points) // MOST_CORNERS) for points in (polygon, part)]
        gaps = np.linalg.norm(polygon[:: steps[0], None] - part[None, :: steps[1]], axis=2)
        here, there = np.array(np.unravel_index(np.argmin(gaps), gaps.shape)) * steps
        loop = np.concatenate([part[there:], part[: there + 1]])
        polygon = np.concatenate([polygon[: here + 1], loop, polygon[here:]])
    if len(polygon) < 3:
        polygon = np.resize(polygon, (3, 2))
    places = (polygon + 0.5) / (width, height)
    return " ".join(f"{value:.6f}" for value in places.ravel())
