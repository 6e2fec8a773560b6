"""Our shards as training data: rows, decoded when they are asked for; and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.shards.reader import ShardReader, decode_ids, decode_image

COLUMNS = (
    "image_id",
    "scene_id",
    "image",
    "ids",
    "objects.list.element.id",
    "objects.list.element.click",
    "objects.list.element.segmentation.size",
)

SMALL = (
    "image.path",  # stands for the column
    "ids.path",
    "width",
    "height",
    *(name for name in COLUMNS if name not in ("image", "ids")),
)
"""What tells without the pictures whether a row has `COLUMNS` and they fit each other."""


class Checked(NamedTuple):
    """What rows are of: the names of their scenes, and a hash of their own names in their order."""

    scenes: set[str]
    digest: str


class NoSplitError(UserError):
    """None of some folders of shards has a split."""


@dataclass(frozen=True)
class DecodedPanorama:
    """A row, decoded.

    Attributes:
        name: Its image_id.
        image: (H, W, 3) uint8.
        ids: (H, W) uint16.
        objects: (N,) ids of the annotated instances.
        clicks: (N, 2) their stored first clicks (x, y).
    """

    name: str
    image: NDArray[np.uint8]
    ids: NDArray[np.uint16]
    objects: NDArray[np.int64]
    clicks: NDArray[np.int64]


class ShardRows:
    """Rows of one or more folders of shards, decoded when they are asked for.

    Args:
        folders: Folders or URLs of shards; small ones may lack a split that another has.
        split: Of the rows.
        kept: Decoded rows that stay in memory; a 1024 × 512 one takes 2.6 MB, a 4K one 42 MB.

    Raises:
        NoSplitError: No folder has it.
        UserError: There are no shards.
    """

    def __init__(self, folders: Sequence[Path | str], split: str | None, kept: int = 0) -> None:
        self.readers = [
            ShardReader(folder, split)
            for folder in folders
            if split is None or split in ShardReader(folder).splits
        ]
        if not self.readers:
            raise NoSplitError(
                f"no {split} panoramas in {', '.join(map(str, folders))}: render more"
            )
        self.kept = kept
        self._keep()

    def __getstate__(self) -> dict:
        return {"readers": self.readers, "kept": self.kept}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._keep()

    def __len__(self) -> int:
        return sum(len(reader) for reader in self.readers)

    def __getitem__(self, index: int) -> DecodedPanorama:
        return self._get(index)

    def scenes(self) -> set[str]:
        """Names of all scenes, as far as the rows' annotations tell."""
        return {
            row["scene_id"] for reader in self.readers for row in reader.annotations(["scene_id"])
        }

    def check(self) -> Checked:
        """Hold the small columns of every row against each other, and tell what they are of.

        Raises:
            UserError: A shard lacks a column or is damaged there; or a row is no panorama, or has
                a mask of another size.
        """
        scenes: set[str] = set()
        digest = hashlib.sha256()
        for reader in self.readers:
            paths = dict(zip(reader.shards, reader.paths, strict=True))
            for shard, batch in reader.batches(SMALL):
                wrong = fault(batch)
                if wrong:
                    raise UserError(f"{paths[shard]}: {wrong}")
                scenes.update(batch.column("scene_id").to_pylist())
                digest.update("".join(f"{name}\n" for name in batch["image_id"]).encode())
        return Checked(scenes, digest.hexdigest()[:16])

    def _keep(self) -> None:
        self._get = lru_cache(self.kept)(self._read) if self.kept else self._read

    def _read(self, index: int) -> DecodedPanorama:
        for reader in self.readers:
            if index < len(reader):
                return decode(reader.row(index, COLUMNS))
            index -= len(reader)
        raise IndexError(index)


def fault(batch: pa.RecordBatch) -> str | None:
    """What is wrong with the first bad row of a batch with the columns `SMALL`, if there is one."""
    names, objects = batch.column("image_id"), batch.column("objects")
    shapes = np.stack([batch.column(side).to_numpy() for side in ("height", "width")], axis=1)
    flat = np.flatnonzero(shapes[:, 1] != 2 * shapes[:, 0])
    if flat.size:
        high, wide = shapes[flat[0]]
        return _no_panorama(names[int(flat[0])].as_py(), wide, high)
    owners = pc.list_parent_indices(objects).to_numpy()
    sizes = pc.struct_field(objects.flatten(), ["segmentation", "size"])
    pairs = pc.fill_null(pc.list_value_length(sizes), 0).to_numpy() == 2
    wrong = ~pairs
    found = sizes.filter(pa.array(pairs)).flatten().to_numpy(zero_copy_only=False).reshape(-1, 2)
    wrong[pairs] = (found != shapes[owners[pairs]]).any(axis=1)
    if not wrong.any():
        return None
    place = int(wrong.argmax())
    row, thing = int(owners[place]), objects.flatten()[place].as_py()
    return _wrong_mask(names[row].as_py(), thing, shapes[row].tolist())


def _no_panorama(name: str, wide: int, high: int) -> str:
    return f"{name}: {wide} × {high} pixels are no panorama, which is twice as wide as high"


def _wrong_mask(name: str, thing: dict, shape: Sequence[int]) -> str:
    size = (thing["segmentation"] or {}).get("size")
    return (
        f"{name}: the mask of object {thing['id']} has size {size}, its image {list(shape)}; "
        "pack again"
    )


def decode(row: dict) -> DecodedPanorama:
    """A row of a shard with `COLUMNS`.

    Raises:
        UserError: Its image, ids and annotations do not fit each other.
    """
    image, ids = decode_image(row["image"]), decode_ids(row["ids"])
    name, objects = row["image_id"], row["objects"]
    if ids.shape != image.shape[:2]:
        raise UserError(f"{name}: ids of {ids.shape} for an image of {image.shape[:2]}; pack again")
    if image.shape[1] != 2 * image.shape[0]:
        raise UserError(_no_panorama(name, image.shape[1], image.shape[0]))
    for thing in objects:
        if tuple(thing["segmentation"]["size"]) != ids.shape:
            raise UserError(_wrong_mask(name, thing, ids.shape))
    return DecodedPanorama(
        name,
        image,
        ids,
        np.array([thing["id"] for thing in objects], np.int64),
        np.array([thing["click"] for thing in objects], np.int64).reshape(-1, 2),
    )
