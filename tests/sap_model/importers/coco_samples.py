"""COCO files as tools write them, each with one thing that is unusual or wrong.

The whole file has two panoramas of 128 × 64 pixels: a.png with the annotations 1 (a polygon), 2
(run-length encoding) and 3 (a brushed mask, iscrowd 1), and b.png with annotation 4 (a polygon).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from tests.pictures.samples import H, W, panorama

Data = dict[str, Any]


def box(x: float, y: float, w: float = 30, h: float = 20) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def runs(x: int, y: int, w: int = 30, h: int = 20) -> dict[str, Any]:
    mask = np.zeros((H, W), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = coco.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def whole() -> Data:
    """A file with nothing wrong."""
    things = [(1, box(5, 5), 0), (1, runs(50, 30), 0), (1, runs(90, 10), 1), (2, box(20, 20), 0)]
    return {
        "images": [
            {"id": number, "file_name": name, "width": W, "height": H}
            for number, name in ((1, "a.png"), (2, "b.png"))
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": 7,
                "segmentation": segmentation,
                "iscrowd": crowd,
            }
            for number, (image, segmentation, crowd) in enumerate(things, start=1)
        ],
        "categories": [{"id": 7, "name": "chair"}],
    }


def write(folder: Path, change: Callable[[Data], object] = lambda data: None) -> Path:
    """The pictures, and the file after a change; returns the file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for turn, name in enumerate(("a.png", "b.png")):
        picture = np.roll(panorama(), 20 * turn, axis=1)
        cv2.imwrite(str(folder / "images" / name), picture[..., ::-1])
    data = copy.deepcopy(whole())
    changed = change(data)
    file = folder / "ann.json"
    if isinstance(changed, bytes):
        file.write_bytes(changed)
    else:
        file.write_text(json.dumps(data))
    return file


def of(place: str, **values: Any) -> Callable[[Data], None]:
    """A change of an entry: of("annotations 0", id=5)."""
    name, index = place.split()

    def change(data: Data) -> None:
        data[name][int(index)].update(values)

    return change


def without(place: str, field: str) -> Callable[[Data], None]:
    name, index = place.split()

    def change(data: Data) -> None:
        del data[name][int(index)][field]

    return change


def all_of(name: str, field: str, convert: Callable[[Any], Any]) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        for entry in data[name]:
            entry[field] = convert(entry[field])

    return change


def both(*changes: Callable[[Data], object]) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        for one in changes:
            one(data)

    return change


def as_text(edit: Callable[[str], str | bytes]) -> Callable[[Data], bytes]:
    """A change of the file's text."""

    def change(data: Data) -> bytes:
        text = edit(json.dumps(data))
        return text if isinstance(text, bytes) else text.encode()

    return change


TEXT_IDS = both(
    all_of("images", "id", str),
    all_of("annotations", "image_id", str),
    all_of("annotations", "id", str),
)

STRUCTURE: dict[str, tuple[Callable[[Data], object], tuple[str, ...]]] = {
    "no JSON": (as_text(lambda text: text[:200]), ("is no JSON",)),
    "no UTF-8": (as_text(lambda text: b"\xff\xff" + text.encode()), ("UTF-8",)),
    "a list of results": (as_text(lambda text: "[]"), ("no COCO JSON",)),
    "no annotations": (lambda data: data.pop("annotations") and None, ("no COCO JSON",)),
    "annotations that are an object": (
        lambda data: data.update(annotations={"1": {}}),
        ("no COCO JSON",),
    ),
    "an annotation that is a number": (
        lambda data: data["annotations"].append(5),
        ("annotations[4]", "5"),
    ),
    "a key twice": (
        as_text(lambda text: text[:-1] + ', "images": []}'),
        ("'images' is twice",),
    ),
    "nesting without end": (as_text(lambda text: "[" * 10**5), ("nested",)),
    "a number of 5,000 digits": (as_text(lambda text: "9" * 5000), ("digits",)),
    "two images with one id": (of("images 1", id=1), ("images[0] and images[1]", "id 1")),
    "two images with ids 1 and '1'": (of("images 1", id="1"), ("images[0] and images[1]",)),
    "two categories with one id": (
        lambda data: data["categories"].append({"id": 7, "name": "lamp"}),
        ("categories[0] and categories[1]", "id 7"),
    ),
    "two annotations with one id": (
        of("annotations 3", id=2),
        ("annotations[1] and annotations[3]", "id 2"),
    ),
    "image_id '1' for the id 1": (
        of("annotations 1", image_id="1"),
        ('annotations[1].image_id is "1"', "images[0].id is 1"),
    ),
    "image_id 1 for the id '1'": (
        all_of("images", "id", str),
        ("annotations[0].image_id is 1", 'images[0].id is "1"'),
    ),
    "image_id 1.0 for the id 1": (
        of("annotations 0", image_id=1.0),
        ("annotations[0].image_id is 1.0", "images[0].id is 1"),
    ),
    "category_id '7' for the id 7": (
        of("annotations 2", category_id="7"),
        ('annotations[2].category_id is "7"', "categories[0].id is 7"),
    ),
    "an image without id": (without("images 0", "id"), ("images[0] has no id",)),
    "an annotation without id": (without("annotations 2", "id"), ("annotations[2] has no id",)),
    "an id that is a list": (of("images 0", id=[1]), ("images[0] has the id [1]",)),
    "an id that is true": (of("images 0", id=True), ("images[0] has the id true",)),
    "a category without name": (
        without("categories 0", "name"),
        ("categories[0].name is missing",),
    ),
    "a category whose name is a number": (of("categories 0", name=7), ("categories[0].name is 7",)),
    "half of a character": (of("categories 0", name="\ud800"), ("ud800", "half of a character")),
}
"""Name: a change that nothing can be trusted after, and what the refusal says."""

DAMAGED: dict[str, tuple[Callable[[Data], object], tuple[str, ...], int, int]] = {
    "a picture that is missing": (of("images 1", file_name="c.png"), ("c.png", "missing"), 1, 2),
    "a name that leads out": (of("images 1", file_name="../b.png"), ("'../b.png'", "out of"), 1, 2),
    "an absolute name": (of("images 1", file_name="/etc/passwd"), ("'/etc/passwd'",), 1, 2),
    "a name of Windows' drive C": (of("images 1", file_name="C:\\b.png"), ("leads out of",), 1, 2),
    "a name of 5,000 letters": (of("images 1", file_name="b" * 5000), ("name",), 1, 2),
    "a name that is a number": (of("images 1", file_name=5), ("images[1].file_name is 5",), 1, 2),
    "two images with one file": (
        of("images 1", file_name="a.png"),
        ("images[0] and", "a.png"),
        1,
        2,
    ),
    "a width that is another": (of("images 1", width=130), ("128 × 64", "130 × 64"), 1, 2),
    "sides that are swapped": (of("images 1", width=H, height=W), ("64 × 128",), 1, 2),
    "a width that is text": (of("images 1", width="128"), ('images[1].width is "128"',), 1, 2),
    "no width": (without("images 1", "width"), ("images[1].width is null",), 1, 2),
    "an image_id that no image has": (of("annotations 3", image_id=9), ("image_id 9",), 2, 2),
    "an image_id of two signs": (of("annotations 3", image_id="--1"), ('"--1"',), 2, 2),
    "an image_id that is null": (of("annotations 3", image_id=None), ("image_id null",), 2, 2),
    "a category_id that no category has": (of("annotations 3", category_id=9), ("id 9",), 2, 2),
    "iscrowd 'maybe'": (of("annotations 3", iscrowd="maybe"), ('iscrowd is "maybe"',), 2, 2),
    "a polygon of two points": (
        of("annotations 3", segmentation=[[1, 2, 3, 4]]),
        ("annotation 4", "2 points"),
        2,
        2,
    ),
    "a polygon of half a point more": (
        of("annotations 3", segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        ("annotation 4", "3.5 points"),
        2,
        2,
    ),
    "a polygon without its list": (
        of("annotations 3", segmentation=box(1, 1)[0]),
        ("annotation 4", "list of polygons"),
        2,
        2,
    ),
    "a coordinate that is NaN": (
        of("annotations 3", segmentation=[[1, 2, 3, 4, float("nan"), 6]]),
        ("annotation 4", "nan"),
        2,
        2,
    ),
    "a coordinate that is infinite": (
        of("annotations 3", segmentation=[[1, 2, 3, 4, float("inf"), 6]]),
        ("annotation 4", "inf"),
        2,
        2,
    ),
    "a coordinate of 10^400": (
        of("annotations 3", segmentation=[[1, 2, 3, 4, 10**400, 6]]),
        ("annotation 4", "1000"),
        2,
        2,
    ),
    "a coordinate that is text": (
        of("annotations 3", segmentation=[["1", 2, 3, 4, 5, 6]]),
        ("annotation 4", "'1'"),
        2,
        2,
    ),
    "a segmentation that is text": (
        of("annotations 3", segmentation="polygon"),
        ("annotation 4", "neither"),
        2,
        2,
    ),
    "runs for another size": (
        of("annotations 3", segmentation={"size": [8, 16], "counts": [128]}),
        ("annotation 4", "[8, 16]"),
        2,
        2,
    ),
    "runs with width before height": (
        of("annotations 3", segmentation={"size": [W, H], "counts": [W * H]}),
        ("width before height",),
        2,
        2,
    ),
    "runs that are too few": (
        of("annotations 3", segmentation={"size": [H, W], "counts": [5, 5]}),
        ("annotation 4", "10 pixels"),
        2,
        2,
    ),
    "runs that are negative": (
        of("annotations 3", segmentation={"size": [H, W], "counts": [-5, W * H + 5]}),
        ("annotation 4",),
        2,
        2,
    ),
    "a run of 10^30": (
        of("annotations 3", segmentation={"size": [H, W], "counts": [0, 10**30]}),
        ("annotation 4",),
        2,
        2,
    ),
    "runs as broken text": (
        of("annotations 3", segmentation={"size": [H, W], "counts": "91f0"}),
        ("annotation 4",),
        2,
        2,
    ),
    "runs without counts": (
        of("annotations 3", segmentation={"size": [H, W]}),
        ("annotation 4", "no counts"),
        2,
        2,
    ),
}
"""Name: a change, what the refusal says, and panoramas and instances with SKIP_BAD=1."""

TAKEN: dict[str, tuple[Callable[[Data], object], int, dict[str, int], tuple[str, ...]]] = {
    "nothing wrong": (lambda data: None, 3, {"crowds": 1}, ()),
    "a byte order mark": (
        as_text(lambda text: b"\xef\xbb\xbf" + text.encode()),
        3,
        {"crowds": 1},
        (),
    ),
    "UTF-16": (as_text(lambda text: text.encode("utf-16")), 3, {"crowds": 1}, ()),
    "ids that are all text": (TEXT_IDS, 3, {"crowds": 1}, ()),
    "ids beyond 16 bits": (all_of("annotations", "id", lambda i: i + 10**12), 3, {"crowds": 1}, ()),
    "iscrowd as text '0'": (all_of("annotations", "iscrowd", str), 3, {"crowds": 1}, ()),
    "iscrowd as boolean": (all_of("annotations", "iscrowd", bool), 3, {"crowds": 1}, ()),
    "iscrowd that is null": (of("annotations 2", iscrowd=None), 4, {}, ()),
    "no iscrowd": (without("annotations 2", "iscrowd"), 4, {}, ()),
    "a backslash in a name": (of("images 1", file_name="images\\b.png"), 3, {"crowds": 1}, ()),
    "a box only": (
        of("annotations 3", segmentation=[], bbox=[1, 2, 3, 4]),
        2,
        {"crowds": 1, "a box only": 1},
        (),
    ),
    "keypoints only": (
        of("annotations 3", segmentation=None, keypoints=[1, 2, 2], bbox=[1, 2, 3, 4]),
        2,
        {"crowds": 1, "keypoints only": 1},
        (),
    ),
    "no segmentation": (
        without("annotations 3", "segmentation"),
        2,
        {"crowds": 1, "without a segmentation": 1},
        (),
    ),
    "an empty polygon": (
        of("annotations 3", segmentation=[[]]),
        2,
        {"crowds": 1, "without a segmentation": 1},
        (),
    ),
    "runs without a pixel": (
        of("annotations 3", segmentation={"size": [H, W], "counts": [W * H]}),
        2,
        {"crowds": 1, "empty": 1},
        (),
    ),
    "a polygon without area": (
        of("annotations 3", segmentation=[[5, 5, 5, 5, 5, 5]]),
        2,
        {"crowds": 1, "empty": 1},
        (),
    ),
    "a polygon outside": (
        of("annotations 3", segmentation=box(-90, 10)),
        2,
        {"crowds": 1, "outside": 1},
        (),
    ),
    "a polygon partly outside": (
        of("annotations 3", segmentation=box(-10, 10)),
        3,
        {"crowds": 1},
        ("cut at the border", "-10"),
    ),
    "a polygon along the border": (
        of("annotations 3", segmentation=box(W - 30, H - 20)),
        3,
        {"crowds": 1},
        (),
    ),
    "fields that nobody reads": (
        of("annotations 3", area=float("nan"), bbox="none", score=None, attributes={"id": 1}),
        3,
        {"crowds": 1},
        (),
    ),
}
"""Name: a change, instances, what is left out by reason, and what the notes say."""
