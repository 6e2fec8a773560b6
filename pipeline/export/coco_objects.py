"""One instances_<split>.json: its entries, its categories, and how it is written in one pass."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline import __version__
from pipeline.categories import known_categories
from pipeline.errors import UserError
from pipeline.export.export_rows import Row, not_ours

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
"""Fields of an object that COCO does not have and that keep their names."""

_DESCRIPTION = "Equirectangular panoramas with instance masks, exported by sap-panorama"
_BEGINNING = b'{"info":{"description":"' + _DESCRIPTION.encode()
"""How our JSON begins, which tells it from somebody else's of the same name."""
_MOST_INFO = 2**20
"""Bytes of our JSON's first line, which holds `info`, at the most."""


@dataclass(frozen=True)
class Licence:
    """The dataset's licence: a name such as "CC BY 4.0", and where its text is found."""

    name: str
    url: str


class Categories:
    """COCO's categories: those of our table, and then new names as they come."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._ids: dict[str, int] = {}
        for name, is_structure in known_categories():
            self._append(name, is_structure)

    def id_of(self, name: str, is_structure: bool) -> int:
        """The id of a category, counted from 1; `is_structure` is noted where it is new."""
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


def describe(row: Row, file_name: str, categories: Categories) -> tuple[Entry, list[Entry]]:
    """The entries of an image and of its objects, still without their running numbers.

    Raises:
        UserError: The row does not fit the schema, or holds a number that JSON has not (NaN).
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
                "category_id": categories.id_of(thing["category"], thing["is_structure"]),
                **{key: thing[key] for key in ("segmentation", "area", "bbox", "iscrowd")},
                "instance_id": thing["id"],
                **{key: thing[key] for key in OBJECT_FIELDS},
            }
            for thing in values["objects"]
        ]
        _to_json([image, annotations])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(not_ours(row.place)) from error
    return image, annotations


class InstancesFile:
    """The JSON of a split while it grows.

    Both its lists grow with every row, but a file grows at one end only: annotations are kept in a
    second file until all images are written.

    Args:
        file: The JSON to be.
        beside: An empty file to write and read, for the annotations.
        licence: Named for every image.
        source: What `rows.source_of` says about the dataset.
    """

    def __init__(
        self, file: BinaryIO, beside: BinaryIO, licence: Licence | None, source: Entry
    ) -> None:
        self._file, self._beside = file, beside
        self._licensed = {"license": 1} if licence else {}
        self.images = self.annotations = 0
        info = {"description": _DESCRIPTION, "version": __version__, "source": source}
        licences = [{"id": 1, **asdict(licence)}] if licence else []
        file.write(b'{"info":' + _to_json(info) + b',\n"licenses":' + _to_json(licences))
        file.write(b',\n"images":[')

    def add(self, image: Entry, annotations: list[Entry]) -> None:
        """Number and write what `describe` gives for the next row."""
        self._file.write(b",\n" if self.images else b"\n")
        self.images += 1
        self._file.write(_to_json({"id": self.images, **image, **self._licensed}))
        for annotation in annotations:
            self._beside.write(b",\n" if self.annotations else b"\n")
            self.annotations += 1
            numbers = {"id": self.annotations, "image_id": self.images}
            self._beside.write(_to_json({**numbers, **annotation}))

    def finish(self, categories: Categories) -> None:
        """Join the lists, and write the categories, which are all known only now."""
        self._file.write(b'\n],\n"annotations":[')
        self._beside.seek(0)
        shutil.copyfileobj(self._beside, self._file)
        self._file.write(b'\n],\n"categories":[\n')
        self._file.write(b",\n".join(map(_to_json, categories.entries)) + b"\n]}\n")
        self._file.flush()


def refuse_foreign(path: Path, source: Entry) -> None:
    """Raise UserError where other annotations than ours of this dataset have the name of ours."""
    try:
        with open(path, "rb") as file:
            line = file.readline(_MOST_INFO)
    except FileNotFoundError:
        return
    if not line.startswith(_BEGINNING):
        raise UserError(f"{path} was not written by this export; choose another folder")
    if _source_in(line) != source:
        raise UserError(
            f"{path} is the export of another dataset; choose another folder, or delete "
            f"{path.parents[1]} if you do not need it any more"
        )


def _source_in(line: bytes) -> Any:
    """What the first line of a JSON of ours says about its dataset; None where it says nothing."""
    try:
        return json.loads(line.strip().removesuffix(b",") + b"}")["info"].get("source")
    except (ValueError, KeyError, AttributeError):
        return None


def _to_json(data: object) -> bytes:
    """JSON in one line, and in ASCII: pycocotools opens it in the locale's encoding."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")
