"""What `sap-panorama segment` does: panoramas of a folder → masks, overlays, one COCO file.

OUT holds, for a panorama NAME:

    masks/NAME.png            16 bits: the number of the mask at each pixel, 0 for none
    overlays/NAME.jpg         the masks painted on the panorama, which viewers show in 360°
    panoramas/NAME.json       its COCO annotations; written last, so that it says "done"

and of all of them `coco.json` and `segment.json`, the settings. A run that was stopped resumes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.pictures.read import Picture
from pipeline.pictures.write import encode_panorama
from pipeline.storage import write_atomic
from sap_model.predict.formats import encode_labels, label_map, to_coco
from sap_model.predict.objects import Box, Prediction, Segmented, panorama_size
from sap_model.predict.overlay import paint_labels
from sap_model.predict.predictor import SapPredictor
from sap_model.segment.everything import EverythingOptions
from sap_model.segment.sources import PanoramaFile, count_panoramas, panoramas_of

ANY = "*"
"""In a file of prompts: for every panorama that is not named."""

Prompts = Mapping[str, Sequence[Mapping[str, Any]]]
"""Name of a panorama: the arguments of `SapPredictor.predict` for each object, and its name."""


@dataclass(frozen=True)
class FolderJob:
    """What is segmented, and how.

    Attributes:
        source: A picture, a video or a folder.
        out: Folder of the results.
        prompts: What is segmented in each panorama; None for everything.
        everything: Options, where there are no prompts.
        every: Of videos, each n-th frame.
        overlays: Whether overlays are written.
        about: What else decides about the results, for `segment.json`: the weights.
    """

    source: Path
    out: Path
    prompts: Prompts | None
    everything: EverythingOptions
    every: int
    overlays: bool
    about: Mapping[str, Any]


def segment_folder(
    job: FolderJob, predictor: SapPredictor, progress: Callable[[str], None] = print
) -> int:
    """Segment all panoramas of a source that are not done.

    Args:
        job: See there.
        predictor: Of the method "warp" or "zoom".
        progress: Gets a line for each panorama.

    Returns:
        How many panoramas were left out because they could not be read or prompted.

    Raises:
        UserError: The source has no panoramas, or OUT holds results of other settings.
    """
    total = count_panoramas(job.source, job.every)
    _check_settings(job)
    names: list[str] = []
    left_out = 0
    for number, file in enumerate(panoramas_of(job.source, job.every), start=1):
        done = _place(job.out, "panoramas", file.name, ".json")
        if done.is_file():
            names.append(file.name)
            continue
        began = time.monotonic()
        try:
            masks = _segment_one(job, predictor, file)
        except UserError as error:
            left_out += 1
            print(f"left out: {error}", file=sys.stderr, flush=True)
            continue
        names.append(file.name)
        seconds = time.monotonic() - began
        progress(f"{number} of {max(total, number)}: {file.name}, {masks} masks, {seconds:.1f} s")
    _write(job.out / "coco.json", _joined(job.out, names))
    return left_out


def read_prompts(path: Path) -> Prompts:
    """A JSON file of prompts: {"room.jpg": [{"points": [[x, y]], "labels": [1], "name": …}, …]}.

    "*" stands for every panorama that is not named. Pixels are those of the picture's file.

    Raises:
        UserError: It cannot be read, or is laid out in another way.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; correct PROMPTS") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}; correct it") from None
    entries = content.items() if isinstance(content, dict) else [("", None)]
    for name, objects in entries:
        if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
            raise UserError(
                f"{path} holds no list of prompts for {name!r}; write "
                '{"room.jpg": [{"points": [[1200, 900]], "labels": [1]}]}'
            )
    found: Prompts = content
    return found


def _segment_one(job: FolderJob, predictor: SapPredictor, file: PanoramaFile) -> int:
    """Segment a panorama and write its files; the number of masks."""
    asked = None
    if job.prompts is not None:
        asked = job.prompts.get(file.name, job.prompts.get(ANY, ()))
    picture = file.read()
    predictor.set_panorama(picture.pixels)
    found: dict[int, Segmented]
    if asked is None:
        *_, last = predictor.everything_steps(job.everything)
        segments = last.segments or []
        found = dict(enumerate((_known(one, picture) for one in segments), start=1))
        found = {number: one for number, one in found.items() if one.mask.any()}
    else:
        prompts = [_on_sphere(one, picture, file.name) for one in asked]
        answers = predictor.predict_many(prompts)
        found = dict(enumerate((_known(one, picture) for one in answers), start=1))
    labels = label_map(
        {number: one.mask for number, one in found.items()}, panorama_size(picture.pixels)
    )
    _write(_place(job.out, "masks", file.name, ".png"), encode_labels(picture.cut(labels)))
    if job.overlays:
        painted = picture.cut(paint_labels(picture.pixels, labels))
        data = encode_panorama(painted, ".jpg", picture.window)
        _write(_place(job.out, "overlays", file.name, ".jpg"), data)
    cut = {
        number: Prediction(picture.cut(one.mask), one.iou) if picture.is_part else one
        for number, one in found.items()
    }
    annotations = to_coco(cut)
    for annotation in annotations:
        annotation["solid_angle"] = found[annotation["id"]].solid_angle
        if asked is not None:
            name = asked[annotation["id"] - 1].get("name", "object")
            annotation["name"] = str(name)
    height, width = picture.size
    image = {"file_name": file.name, "width": width, "height": height}
    content = {"image": image, "notes": picture.notes, "annotations": annotations}
    _write(_place(job.out, "panoramas", file.name, ".json"), _json(content))
    return len(found)


def _known(one: Segmented, picture: Picture) -> Segmented:
    """A mask without the pixels of which the picture shows nothing."""
    if picture.known is None:
        return one
    return Prediction(one.mask & picture.known, one.iou)


def _on_sphere(prompt: Mapping[str, Any], picture: Picture, name: str) -> dict[str, Any]:
    """A prompt in pixels of a picture's file as one in pixels of its sphere."""
    unknown = prompt.keys() - {"points", "labels", "box", "name"}
    if unknown:
        raise UserError(f"a prompt of {name} has {sorted(unknown)[0]}; give points, labels or box")
    moved = {key: value for key, value in prompt.items() if key != "name"}
    left, top, width = picture.window.left, picture.window.top, picture.window.width
    try:
        if moved.get("points") is not None:
            corner = np.array([left, top], float)
            points = np.asarray(moved["points"], float).reshape(-1, 2) + corner
            points[:, 0] %= width
            moved["points"] = points
        if moved.get("box") is not None:
            x, y, w, h = map(float, moved["box"])
            box: Box = ((x + left) % width, y + top, w, h)
            moved["box"] = box
    except (TypeError, ValueError):
        raise UserError(f"a prompt of {name} is not understood: {dict(prompt)}; fix it") from None
    return moved


def _check_settings(job: FolderJob) -> None:
    """Refuse a folder that holds results of other settings."""
    settings = {
        **job.about,
        "prompts": job.prompts,
        "everything": None if job.prompts is not None else vars(job.everything),
        "every": job.every,
        "overlays": job.overlays,
    }
    text = _json(settings)
    place = job.out / "segment.json"
    if place.is_file() and place.read_bytes() != text:
        raise UserError(f"{job.out} holds masks of other settings; choose another OUT")
    _write(place, text)


def _joined(out: Path, names: Sequence[str]) -> bytes:
    """The COCO file of all panoramas."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, name in enumerate(names, start=1):
        content = json.loads(_place(out, "panoramas", name, ".json").read_text("utf-8"))
        images.append({"id": image_id, **content["image"]})
        for annotation in content["annotations"]:
            numbers = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append({**annotation, **numbers, "number": annotation["id"]})
    categories = [{"id": 1, "name": "object"}]
    return _json({"images": images, "annotations": annotations, "categories": categories})


def _place(out: Path, folder: str, name: str, suffix: str) -> Path:
    return out / folder / f"{name}{suffix}"


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another OUT") from None
