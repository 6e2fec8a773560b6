"""PAV-SOD's dataset PAVS10K: three frames of each video, as the paper takes them (section 4.2).

The dataset could not be had when this was written, so it was never tried on the real files. What is
known of them: the dataset's page (github.com/PanoAsh/PAV-SOD) offers 67 videos and, apart from
them, the object-level and instance-level masks of 10,465 frames "with default split"; its scripts
extract `Videos/<video>.mp4` to `Frames/<video>/00000.png` and so on, and read object-level masks
from `train/<video>/` and `test/<video>/`, one image per annotated frame. How an image tells its
instances apart is not known. The layout taken here covers that, with or without the split:

    SOURCE/<frames>/[<split>/]<video>/<frame>.png
    SOURCE/<masks>/[<split>/]<video>/<frame>.png             each instance in its own colour
    SOURCE/<masks>/[<split>/]<video>/<frame>/<instance>.png  or: each in its own file

`<frames>` is Frames by default and `<masks>` Instances; both can be told. Give the instance-level
masks: in object-level ones all instances of a frame are a single white region, which would be taken
for a single instance. A frame and its mask belong together by the last number in their names
(`00012.png`, `frame_00012_ins.png`), or by the name where it has no number. Frames without a mask
are not annotated and never drawn.

A colour is the same instance in all frames of a video. A row's `image_id` is `<video>/<number>`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.annotations.annotate import InstanceInfo
from pipeline.errors import UserError
from sap_model.importers.annotated_row import Found, PictureSource
from sap_model.importers.files import (
    MASKS,
    PICTURES,
    count_others,
    files_of,
    folders_of,
    read_labels,
    read_mask,
    values_of,
)
from sap_model.importers.tally import Tally
from sap_model.importers.write_dataset import store

FRAMES_PER_VIDEO = 3
"""The paper's: 67 videos × 3 = 201 panoramas. Which three it drew is not known."""

CATEGORY = "salient object"
"""The masks do not say what an instance is."""

Pair = tuple[Path, Path]
"""A frame, and its mask or folder of masks."""


def import_pavs(
    source: Path,
    out: Path,
    frames: str = "Frames",
    masks: str = "Instances",
    seed: int = 0,
    per_video: int = FRAMES_PER_VIDEO,
    min_area: int = 1,
    split: str = "validation",
    skip_bad: bool = False,
) -> Tally:
    """Convert a sample of PAVS10K.

    Args:
        source: The folder that holds the frames' and the masks' folder.
        out: Where the shards go.
        frames: Folder of the frames in source.
        masks: Folder of the instance-level masks in source.
        seed: Of the draw.
        per_video: Frames drawn from each video; all of one that has fewer.
        min_area: Instances with fewer pixels are left out.
        split: Of all rows.
        skip_bad: Leave out frames that are damaged instead of refusing all.

    Raises:
        UserError: A folder is missing, or no frame has a mask; or as for `store`.
    """
    if per_video < 1:
        raise UserError(f"a sample needs at least one frame per video, not {per_video}")
    videos = _videos(source / frames)
    if not videos:
        raise UserError(f"{source / frames} holds no folders of frames; extract the videos first")
    panoramas, tally = [], Tally(skip_bad)
    _count_unknown_videos(source / masks, videos, tally)
    for video, folder in videos.items():
        pairs = _pairs(folder, _masks_of(source / masks, video), tally)
        panoramas += list(_sources(video, sample(pairs, video, seed, per_video)))
    if not panoramas:
        raise UserError(f"no frame in {source / frames} has a mask in {source / masks}")
    options = {"seed": seed, "per_video": per_video}
    return store(out, "pavs", options, panoramas, min_area=min_area, split=split, tally=tally)


def sample(pairs: list[Pair], video: str, seed: int, count: int) -> list[Pair]:
    """Frames of a video, drawn without replacement and kept in their order.

    The draw depends on the seed and the video's name, not on which other videos there are.
    """
    name = int.from_bytes(
        hashlib.sha256(video.encode("utf-8", "surrogatepass")).digest()[:8], "big"
    )
    order = np.random.default_rng([seed, name]).permutation(len(pairs))
    return [pairs[index] for index in sorted(order[:count])]


def _videos(folder: Path) -> dict[str, Path]:
    """Folders with pictures in a folder, or one below, by name."""
    found: dict[str, Path] = {}
    for first in folders_of(folder):
        for video in [first] if files_of(first, PICTURES) else folders_of(first):
            if found.setdefault(video.name, video) != video:
                raise UserError(f"{video} and {found[video.name]} are one video; delete one")
    return found


def _count_unknown_videos(masks: Path, videos: Collection[str], tally: Tally) -> None:
    """Count masks of videos that have no frames."""
    for first in folders_of(masks):
        within = [] if first.name in videos or files_of(first, MASKS) else folders_of(first)
        for folder in within or [first]:
            if folder.name not in videos:
                count = len(files_of(folder, MASKS)) + len(folders_of(folder))
                tally.leave_out("masks of videos without frames", count)


def _masks_of(folder: Path, video: str) -> Path | None:
    """The folder of a video's masks; None where the video has none."""
    places = [place / video for place in [folder, *folders_of(folder)]]
    found = [place for place in places if place.is_dir()]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]} are masks of one video; delete one")
    return found[0] if found else None


def _pairs(frames: Path, masks: Path | None, tally: Tally) -> list[Pair]:
    """The frames of a video that have a mask, with it, in order; counts masks without a frame."""
    if masks is None:
        tally.note(str(frames.parent), f"videos without masks, left out: {frames.name}")
        return []
    count_others(masks, tally, folders=True)
    keyed: dict[int | str, Path] = {}
    for mask in files_of(masks, MASKS) + folders_of(masks):
        if keyed.setdefault(_key(mask), mask) != mask:
            raise UserError(f"{mask} and {keyed[_key(mask)]} are masks of one frame; delete one")
    pairs = {}
    for frame in files_of(frames, PICTURES):
        if _key(frame) in pairs:
            raise UserError(f"{frame} and another frame have the same number; delete one")
        if _key(frame) in keyed:
            pairs[_key(frame)] = frame, keyed[_key(frame)]
    tally.leave_out("masks without a frame", len(keyed) - len(pairs))
    return list(pairs.values())


def _key(path: Path) -> int | str:
    """What a frame and its mask have in common in their names."""
    name = path.name if path.is_dir() else path.stem
    numbers = re.findall(r"[0-9]+", name)
    return int(numbers[-1]) if numbers else name


def _sources(video: str, pairs: list[Pair]) -> Iterator[PictureSource]:
    labels = _labels(pairs)
    for index, (frame, mask) in enumerate(pairs):
        number = _key(frame)
        known = isinstance(number, int) and number < 10**9
        yield PictureSource(
            video, int(number) if known else index, frame, partial(_objects, mask, labels)
        )


def _labels(pairs: list[Pair]) -> dict[int | str, int]:
    """Ids from 1 of the colours, or of the files' names, that the frames of a video have."""
    found: set[int | str] = set()
    for _, mask in pairs:
        if mask.is_dir():
            found |= {path.stem for path in files_of(mask, MASKS)}
        else:
            with suppress(UserError):  # said when the frame's turn comes
                found |= set(values_of(read_labels(mask), mask))
    order = sorted(found, key=lambda value: (isinstance(value, str), value))
    return {value: label for label, value in enumerate(order, start=1)}


def _objects(mask: Path, labels: dict[int | str, int], shape: tuple[int, int]) -> Iterator[Found]:
    if mask.is_dir():
        for path in files_of(mask, MASKS):
            instance = InstanceInfo(path.stem, CATEGORY, False)
            yield labels[path.stem], instance, read_mask(path, shape)
        return
    image = read_labels(mask, shape)
    for value in values_of(image, mask):
        name = f"value {value}" if value <= 0xFF else f"colour #{value:06x}"
        yield labels[value], InstanceInfo(name, CATEGORY, False), image == value
