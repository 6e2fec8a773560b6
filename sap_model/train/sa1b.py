"""SA-1B, the pictures that SAM2 was trained on, in its published layout.

    FOLDER/…/sa_<id>.jpg
    FOLDER/…/sa_<id>.json   {"annotations": [{"segmentation": {"size": [H, W], "counts"}, …}, …], …}

A picture is a clip of one frame. What has to be as in SAM2's own training: the picture is stretched
to a square by Pillow's bilinear filter, masks of `MOST` of the picture or more are left out, and
half of the clips are mirrored.

Files are found by listing folders. Names inside a JSON are never followed. What `Sav` needs as well
is here too.
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
from sap_model.train.clip import MAX_OBJECTS, Clip, NoObjectError, bits_of

MOST = 0.9
"""Masks of this part of a picture or more are background, not objects."""

FLIPPED = 0.5
"""Part of the clips that are mirrored."""

_PICTURE = re.compile(r"sa_\d+\.jpg")


class Sa1b:
    """Clips of one picture each; `Sa1b(folder, 1024, 3).clip(0, rng)`."""

    def __init__(self, folder: Path | str, image_size: int, objects: int) -> None:
        """List the pictures.

        Args:
            folder: Holds the pictures and their JSONs, in folders or not.
            image_size: S, height and width of what the model sees.
            objects: K of every clip, at most `MAX_OBJECTS`.

        Raises:
            UserError: There are no pictures, or one has no JSON beside it.
        """
        self._folder, self._size, self._objects = Path(folder), image_size, checked(objects)
        names = []
        for here, _, files in walk(self._folder):
            present = set(files)
            for file in filter(_PICTURE.fullmatch, files):
                path = here / file
                if path.with_suffix(".json").name not in present:
                    raise UserError(f"{path} has no JSON beside it; get it, or remove the picture")
                names.append(os.fsencode(path.relative_to(self._folder)))
        if not names:
            raise UserError(f"{folder} holds no sa_<id>.jpg; give the folder of SA-1B")
        # All of SA-1B is 11 million names, and every loading process has its own copy: as an array
        # they take a tenth of the memory that strings would.
        self._names = np.sort(np.array(names))

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
        return make_clip(picture_at(picture, self._size)[None], masks, self._objects, name, rng)


def _annotations(file: Path) -> list[Any]:
    """The run-length encodings of a picture's objects, as they stand in its JSON."""
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
) -> Clip:
    """A clip whose objects all see every image in turn; mirrored or not.

    Args:
        images: (T, S, S, 3).
        masks: (T, S, S) for each object; the first ones twice or more where there are too few.
        objects: K.
        name: What it was made from.
        rng: Decides about mirroring.
    """
    truth = bits_of(np.stack([masks[k % len(masks)] for k in range(objects)]))
    if rng.random() < FLIPPED:
        images, truth = images[:, :, ::-1], truth[:, :, ::-1]
    views = np.repeat(np.arange(len(images))[:, None], objects, axis=1)
    return Clip(np.ascontiguousarray(images), np.ascontiguousarray(truth), views, name=name)
