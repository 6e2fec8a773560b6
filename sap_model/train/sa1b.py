"""SA-1B, the pictures that SAM2 was trained on, in its published layout.

    FOLDER/…/sa_<id>.jpg
    FOLDER/…/sa_<id>.json   {"annotations": [{"segmentation": {"size": [H, W], "counts"}, …}, …], …}

A picture is a clip of one frame. As in SAM2's own training, the picture is stretched to a square by
Pillow's bilinear filter, masks of `MOST` of the picture or more are left out, half of the clips are
mirrored, and frames are rotated, sheared and recoloured.

Files are found by listing folders. Names inside a JSON are never followed. What `Sav` shares with
this source is here too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rlemasklib import RLEMask

from pipeline.errors import UserError
from pipeline.storage import open_atomic
from sap_model.train.augment import draw_affine, recolour, warp_frames
from sap_model.train.clip import MAX_OBJECTS, Clip, NoObjectError, bits_of

MOST = 0.9
"""Masks of this part of a picture or more are background, not objects."""

FLIPPED = 0.5
"""Part of the clips that are mirrored."""

_PICTURE = re.compile(r"sa_\d+\.jpg")


class Sa1b:
    """Clips of one picture each; `Sa1b(folder, 1024, 3).clip(0, rng)`."""

    def __init__(
        self,
        folder: Path | str,
        image_size: int,
        objects: int,
        index: Path | None = None,
        augment: bool = False,
    ) -> None:
        """List the pictures, or read their list.

        Args:
            folder: Holds the pictures and their JSONs, in folders or not.
            image_size: S, height and width of what the model sees.
            objects: K of every clip, at most `MAX_OBJECTS`.
            index: The file of `write_index`. All processes share its pages in memory; without it
                each lists the folder and keeps its own copy.
            augment: Warp and recolour pictures as SAM2's training does.

        Raises:
            UserError: There are no pictures, or one has no JSON beside it.
        """
        self._folder, self._size, self._objects = Path(folder), image_size, checked(objects)
        self._index, self._augment = index, augment
        self._names = list_pictures(self._folder) if index is None else _open_index(index)

    def __getstate__(self) -> dict:
        return self.__dict__ | ({} if self._index is None else {"_names": None})

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self._index is not None:
            self._names = _open_index(self._index)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._names)

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        """A picture with objects drawn from it; the same for the same state of `rng`.

        Raises:
            NoObjectError: No mask is of use.
            UserError: A file is damaged, or the two do not fit.
        """
        name = os.fsdecode(self._names[index])
        path = self._folder / name
        file = path.with_suffix(".json")
        entries = _annotations(file)
        picture = read_picture(path)
        shape = picture.shape[:2]
        masks: list[NDArray[np.bool_]] = []
        for number in rng.permutation(len(entries)):
            runs = runs_of(entries[number], file)
            if tuple(runs.shape) != shape:
                raise UserError(
                    f"{file}: a mask is for {runs.shape[1]} × {runs.shape[0]} pixels, but the "
                    f"picture has {shape[1]} × {shape[0]}; get both files again"
                )
            if runs.area() < MOST * shape[0] * shape[1]:
                mask = mask_at(runs, self._size)
                if mask.any():
                    masks.append(mask[None])
            if len(masks) == self._objects:
                break
        if not masks:
            raise NoObjectError(f"{path} has no mask of use")
        images = picture_at(picture, self._size)[None]
        return make_clip(images, masks, self._objects, name, rng, self._augment)


def list_pictures(folder: Path) -> NDArray[np.bytes_]:
    """Paths of all pictures of SA-1B relative to its folder, sorted: (N,).

    All of SA-1B is 11 million names; as an array they take a tenth of the memory of strings.

    Raises:
        UserError: There are no pictures, or one has no JSON beside it.
    """
    names = []
    for here, _, files in walk(folder):
        present = set(files)
        for file in filter(_PICTURE.fullmatch, files):
            path = here / file
            if path.with_suffix(".json").name not in present:
                raise UserError(f"{path} has no JSON beside it; get it, or remove the picture")
            names.append(os.fsencode(path.relative_to(folder)))
    if not names:
        raise UserError(f"{folder} holds no sa_<id>.jpg; give the folder of SA-1B")
    return np.sort(np.array(names))


def write_index(folder: Path | str, index: Path) -> None:
    """List the pictures once for all processes that train on them: a file for `Sa1b`.

    Raises:
        UserError: As for `list_pictures`.
    """
    names = list_pictures(Path(folder))
    with open_atomic(index) as file:
        np.save(file, names, allow_pickle=False)


def _open_index(index: Path) -> NDArray[np.bytes_]:
    return np.load(index, mmap_mode="r", allow_pickle=False)


def _annotations(file: Path) -> list[Any]:
    """The run-length encodings of a picture's objects, as its JSON holds them."""
    try:
        return [entry["segmentation"] for entry in read_json(file)["annotations"]]
    except (KeyError, TypeError):
        raise UserError(
            f"{file} has no annotations with a segmentation each, as SA-1B has; get it again"
        ) from None


def checked(objects: int) -> int:
    """The number of objects of a clip, which has a bit for each."""
    if not 1 <= objects <= MAX_OBJECTS:
        raise ValueError(f"{objects} objects, not 1 to {MAX_OBJECTS}")
    return objects


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` that does not pass over what it cannot read."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}") from None

    for here, folders, files in os.walk(folder, onerror=refuse):
        yield Path(here), folders, files


def read_json(file: Path) -> Any:
    """What a JSON holds; one clear line where it cannot be read."""
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{file} is damaged, no JSON; get it again") from None


def read_picture(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) RGB as stored: masks know nothing of turning by EXIF."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(f"{path} is missing, damaged or no picture; get it again") from None


def runs_of(rle: Any, file: Path) -> RLEMask:
    """A compressed run-length encoding, not yet unpacked; its runs fill its size exactly."""
    try:
        return RLEMask.from_dict({"size": rle["size"], "counts": rle["counts"]})
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: a mask is damaged ({reason}); get the file again") from None


def picture_at(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Stretched to (size, size, ...) by a filter that smooths as far as it shrinks."""
    image = Image.fromarray(picture)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def mask_at(runs: RLEMask, size: int) -> NDArray[np.bool_]:
    """(size, size): pixels covered by more than half of what the fullest one is.

    That is half of a pixel for nearly all masks, as in SAM2's training; but a wire that is thinner
    than half a pixel everywhere is kept. Empty below a 500th of a pixel.
    """
    cover = picture_at(runs.to_array() * np.uint8(255), size)
    return cover > cover.max() / 2


def make_clip(
    images: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    objects: int,
    name: str,
    rng: np.random.Generator,
    augment: bool,
) -> Clip:
    """A clip whose objects all see every image in turn.

    Args:
        images: (T, S, S, 3).
        masks: (T, S, S) for each object; the first ones twice or more where there are too few.
        objects: K.
        name: What it was made from.
        rng: Decides about mirroring, warping and colours.
        augment: Warp and recolour frames; half of all clips are mirrored in any case.
    """
    truth = bits_of(np.stack([masks[k % len(masks)] for k in range(objects)]))
    if rng.random() < FLIPPED:
        images, truth = images[:, :, ::-1], truth[:, :, ::-1]
    if augment:
        warped, bits = warp_frames(images, truth, draw_affine(images.shape[1], rng))
        if np.bitwise_or.reduce(bits[0], axis=None) == np.bitwise_or.reduce(truth[0], axis=None):
            images, truth = warped, bits  # else an object would be gone from the first frame
        images = recolour(images, rng, by_frame=True)
    views = np.repeat(np.arange(len(images))[:, None], objects, axis=1)
    return Clip(np.ascontiguousarray(images), np.ascontiguousarray(truth), views, name=name)
