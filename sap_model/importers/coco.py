"""Any COCO instances JSON with a folder of panoramas.

    SOURCE            the JSON, or a folder with one JSON in it
      images          [{"id", "file_name", "width", "height"}, …]; width = 2 · height
      annotations     [{"id", "image_id", "category_id", "segmentation", "iscrowd"?}, …]
      categories      [{"id", "name", "is_structure"?}, …]
    IMAGES/<file_name>

`segmentation` is a list of polygons or a run-length encoding, compressed or not. Polygons become
pixels as pycocotools draws them. Masks may overlap (see `sap_model.importers.annotated_row`).

Crowds (iscrowd 1) are groups of objects to COCO and are left out; annotation tools write it for
single objects with a brushed mask, too, and those can be taken as instances. Annotations without a
mask (a box or keypoints only) are left out. All of that is counted by reason.

An object's `id` is the annotation's where all of the file fit into 16 bits; else objects of each
panorama are numbered from 1 in the order of their annotations' ids. `name` tells the annotation's
id in any case. A panorama's `scene_id` is its file's name without suffix.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from pipeline.annotations.annotate import InstanceInfo
from pipeline.errors import UserError
from sap_model.importers.annotated_row import MOST_ID, Found, PictureSource
from sap_model.importers.coco_json import CocoFile, Entry, flag_of, place_of, read_coco, shown
from sap_model.importers.coco_masks import BadMaskError, is_given, overshoot, to_mask
from sap_model.importers.files import files_of, inside
from sap_model.importers.tally import Tally
from sap_model.importers.write_dataset import store

Crowds = Literal["skip", "instances"]


def import_coco(
    source: Path,
    out: Path,
    images: Path | None = None,
    min_area: int = 1,
    crowds: Crowds = "skip",
    split: str = "validation",
    skip_bad: bool = False,
) -> Tally:
    """Convert a COCO dataset.

    Args:
        source: The JSON, or a folder with one.
        out: Where the shards go.
        images: Folder of the pictures; by default the JSON's, or images/ there or beside it.
        min_area: Objects with fewer pixels are left out.
        crowds: Whether annotations with iscrowd 1 are left out or taken.
        split: Of all rows.
        skip_bad: Leave out pictures and annotations that are damaged instead of refusing all.

    Raises:
        UserError: The JSON is none of COCO's, or it does not fit the pictures.
    """
    if crowds not in get_args(Crowds):
        raise UserError(f"CROWDS={crowds} is unknown; choose {' or '.join(get_args(Crowds))}")
    tally = Tally(skip_bad)
    file = read_coco(_json_of(source))
    panoramas = list(_panoramas(file, images, crowds, tally))
    options = {"file": file.path.name, "crowds": crowds}
    return store(out, "coco", options, panoramas, min_area=min_area, split=split, tally=tally)


def _json_of(source: Path) -> Path:
    if not source.is_dir():
        return source
    found = files_of(source, (".json",)) or files_of(source / "annotations", (".json",))
    if len(found) != 1:
        raise UserError(f"{source} holds {len(found)} JSON files; name the one to import")
    return found[0]


def _panoramas(
    file: CocoFile, folder: Path | None, crowds: Crowds, tally: Tally
) -> Iterator[PictureSource]:
    """What the file says about each image, checked as far as that goes without the pictures."""
    shown_in: list[list[Entry]] = [[] for _ in file.images]
    for index, entry in enumerate(file.annotations):
        image, category = (place_of(file, index, name) for name in ("image_id", "category_id"))
        is_crowd = flag_of(entry.get("iscrowd"))
        if image is None or category is None:
            field, name = ("image_id", "images") if image is None else ("category_id", "categories")
            tally.bad(
                f"{file.path}: annotations[{index}].{field} {shown(entry.get(field))} is not in "
                f"{name}; add it or remove the annotation",
                annotations=1,
            )
        elif is_crowd is None:
            tally.bad(
                f"{file.path}: annotations[{index}].iscrowd is {shown(entry['iscrowd'])}; write 0 "
                "or 1",
                annotations=1,
            )
        elif is_crowd and crowds == "skip":
            tally.leave_out("crowds (iscrowd 1; CROWDS=instances takes them)")
        elif not is_given(entry.get("segmentation")):
            only = [name for name in ("keypoints", "bbox") if entry.get(name)]
            what = {"keypoints": "keypoints only", "bbox": "a box only"}
            tally.leave_out(f"with {what[only[0]]}" if only else "without a segmentation")
        else:
            shown_in[image].append(entry)
    keep = all(_fits_16_bits(entry["id"]) for entries in shown_in for entry in entries)
    used: dict[Path, int] = {}
    for index, (about, entries) in enumerate(zip(file.images, shown_in, strict=True)):
        try:
            picture = _picture(file, folder, index)
            first = used.setdefault(picture, index)
            if first != index:
                raise UserError(
                    f"{file.path}: images[{first}] and images[{index}] name one file, "
                    f"{shown(about['file_name'])}; give each its own"
                )
        except UserError as error:
            tally.bad(str(error))
            tally.leave_out("in pictures that were skipped", len(entries))
            continue
        if all(isinstance(entry["id"], int) for entry in entries):
            entries.sort(key=lambda entry: entry["id"])
        name = str(about["file_name"])
        yield PictureSource(
            scene=str(PurePosixPath(name).with_suffix("")),
            frame=0,
            picture=picture,
            objects=partial(_objects, file, about, entries, keep, tally),
            annotations=len(entries),
        )


def _fits_16_bits(number: object) -> bool:
    return isinstance(number, int) and 1 <= number <= MOST_ID


def _picture(file: CocoFile, folder: Path | None, index: int) -> Path:
    image = file.images[index]
    for field, kind in (("file_name", str), ("width", int), ("height", int)):
        if not isinstance(image.get(field), kind):
            raise UserError(
                f"{file.path}: images[{index}].{field} is {shown(image.get(field))}; "
                f"{'text' if kind is str else 'an integer'} is expected"
            )
    name = image["file_name"]
    here = file.path.parent
    folders = [folder] if folder else [here, here / "images", here.parent / "images"]
    places = [inside(place, name) for place in folders]
    try:
        return next((place for place in places if place.is_file()), places[0])
    except OSError as error:  # a name that no file can have
        raise UserError(
            f"{file.path}: images[{index}].file_name {shown(name)}: {error.strerror}; correct it"
        ) from None


def _objects(
    file: CocoFile,
    image: Entry,
    entries: list[Entry],
    keep_ids: bool,
    tally: Tally,
    shape: tuple[int, int],
) -> Iterator[Found]:
    if (image["height"], image["width"]) != shape:
        raise UserError(
            f"{file.path}: {image['file_name']} has {shape[1]} × {shape[0]} pixels as viewers show "
            f"it, its entry says {image['width']} × {image['height']}; import the pictures that "
            "were annotated"
        )
    for number, entry in enumerate(entries, start=1):
        try:
            mask = to_mask(entry["segmentation"], shape)
        except BadMaskError as error:
            tally.bad(
                f"{file.path}: annotation {shown(entry['id'])} is damaged: {error}; draw it again",
                annotations=1,
            )
            continue
        beyond = overshoot(entry["segmentation"], shape)
        if beyond and not mask.any():
            tally.leave_out("outside of their picture")
            continue
        if beyond:
            tally.note(image["file_name"], f"cut at the border: annotation {entry['id']}, {beyond}")
        category = file.categories[file.categories_by_id[entry["category_id"]]]
        instance = InstanceInfo(
            f"annotation {entry['id']}",
            category["name"],
            bool(flag_of(category.get("is_structure"))),
        )
        yield entry["id"] if keep_ids else number, instance, mask
