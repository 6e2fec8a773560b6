"""Checks of a row that an importer made (`sap_model.importers`) from somebody else's masks.

Such a row has no seed, no camera and no render settings, and its masks may overlap: each annotation
is recomputed from its own mask, and the id map from all masks together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pipeline.annotations.annotate import InstanceInfo, annotate_mask, paint_ids
from pipeline.verify.findings import Report
from pipeline.verify.row_checks import decode_images, differences, missing_values, wrong_runs

UNKNOWN = re.compile(
    r"seed|camera(\..+)?|room|objects\[\d+\]\.(box3d|distance|seen)"
    r"|provenance\.(infinigen|bpy|samples|device|exposure_stops)"
)
"""Columns that are null in an imported row."""

IMAGE_ID = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]{0,99})/(0|[1-9]\d{0,8})")


def is_imported(row: Mapping[str, Any]) -> bool:
    """Whether a row is an importer's."""
    return row.get("generator") == "import" and row.get("seed") is None


def check_imported_row(row: Mapping[str, Any], report: Report) -> NDArray[np.uint8] | None:
    """Report all errors within an imported row; for the arguments see `check_row`.

    Returns:
        The image (H, W, 3) uint8 RGB, or None if it cannot be decoded.
    """
    missing = [path for path in missing_values(row) if not UNKNOWN.fullmatch(path)]
    for path in missing:
        report(f"{path} is missing")
    if missing:
        return None
    named = IMAGE_ID.fullmatch(row["image_id"])
    if not named or named[1] != row["scene_id"]:
        report(f"image_id is {row['image_id']!r}, with scene_id {row['scene_id']!r}")
    images = decode_images(row, report)
    if (ids := images["ids"]) is not None:
        _check_objects(ids, row["objects"], report)
    return images["image"]


def _check_objects(
    ids: NDArray[np.uint16], objects: list[Mapping[str, Any]], report: Report
) -> None:
    labels = [thing["id"] for thing in objects]
    if sorted(set(labels)) != labels:
        report("objects are not sorted by id, or an id is repeated")
    sound = []
    for thing in objects:
        if wrong := wrong_runs(thing["segmentation"], ids.shape):
            report(f"mask {wrong}", object=thing["id"])
            continue
        mask = coco.decode(thing["segmentation"]).view(np.bool_)
        if not mask.any():
            report("mask is empty", object=thing["id"])
            continue
        about = InstanceInfo(thing["name"], thing["category"], thing["is_structure"])
        expected = annotate_mask(mask, thing["id"], about)
        for text in differences(thing, expected, 360 / ids.shape[1], "its mask"):
            report(text, object=thing["id"])
        sound.append(expected)
    if len(sound) == len(objects):
        differing = np.count_nonzero(ids != paint_ids(sound, ids.shape))
        if differing:
            report(f"the id map and the masks differ in {differing} pixels")
