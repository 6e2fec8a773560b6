"""Any COCO instances JSON with a folder of panoramas.

    SOURCE            the JSON, or a folder with one JSON in it
      images          [{"id", "file_name", "width", "height"}, …]; width = 2 · height
      annotations     [{"id", "image_id", "category_id", "segmentation", "iscrowd"?}, …]
      categories      [{"id", "name", "is_structure"?}, …]
    IMAGES/<file_name>

`segmentation` is a list of polygons or a run-length encoding, compressed or not. Polygons become
pixels as pycocotools draws them. Masks may overlap (see
`sap_model.importers.annotated_row`). Crowds
(iscrowd 1) are no instances and are left out.

An object's `id` is the annotation's where all of the file fit into 16 bits; else objects of each
panorama are numbered from 1 in the order of their annotations' ids. `name` tells the annotation's
id in any case. A panorama's `scene_id` is its file's name without suffix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from rlemasklib import RLEMask

from pipeline.annotations.annotate import InstanceInfo
from pipeline.errors import UserError
from sap_model.importers.annotated_row import MOST_ID, Found, Source
from sap_model.importers.files import files_of, inside
from sap_model.importers.write_dataset import store

Entry = dict[str, Any]


def import_coco(
    source: Path, out: Path, images: Path | None = None, min_area: int = 1
) -> dict[str, int]:
    """Convert a COCO dataset; see `store` for what is returned.

    Args:
        source: The JSON, or a folder with one.
        out: Where the shards go.
        images: Folder of the pictures; by default the JSON's, or images/ there or beside it.
        min_area: Objects with fewer pixels are left out.

    Raises:
        UserError: The JSON is none of COCO's, or it does not fit the pictures.
    """
    file = _json_of(source)
    panoramas = list(_panoramas(file, _read(file), images))
    return store(out, "coco", {"file": file.name}, panoramas, min_area=min_area)


def _json_of(source: Path) -> Path:
    if not source.is_dir():
        return source
    found = files_of(source, (".json",)) or files_of(source / "annotations", (".json",))
    if len(found) != 1:
        raise UserError(f"{source} holds {len(found)} JSON files; name the one to import")
    return found[0]


def _read(file: Path) -> Entry:
    try:
        data = json.loads(file.read_bytes())
        return {key: list(data[key]) for key in ("images", "annotations", "categories")}
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{file} is no COCO JSON with images, annotations, categories") from None


def _panoramas(file: Path, data: Entry, folder: Path | None) -> Iterator[Source]:
    """What the file says about each image, checked as far as that goes without the pictures."""
    where: Any = "its lists"
    try:
        categories = {}
        for where in data["categories"]:
            structure = bool(where.get("is_structure", False))
            categories[where["id"]] = str(where["name"]), structure
        shown: dict[Any, list[Entry]] = {}
        for where in data["images"]:
            where["file_name"], where["width"], where["height"]
            if shown.setdefault(where["id"], []):
                raise ValueError("an id twice")
        for where in data["annotations"]:
            where["segmentation"], categories[where["category_id"]]
            if not isinstance(where["id"], int):
                raise TypeError("an id that is no number")
            if not where.get("iscrowd"):
                shown[where["image_id"]].append(where)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        entry = json.dumps(where)[:80]
        raise UserError(f"{file}: {entry} … is not as COCO has it ({error})") from None
    ids = [entry["id"] for entries in shown.values() for entry in entries]
    if len(set(ids)) < len(ids):
        raise UserError(f"{file}: annotations share an id; correct it")
    keep = all(1 <= number <= MOST_ID for number in ids)
    for image in data["images"]:
        entries = sorted(shown[image["id"]], key=lambda entry: entry["id"])
        name = str(image["file_name"])
        yield Source(
            scene=name.rpartition(".")[0] or name,
            frame=0,
            picture=_picture(file, folder, name),
            objects=partial(_objects, file, image, entries, categories, keep),
        )


def _picture(file: Path, folder: Path | None, name: str) -> Path:
    if folder:
        return inside(folder, name)
    here = file.parent
    places = [inside(place, name) for place in (here, here / "images", here.parent / "images")]
    return next((place for place in places if place.is_file()), places[0])


def _objects(
    file: Path,
    image: Entry,
    entries: list[Entry],
    categories: dict[Any, tuple[str, bool]],
    keep_ids: bool,
    shape: tuple[int, int],
) -> Iterator[Found]:
    if (image["height"], image["width"]) != shape:
        raise UserError(
            f"{file}: {image['file_name']} has {shape[1]} × {shape[0]} pixels, its entry says "
            f"{image['width']} × {image['height']}; import the pictures that were annotated"
        )
    for number, entry in enumerate(entries, start=1):
        try:
            mask = to_mask(entry["segmentation"], shape)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file}: annotation {entry['id']} is damaged ({error})") from None
        category, is_structure = categories[entry["category_id"]]
        instance = InstanceInfo(f"annotation {entry['id']}", category, is_structure)
        yield entry["id"] if keep_ids else number, instance, mask


def to_mask(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """COCO's polygons or run-length encoding as a mask (H, W).

    Raises:
        ValueError, TypeError, KeyError: It is neither, or of another size.
    """
    height, width = shape
    if isinstance(segmentation, dict):
        # rlemasklib checks that the runs fill the picture; pycocotools reads past their end
        counts = segmentation["counts"]
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"size {segmentation['size']} instead of {[height, width]}")
        key = "ucounts" if isinstance(counts, list) else "counts"
        rle = RLEMask.from_dict({"size": [height, width], key: counts})
        return rle.to_array().view(np.bool_)
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon with less than three points, or half a point")
        if not all(math.isfinite(value) and abs(value) <= 2 * width for value in polygon):
            raise ValueError("a polygon far outside the picture")
    if not segmentation:
        return np.zeros(shape, bool)
    parts = coco.frPyObjects([list(map(float, polygon)) for polygon in segmentation], height, width)
    return coco.decode(coco.merge(parts)).view(np.bool_)
