"""Small benchmarks in the layouts of the importers, with masks drawn from the sphere."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco

from tests.synthetic import disc, disc_ids, picture

WIDTH = 128
DISCS = {
    "chair_1": (40, -20, 15),
    "chair_2": (45, -15, 12),
    "lamp": (180, 10, 12),
    "sun": (0, 90, 20),
}
"""Two that overlap, one on the seam, one at the pole."""


def save(path: Path, image: np.ndarray) -> None:
    """Write an image; colours are given as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(
        str(path), image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]
    )


def discs(turn: float = 0.0, width: int = WIDTH) -> dict[str, np.ndarray]:
    """Masks (H, W) of `DISCS`, turned by degrees of longitude."""
    return {name: disc(lon + turn, lat, r, width) for name, (lon, lat, r) in DISCS.items()}


def view(seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """An RGB picture (H, W, 3)."""
    return picture(disc_ids(width), seed)


def make_coco(folder: Path, width: int = WIDTH) -> Path:
    """Two panoramas, and polygons and both kinds of run-length encodings; returns the JSON."""
    height = width // 2
    masks = list(discs(width=width).values())
    compressed = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    runs = np.diff(np.flatnonzero(np.diff(masks[1].T.ravel(), prepend=False)), prepend=0).tolist()
    runs.append(width * height - sum(runs))
    segmentations = [
        {"size": [height, width], "counts": compressed[0]["counts"].decode()},
        {"size": [height, width], "counts": runs},
        {"size": [height, width], "counts": compressed[2]["counts"].decode()},
        [[10.0, 10.0, 30.0, 10.0, 30.0, 20.0, 10.0, 20.0], [40.5, 5.5, 50.5, 5.5, 45.5, 15.5]],
    ]
    save(folder / "images" / "a" / "room.png", view(1, width))
    save(folder / "images" / "b.png", view(2, width))
    data = {
        "images": [
            {"id": 5, "file_name": "a/room.png", "width": width, "height": height},
            {"id": 6, "file_name": "b.png", "width": width, "height": height},
        ],
        "categories": [{"id": 1, "name": "chair"}, {"id": 2, "name": "wall", "is_structure": True}],
        "annotations": [
            {
                "id": 70 + k,
                "image_id": 5,
                "category_id": 1 + k // 3,
                "segmentation": s,
                "iscrowd": 0,
            }
            for k, s in enumerate(segmentations)
        ]
        + [
            {
                "id": 90,
                "image_id": 5,
                "category_id": 1,
                "segmentation": segmentations[0],
                "iscrowd": 1,
            }
        ],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(data))
    return file


COLOURS = {"chair_1": (200, 0, 0), "lamp": (0, 180, 10), "sun": (0, 0, 255)}
"""Colours of instances in label images; those of `DISCS` that do not overlap."""


def make_pavs(folder: Path, videos=("_-6QUCaLvQ_3I", "Ellen2", "plain"), frames: int = 6) -> Path:
    """Videos with masks in colours, in one file per instance, and in grey values; one without.

    Of every video the frames 0, 2, 4, … have masks; the scene turns by a degree a frame.
    """
    for kind, video in enumerate(videos):
        split = ("train", "test")[kind % 2]
        for frame in range(frames):
            save(folder / "Frames" / video / f"{frame:05d}.png", view(10 * kind + frame))
            if frame % 2:
                continue
            masks = discs(frame)
            place = folder / "Instances" / split / video
            if kind == 1:
                for name in ("chair_1", "chair_2"):
                    save(place / f"{frame:05d}" / f"{name}.png", masks[name].astype(np.uint8) * 255)
                continue
            image = np.zeros((WIDTH // 2, WIDTH, 3), np.uint8)
            for name, colour in COLOURS.items():
                image[masks[name]] = colour
            if kind == 2:
                image = sum(masks[n] * np.uint8(v) for n, v in (("lamp", 7), ("sun", 3)))
            save(place / f"frame_{frame:05d}.png", image)
    save(folder / "Frames" / "unmarked" / "00000.png", view())
    return folder


def make_hunyuan(folder: Path, width: int = WIDTH) -> Path:
    """Two panoramas with a mask per object; one mask is smoothed, one is an opacity."""
    masks = discs(width=width)
    for number, name in enumerate(("city at night", "forest")):
        save(folder / name / "panorama.png", view(number, width))
        for thing, mask in masks.items():
            image = mask.astype(np.uint8) * 255
            if thing == "sun":
                image = np.dstack([np.full((*mask.shape, 3), 90, np.uint8), image])
            save(folder / name / "masks" / f"{thing}.png", image)
    return folder
