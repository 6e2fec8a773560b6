"""Read shards back: the twin of `pipeline.shards.writer`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pycocotools import mask as coco

from pipeline.errors import UserError
from pipeline.outputs import read_json
from pipeline.shards.schema import IMAGE_FILES, SHARD_NAME


class ShardReader:
    """Random access to the rows of a folder of shards, by split and then in packing order.

    No file stays open between calls, so a reader may be sent to other processes.

    Args:
        folder: OUT/shards, its data/, or a download of either.
        split: Only this split; all of them by default.

    Raises:
        UserError: There are no shards, or one is missing or truncated.
    """

    def __init__(self, folder: Path | str, split: str | None = None) -> None:
        self.paths = _find_shards(Path(folder), split)
        self._metadata = [_read_metadata(path) for path in self.paths]
        self._ends = list(accumulate(metadata.num_row_groups for metadata in self._metadata))

    def __len__(self) -> int:
        """Number of rows, which is the number of panoramas."""
        return self._ends[-1]

    def row(self, index: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """One row, or some of its columns; only its row group is read.

        Raises:
            IndexError: index is not in [0, len).
            UserError: The shard was removed or damaged meanwhile.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        group = index - (self._ends[shard - 1] if shard else 0)
        return self._read_group(shard, group, columns)

    def annotations(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows in order, without their images; or only these columns."""
        for shard, metadata in enumerate(self._metadata):
            names = columns or [
                name for name in metadata.schema.to_arrow_schema().names if name not in IMAGE_FILES
            ]
            for group in range(metadata.num_row_groups):
                yield self._read_group(shard, group, names)

    def _read_group(self, shard: int, group: int, columns: Sequence[str] | None) -> dict[str, Any]:
        path, names = self.paths[shard], None if columns is None else list(columns)
        try:
            with pq.ParquetFile(path, metadata=self._metadata[shard]) as file:
                return file.read_row_group(group, columns=names).to_pylist()[0]
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(_broken(path)) from error


def decode_image(image: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The `image` column's value to (H, W, 3) uint8 RGB; `normal`'s to uint16."""
    return np.ascontiguousarray(_decode(image)[..., ::-1])


def decode_ids(ids: Mapping[str, Any]) -> NDArray[np.uint16]:
    """The `ids` column's value to (H, W) uint16; `depth`'s too, in millimetres."""
    return _decode(ids)


def masks(objects: Iterable[Mapping[str, Any]]) -> Iterator[NDArray[np.bool_]]:
    """The mask (H, W) of each object, one at a time: a 4K panorama's would fill a gigabyte."""
    for thing in objects:
        yield coco.decode(thing["segmentation"]).view(np.bool_)


def _decode(value: Mapping[str, Any]) -> NDArray:
    image = cv2.imdecode(np.frombuffer(value["bytes"], np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"the image {value['path']} in a shard is corrupt; download or pack again")
    return image


def _find_shards(folder: Path, split: str | None) -> list[Path]:
    """Shards in order; none may be missing among those the manifest or the numbering names."""
    data = folder / "data" if (folder / "data").is_dir() else folder
    manifest = data.parent / "manifest.json"
    present = {path.name for path in data.glob("*.parquet") if SHARD_NAME.fullmatch(path.name)}
    if data.name == "data" and manifest.exists():
        expected = set(read_json(manifest, mend="pack the run again or download it again"))
    else:
        expected = {
            f"{name}-{number:05d}.parquet"
            for name, last in (path.removesuffix(".parquet").split("-", 1) for path in present)
            for number in range(int(last) + 1)
        }
    chosen = sorted(name for name in expected if split is None or name.startswith(f"{split}-"))
    if not chosen:
        kind = f"{split} shards" if split else "shards"
        raise UserError(f"{data} holds no {kind}; pack the run or download them")
    for name in chosen:
        if name not in present:
            raise UserError(f"{data / name} is missing; pack the run again or download it again")
    return [data / name for name in chosen]


def _read_metadata(path: Path) -> pq.FileMetaData:
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(_broken(path)) from error
    if metadata.num_rows != metadata.num_row_groups:
        raise UserError(f"{path} is not one of our shards: they hold one row per row group")
    return metadata


def _broken(path: Path) -> str:
    return f"{path} is truncated or damaged; pack the run again or download it again"
