"""Panoramas of a folder, a picture or a video, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import UserError
from pipeline.pictures.gpano import Window
from pipeline.pictures.read import LEAST_WIDTH, Picture, read_picture

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".exr", ".hdr")

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


@dataclass(frozen=True)
class PanoramaFile:
    """A picture, or a frame of a video.

    Attributes:
        name: Its path below the source; of a frame the video's, with the frame's number.
        read: Gives its pixels, or raises a `UserError` that names it. Frames are read in their
            order, before the next one is asked for.
    """

    name: str
    read: Callable[[], Picture]


def count_panoramas(source: Path, every: int = 1) -> int:
    """How many panoramas a source has; of videos about.

    Raises:
        UserError: The source is missing or has none.
    """
    files = _files(source)
    return sum(_frames(path, every) if _is_video(path) else 1 for path in files)


def panoramas_of(source: Path, every: int = 1) -> Iterator[PanoramaFile]:
    """The panoramas of a source, in the order of their names.

    Args:
        source: A picture, a video, or a folder of both, with those in its folders.
        every: Of a video, take each n-th frame.

    Raises:
        UserError: The source is missing or has none, or a video cannot be opened.
    """
    top = source if source.is_dir() else source.parent
    for path in _files(source):
        name = path.relative_to(top).as_posix()
        if _is_video(path):
            yield from _video(path, name, every)
        else:
            yield PanoramaFile(name, partial(read_picture, path))


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"{source} is missing; name a picture, a video or a folder of them")
    suffixes = (*PICTURES, *VIDEOS)
    found = [path for path in source.rglob("*") if path.suffix.lower() in suffixes]
    files = sorted(path for path in found if path.is_file())
    if not files:
        raise UserError(f"{source} holds no picture or video; give one of {', '.join(suffixes)}")
    return files


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def _frames(path: Path, every: int) -> int:
    video = cv2.VideoCapture(str(path))
    count = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    video.release()
    return -(-count // every)


def _video(path: Path, name: str, every: int) -> Iterator[PanoramaFile]:
    video = cv2.VideoCapture(str(path))
    try:
        number = 0
        while video.grab():
            if number % every == 0:
                label = f"{name}/{number:06d}"
                yield PanoramaFile(label, partial(_frame, video, label))
            number += 1
        if number == 0:
            raise UserError(f"{path} cannot be read as a video; convert it to MP4 (H.264)")
    finally:
        video.release()


def _frame(video: cv2.VideoCapture, label: str) -> Picture:
    """The frame that was grabbed."""
    there, frame = video.retrieve()
    if not there:
        raise UserError(f"{label} is damaged; convert the video again")
    height, width = frame.shape[:2]
    if width != 2 * height or width < LEAST_WIDTH:
        raise UserError(
            f"{label} has {width} × {height} pixels, not 2:1; convert the video to an "
            "equirectangular panorama"
        )
    pixels = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
    return Picture(pixels, None, Window(0, 0, width, height), (height, width), ())
