"""One panorama of a benchmark to one row of `pipeline.shards.schema`.

Masks of a benchmark may overlap, our ids may not: `ids` holds one number per pixel. So
`objects.segmentation`, and everything computed from it, is exactly the mask as it was annotated,
and `ids` is the best that one number can do: smaller objects lie before larger ones. Scores are
computed from `segmentation`.

A picture that shows a part of the sphere (see `pipeline.pictures.read`) is a row of the whole
sphere, black where nothing is known, and its masks are placed as it is.

What a benchmark cannot know is null: camera, seed, versions of InfiniGen and Blender, render
settings. `generator` is `import`, `provenance.profile` names the importer, and
`provenance.settings_hash` is a hash of the importer's options.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.annotations.annotate import InstanceInfo, annotate_mask, paint_ids
from pipeline.annotations.stage import encode_png, encode_webp
from pipeline.errors import UserError
from pipeline.pictures.read import read_picture
from pipeline.shards.schema import IMAGE_FILES, NO_GEOMETRY
from sap_model.importers.files import safe_name
from sap_model.importers.tally import Tally

MOST_ID = 65535
"""`ids` is a 16-bit PNG."""

MOST_PIXELS_WIDE = 16383
"""WebP, in which shards hold pictures, knows no larger ones."""

Found = tuple[int, InstanceInfo, NDArray[np.bool_]]
"""An object as an importer found it: its id from 1 to `MOST_ID`, what it is, its mask (H, W)."""


@dataclass(frozen=True)
class PictureSource:
    """A panorama as an importer found it.

    Attributes:
        scene: Name of what it belongs to: a video, or the panorama itself. Any text.
        frame: Its number there, 0 to 999,999,999.
        picture: The file.
        objects: Called with the shape (h, w) of the picture's own pixels; gives its objects one at
            a time, with masks (h, w).
        annotations: How many there are.
    """

    scene: str
    frame: int
    picture: Path
    objects: Callable[[tuple[int, int]], Iterator[Found]]
    annotations: int = 0


def make_row(
    source: PictureSource, importer: str, settings_hash: str, min_area: int, tally: Tally
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The row of a panorama, and the bytes of its images.

    Args:
        source: The panorama.
        importer: Name of the importer.
        settings_hash: Of its options.
        min_area: Objects with fewer pixels are left out; empty ones are in any case.
        tally: Counts what is left out, and notes what was done to the picture.

    Returns:
        row: As row.json of an annotated panorama, with a `summary` for the writer.
        images: Bytes by column.

    Raises:
        UserError: A file is missing or damaged, or the annotations are of another picture.
    """
    picture = read_picture(source.picture)
    shape = picture.window.height, picture.window.width
    if shape[1] > MOST_PIXELS_WIDE:
        raise UserError(
            f"{source.picture} is {shape[1]} pixels wide, more than the {MOST_PIXELS_WIDE} that "
            "WebP can hold; reduce it and its masks"
        )
    objects, dropped = [], 0
    for label, instance, mask in source.objects(picture.size):
        area = np.count_nonzero(mask)
        if area < max(min_area, 1):
            tally.leave_out(f"smaller than MIN_AREA={min_area}" if area else "empty")
            dropped += 1
            continue
        objects.append(annotate_mask(picture.place(mask), label, instance))
    for note in picture.notes:
        tally.note(source.picture.name, note)
    objects.sort(key=lambda thing: thing["id"])
    labels = [thing["id"] for thing in objects]
    if len(set(labels)) < len(labels) or not all(1 <= label <= MOST_ID for label in labels):
        raise UserError(f"the ids of {source.picture}'s objects are not 1 to {MOST_ID}, each once")
    images = {"image": encode_webp(picture.pixels), "ids": encode_png(paint_ids(objects, shape))}
    scene = safe_name(source.scene)
    row = {
        "image_id": f"{scene}/{source.frame}",
        "scene_id": scene,
        "width": shape[1],
        "height": shape[0],
        "generator": "import",
        "seed": None,
        "camera": None,
        "room": None,
        "objects": [thing | NO_GEOMETRY for thing in objects],
        "provenance": {
            **dict.fromkeys(("infinigen", "bpy", "samples", "device", "exposure_stops")),
            "pipeline": __version__,
            "profile": f"import {importer}",
            "settings_hash": settings_hash,
        },
        "summary": {
            "dropped": dropped,
            "defects": [],
            "sha256": {
                IMAGE_FILES[column]: hashlib.sha256(data).hexdigest()
                for column, data in images.items()
            },
        },
    }
    return row, images
