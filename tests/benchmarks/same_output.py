"""Do two OUT folders hold the same dataset? `python -m tests.benchmarks.same_output OUT1 OUT2`.

Compares all rows by image_id: ids, annotations, viewpoint, and the pixels of every picture. Fields
that carry a version may differ (`VERSIONED`), and so may the bytes of a picture whose pixels are
equal. Prints a line per difference and ends with status 1 if there is one. Reads plain Parquet, so
that it does not depend on the project's own reader.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

VERSIONED = {"provenance.pipeline", "provenance.settings_hash"}
"""Fields that may differ between two versions of the pipeline."""


def differences(one: Path, two: Path) -> Iterator[str]:
    """A line per difference between the shards of two OUT folders."""
    left, right = _rows(one), _rows(two)
    for only, folder in ((left.keys() - right.keys(), one), (right.keys() - left.keys(), two)):
        for image_id in sorted(only):
            yield f"{image_id}: only in {folder}"
    for image_id in sorted(left.keys() & right.keys()):
        (file, group), (other_file, other_group) = left[image_id], right[image_id]
        if file.name != other_file.name:
            yield f"{image_id}: in {file.name} and in {other_file.name}"
        pair = _read(file, group), _read(other_file, other_group)
        for path, values in _compare(*pair):
            if path not in VERSIONED:
                yield f"{image_id}: {path}: {values}"


def _rows(out: Path) -> dict[str, tuple[Path, int]]:
    """File and row of each image_id."""
    places = {}
    for file in sorted((out / "shards" / "data").glob("*.parquet")):
        ids = pq.read_table(file, columns=["image_id"]).column("image_id").to_pylist()
        places |= {image_id: (file, row) for row, image_id in enumerate(ids)}
    if not places:
        sys.exit(f"error: {out}/shards/data holds no shards; name a folder that `render` filled")
    return places


def _read(file: Path, row: int) -> dict[str, Any]:
    return pq.ParquetFile(file).read_row_group(row).to_pylist()[0]  # a row group holds one row


def _compare(one: Any, two: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and values of each difference between two values of a row."""
    if isinstance(one, dict) and isinstance(two, dict):
        if isinstance(one.get("bytes"), bytes) and isinstance(two.get("bytes"), bytes):
            if difference := _compare_pictures(one["bytes"], two["bytes"]):
                yield path, difference
            return
        for name in sorted(one.keys() | two.keys()):
            inner = f"{path}.{name}".removeprefix(".")
            if name not in one or name not in two:
                yield inner, "only in one of the two"
            else:
                yield from _compare(one[name], two[name], inner)
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for index, pair in enumerate(zip(one, two, strict=True)):
            yield from _compare(*pair, f"{path}[{index}]")
    elif isinstance(one, list) and isinstance(two, list):
        yield path, f"{len(one)} and {len(two)} elements"
    elif one != two:
        yield path, f"{one!r} and {two!r}"


def _compare_pictures(one: bytes, two: bytes) -> str:
    """How two encoded pictures differ; nothing where their pixels are equal."""
    if one == two:
        return ""
    first, second = (
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data in (one, two)
    )
    if first.shape != second.shape or first.dtype != second.dtype:
        return f"{first.dtype} {first.shape} and {second.dtype} {second.shape}"
    away = np.abs(first.astype(np.int64) - second)
    if not away.any():
        return ""
    count, mean, most = np.count_nonzero(away), away.mean(), away.max()
    return f"{count} values differ, by {mean:.3g} on average, at most {most}"


def main(one: Path, two: Path) -> int:
    """Print the differences; the exit status is 1 if there is one."""
    found = list(differences(one, two))
    print("\n".join(found) or f"{len(_rows(one))} rows are equal")
    return bool(found)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.benchmarks.same_output OUT1 OUT2")
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
