"""The file instances_<split>.json: its entries and categories, written in one pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from pipeline import __version__
from pipeline.card.licences import Licence
from pipeline.categories import known_categories
from pipeline.errors import UserError
from pipeline.export.dataset_rows import DatasetRow, schema_mismatch
from pipeline.shards.schema import NO_GEOMETRY
from pipeline.taxonomy import class_of, classes

Entry = dict[str, object]
"""An image, annotation or category of the JSON."""

OBJECT_FIELDS = (
    "name",
    "is_structure",
    "solid_angle",
    "size",
    "bbox_wrapped",
    "crosses_seam",
    "touches_pole",
    "bfov",
    "click",
)
"""Fields of an object that COCO does not define; they are exported under the same names."""

_DESCRIPTION = "Equirectangular panoramas with instance masks, exported by sap-panorama"
_BEGINNING = b'{"info":{"description":"' + _DESCRIPTION.encode()
"""The first bytes of an exported JSON, which identify it."""
_MAX_INFO_BYTES = 2**20
"""Upper bound of the first line of an exported JSON, which holds `info`."""


class Categories:
    """The categories of an export.

    Our own are those of `pipeline.categories`, then new names in order of appearance. Those of
    another taxonomy are all that have a counterpart among ours, with their own ids.

    Args:
        taxonomy: "own", or one of `pipeline.taxonomy.TAXONOMIES`.
    """

    def __init__(self, taxonomy: str = "own") -> None:
        self.entries: list[Entry] = []
        self._ids: dict[str, int] = {}
        self._taxonomy = taxonomy
        if taxonomy != "own":
            self.entries += [
                {"id": each.id, "name": each.name, "supercategory": taxonomy}
                for each in classes(taxonomy)
            ]
            return
        for name, is_structure in known_categories():
            self._append(name, is_structure)

    def id_of(self, name: str, is_structure: bool) -> int | None:
        """The id of one of our categories; None if the taxonomy has no counterpart.

        Our own ids start at 1, and a new name is added with `is_structure`.
        """
        if self._taxonomy != "own":
            found = class_of(name, self._taxonomy)
            return found and found.id
        return self._ids.get(name) or self._append(name, is_structure)

    def _append(self, name: str, is_structure: bool) -> int:
        number = self._ids[name] = len(self._ids) + 1
        self.entries.append(
            {
                "id": number,
                "name": name,
                "supercategory": "structure" if is_structure else "object",
                "is_structure": is_structure,
            }
        )
        return number


def make_entries(
    row: DatasetRow, file_name: str, categories: Categories
) -> tuple[Entry, list[Entry]]:
    """The entries of an image and of its annotations, without `id` and `image_id`.

    Objects without a category in the export's taxonomy have no annotation.

    Raises:
        UserError: The row does not fit the schema, or holds a number that JSON lacks (NaN).
    """
    values = row.values
    try:
        image = {
            "file_name": file_name,
            "width": values["width"],
            "height": values["height"],
            "panorama": values["image_id"],
            **{key: values[key] for key in ("scene_id", "generator", "seed", "camera")},
        }
        annotations = [
            {
                "category_id": number,
                "category": thing["category"],
                **{key: thing[key] for key in ("segmentation", "area", "bbox", "iscrowd")},
                "instance_id": thing["id"],
                **{key: thing[key] for key in OBJECT_FIELDS},
                **{key: thing[key] for key in NO_GEOMETRY if key in thing},
            }
            for thing in values["objects"]
            if (number := categories.id_of(thing["category"], thing["is_structure"])) is not None
        ]
        _to_json([image, annotations])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(schema_mismatch(row.place)) from error
    return image, annotations


class InstancesJson:
    """Writer of the JSON of one split.

    Images and annotations arrive together, but are two lists in the JSON: annotations are spooled
    to a second file until all images are written.

    Args:
        file: The output file.
        spool: An empty temporary file, open for writing and reading.
        licence: The licence of all images.
        source: The identity of the dataset, from `dataset_source`.
    """

    def __init__(
        self, file: BinaryIO, spool: BinaryIO, licence: Licence | None, source: Entry
    ) -> None:
        self._file, self._spool = file, spool
        self._licensed = {"license": 1} if licence else {}
        self.images = self.annotations = 0
        info = {"description": _DESCRIPTION, "version": __version__, "source": source}
        licences = [{"id": 1, "name": licence.name, "url": licence.url}] if licence else []
        file.write(b'{"info":' + _to_json(info) + b',\n"licenses":' + _to_json(licences))
        file.write(b',\n"images":[')

    def add(self, image: Entry, annotations: list[Entry]) -> None:
        """Assign ids to the entries of the next row, and write them."""
        self._file.write(b",\n" if self.images else b"\n")
        self.images += 1
        self._file.write(_to_json({"id": self.images, **image, **self._licensed}))
        for annotation in annotations:
            self._spool.write(b",\n" if self.annotations else b"\n")
            self.annotations += 1
            numbers = {"id": self.annotations, "image_id": self.images}
            self._spool.write(_to_json({**numbers, **annotation}))

    def finish(self, categories: Categories) -> None:
        """Append the annotations and the categories, which are complete only now."""
        self._file.write(b'\n],\n"annotations":[')
        self._spool.seek(0)
        shutil.copyfileobj(self._spool, self._file)
        self._file.write(b'\n],\n"categories":[\n')
        self._file.write(b",\n".join(map(_to_json, categories.entries)) + b"\n]}\n")
        self._file.flush()


def check_existing_json(path: Path, source: Entry) -> None:
    """Check that a JSON, if there is one, is an earlier export of the same dataset.

    Raises:
        UserError: It was written by another program, or has another `source`.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline(_MAX_INFO_BYTES)
    except FileNotFoundError:
        return
    if not line.startswith(_BEGINNING):
        raise UserError(f"{path} was not written by this export; choose another folder")
    if _parse_source(line) != source:
        raise UserError(
            f"{path} is the export of another dataset; choose another folder, or delete "
            f"{path.parents[1]}"
        )


def _parse_source(line: bytes) -> Any:
    """The `source` in the first line of an exported JSON; None without one."""
    try:
        return json.loads(line.strip().removesuffix(b",") + b"}")["info"].get("source")
    except (ValueError, KeyError, AttributeError):
        return None


def _to_json(data: object) -> bytes:
    """JSON on one line, in ASCII because pycocotools opens it with the locale's encoding."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")
