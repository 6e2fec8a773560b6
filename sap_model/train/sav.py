"""SA-V, the videos that SAM2 was trained on, in its published layout.

    FOLDER/…/sav_<id>_manual.json   {"masklet": [[{"size": [H, W], "counts"}, …], …], …}
    FOLDER/…/sav_<id>_auto.json     the same of objects that were found automatically; optional
    FOLDER/…/sav_<id>.mp4           24 frames per second; or instead, extracted from it,
    FOLDER/…/sav_<id>/00000.jpg     files named by frame number: all, or every fourth

`masklet` has a list for every fourth frame of the video, and in it a mask for each object, empty
where the object is hidden. As in SAM2's training, a clip is a stretch of annotated frames, half of
them backwards, and its objects are visible on the first.

A video is decoded from its beginning, because seeking lands on a wrong frame in some files. Where
that takes too long, extract JPEGs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rlemasklib import RLEMask

from pipeline.errors import UserError
from sap_model.train.clip import Clip, NoObjectError
from sap_model.train.sa1b import (
    checked,
    make_clip,
    mask_at,
    picture_at,
    read_json,
    read_picture,
    runs_of,
    walk,
)

EVERY = 4
"""Annotations belong to each so many-th frame of the video."""

_JSON = re.compile(r"(sav_\d+)_(?:manual|auto)\.json")
_VIDEO = re.compile(r"(sav_\d+)\.mp4")
_FRAME = re.compile(r"(\d+)\.jpe?g")

Row = list[RLEMask]
"""Masks of all objects on one frame."""


class Sav:
    """Clips of several frames; `Sav(folder, 1024, 3).clip(0, rng)`."""

    def __init__(
        self,
        folder: Path | str,
        image_size: int,
        objects: int,
        frames: int = 8,
        jpegs: Path | str | None = None,
        augment: bool = False,
    ) -> None:
        """List the videos.

        Args:
            folder: Holds the JSONs, and the videos beside them, in folders or not.
            image_size: S, height and width of what the model sees.
            objects: K of every clip, at most `clip.MAX_OBJECTS`.
            frames: T of every clip.
            jpegs: Holds the folders sav_<id>/ of frames, if those are not beside the JSONs.
            augment: Warp and recolour frames as SAM2's training does.

        Raises:
            UserError: There are no videos, or one lacks its JSON or its frames.
        """
        self._folder, self._size, self._objects = Path(folder), image_size, checked(objects)
        self._frames, self._jpegs = frames, Path(jpegs) if jpegs is not None else None
        self._augment = augment
        extracted = set(next(iter(walk(self._jpegs)))[1]) if self._jpegs else set()
        self._names: list[str] = []
        for here, folders, files in walk(self._folder):
            annotated = {match[1] for match in map(_JSON.fullmatch, files) if match}
            videos = {match[1] for match in map(_VIDEO.fullmatch, files) if match}
            for name in sorted(videos - annotated):
                raise UserError(
                    f"{here / name}.mp4 has no JSON beside it; get it, or move the video away"
                )
            for name in sorted(annotated - videos - extracted - set(folders)):
                raise UserError(
                    f"{here / name} has a JSON, but neither .mp4 nor a folder of JPEGs; get the "
                    "video, or remove the JSON"
                )
            self._names += [str((here / name).relative_to(self._folder)) for name in annotated]
            folders[:] = [inner for inner in folders if inner not in annotated]  # hold frames
        if not self._names:
            raise UserError(f"{folder} holds no sav_<id>_manual.json; give the folder of SA-V")
        self._names.sort()

    def __len__(self) -> int:
        """Number of videos."""
        return len(self._names)

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        """A stretch of a video with objects that it begins with; the same for the same `rng`.

        Raises:
            NoObjectError: The video is too short, or no object is visible anywhere.
            UserError: A file is damaged, or they do not fit.
        """
        name = self._names[index]
        source = self._source(name)
        rows = self._rows(name)
        usable = _present(source, list(rows))
        if len(usable) < self._frames:
            raise NoObjectError(f"{source} has {len(usable)} annotated frames, not {self._frames}")
        stretch, chosen = _draw(rows, usable, self._frames, rng)
        if not chosen:
            raise NoObjectError(f"{source} shows no annotated object")
        read = _from_folder if source.is_dir() else _from_video
        pictures = read(source, [EVERY * number for number in stretch])
        sizes = {tuple(rows[number][k].shape) for number in stretch for k in chosen}
        if sizes != {picture.shape[:2] for picture in pictures}:
            high, wide = pictures[0].shape[:2]
            masked = " or ".join(f"{w} × {h}" for h, w in sorted(sizes))
            raise UserError(
                f"{source} has frames of {wide} × {high} pixels, its JSON masks of {masked}; "
                "get both again"
            )
        images = np.stack([picture_at(picture, self._size) for picture in pictures])
        masks = []
        for k in chosen:
            seen = np.stack([mask_at(rows[number][k], self._size) for number in stretch])
            if seen[0].any():  # else too small for this size
                masks.append(seen)
            if len(masks) == self._objects:
                break
        if not masks:
            raise NoObjectError(f"{source} shows no object that is large enough")
        return make_clip(images, masks, self._objects, name, rng, self._augment)

    def _source(self, name: str) -> Path:
        """The folder of a video's frames, which are read sooner, or else its file."""
        frames = self._jpegs / Path(name).name if self._jpegs else self._folder / name
        return frames if frames.is_dir() else self._folder / f"{name}.mp4"

    def _rows(self, name: str) -> dict[int, Row]:
        """The masks of all objects of both JSONs, by annotation's number: frame / `EVERY`."""
        files = [self._folder / f"{name}_{kind}.json" for kind in ("manual", "auto")]
        parts = [_masklets(file) for file in files if file.is_file()]
        parts = [rows for rows in parts if rows and rows[0]]  # no objects is no annotation
        joined = [[mask for row in rows for mask in row] for rows in zip(*parts, strict=False)]
        # As in SAM2's training, frames on which any object was not annotated are passed over.
        return {
            number: [mask for mask in row if mask is not None]
            for number, row in enumerate(joined)
            if all(mask is not None for mask in row)
        }


def _masklets(file: Path) -> list[list[RLEMask | None]]:
    """For each annotation, the mask of each object, or None where it was not annotated."""
    try:
        rows = [list(row) for row in read_json(file)["masklet"]]
    except (KeyError, TypeError):
        raise UserError(f"{file} has no masklet as SA-V has; get it again") from None
    if len({len(row) for row in rows}) > 1:
        raise UserError(f"{file} has more objects on some frames than on others; get it again")
    return [[None if rle is None else runs_of(rle, file) for rle in row] for row in rows]


def _draw(
    rows: dict[int, Row], usable: list[int], frames: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Annotations in the order in which they are shown, and the objects visible on the first.

    Every stretch that begins with an object is as likely as any other, forwards and backwards.
    Objects are in random order; none, if no stretch begins with any.
    """
    for draw in rng.permutation(2 * (len(usable) - frames + 1)):
        start, backwards = divmod(int(draw), 2)
        stretch = usable[start : start + frames][:: -1 if backwards else 1]
        visible = [k for k, mask in enumerate(rows[stretch[0]]) if mask.area()]
        if visible:
            return stretch, rng.permutation(visible).tolist()
    return [], []


def _present(source: Path, annotated: list[int]) -> list[int]:
    """Those annotations whose frame there is."""
    if source.is_dir():
        files = _numbered(source)
        present = [number for number in annotated if EVERY * number in files]
    else:
        capture = cv2.VideoCapture(str(source), cv2.CAP_FFMPEG)
        length = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        if length < 1:
            raise UserError(f"{source} is missing, damaged or no video; get it again")
        present = [number for number in annotated if EVERY * number < length]
    # A few may lack at the end. But frames that were renumbered would get others' masks.
    if 2 * len(present) < len(annotated):
        raise UserError(
            f"{source} holds {len(present)} of {len(annotated)} annotated frames; get it again "
            f"(JPEGs are named by the frame's number in the video: 00000.jpg, {EVERY:05d}.jpg, …)"
        )
    return present


def _numbered(folder: Path) -> dict[int, Path]:
    """Files of frames by their number."""
    files = sorted(folder.iterdir())
    return {int(match[1]): file for file in files if (match := _FRAME.fullmatch(file.name))}


def _from_folder(folder: Path, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Frames (H, W, 3) RGB with these numbers."""
    files = _numbered(folder)
    return [read_picture(files[number]) for number in numbers]


def _from_video(path: Path, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Frames (H, W, 3) RGB with these numbers, which may go backwards."""
    found: dict[int, NDArray[np.uint8]] = {}
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        for number in range(max(numbers) + 1):
            good, frame = capture.read() if number in numbers else (capture.grab(), None)
            if not good:
                raise UserError(f"{path} cannot be decoded from frame {number} on; get it again")
            if frame is not None:
                found[number] = np.asarray(frame, np.uint8)[..., ::-1]
    finally:
        capture.release()
    return [found[number] for number in numbers]
