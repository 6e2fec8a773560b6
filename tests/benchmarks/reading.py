"""Time to read rows of 4K panoramas from shards on this machine, beside other readers.

python -m tests.benchmarks.reading [--shards 3] [--rows 76] [--reads 100] [--folder DIR]

Packs panoramas of the size that 4K ones have (6.4 MB of image, 0.27 MB of ids, 57 objects; the
images are random bytes, since nothing is decoded) and reads random rows as Python objects. `warm`
rows lie in the kernel's memory; before each `cold` read the kernel is asked to drop the files,
which a disk below may still remember. The readers take turns in random order, so that what else
the machine does hits all of them. Needs 3 GB of disk: `datasets` makes its own copy before its
first row, whose time stands below the table. That copy is mapped to memory and cannot be dropped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq

from pipeline.layout import RunFolder, read_json, write_json
from pipeline.run_settings import scene_id
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import pack
from tests.synthetic import SETTINGS, finish_scene

IMAGE_BYTES, IDS_BYTES, OBJECTS, RLE_BYTES = 6_400_000, 270_000, 57, 700

SLOW_READS = 5
"""Of a reader that takes seconds for each."""

Read = Callable[[int], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--rows", type=int, default=76, help="rows of a shard: 76 make 512 MB")
    parser.add_argument("--reads", type=int, default=100, help="reads of each kind")
    parser.add_argument("--folder", type=Path, help="keep the shards here and use them again")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=args.folder and args.folder.parent) as scratch:
        shards = (args.folder or Path(scratch)) / "shards"
        if not shards.exists():
            _make(shards, args.shards, args.rows)
        _compare(shards, Path(scratch) / "datasets", args.reads)


def _compare(shards: Path, cache: Path, reads: int) -> None:
    reader = ShardReader(shards)
    others = [name for name in reader.row(0) if name not in ("image", "ids")]
    plain = _Plain(reader)
    table = pyarrow.dataset.dataset(shards / "data")
    start = time.perf_counter()
    theirs = datasets.load_dataset(
        "parquet", data_files=str(shards / "data" / "*"), split="train", cache_dir=str(cache)
    )
    prepared = time.perf_counter() - start
    for name in ("image", "ids"):
        theirs = theirs.cast_column(name, datasets.Image(decode=False))
    whole: dict[str, Read] = {
        "a row": reader.row,
        "a row, the first of its shard": lambda index: ShardReader(shards).row(index),
        "a row without images": lambda index: reader.row(index, others),
        "pyarrow's ParquetFile: a row, no checksums": lambda index: plain.row(index, False),
        "pyarrow's ParquetFile: a row": lambda index: plain.row(index, True),
    }
    mapped: dict[str, Read] = {"`datasets`, from its own copy: a row": lambda i: theirs[i]}
    slow: dict[str, Read] = {"pyarrow.dataset: a row": lambda i: table.take([i]).to_pylist()[0]}
    for index in random.Random(0).sample(range(len(reader)), 3):
        kinds = {**whole, **mapped, **slow}
        rows = [read(index) for name, read in kinds.items() if "without" not in name]
        assert all(row["image"]["bytes"] == rows[0]["image"]["bytes"] for row in rows)
    files = reader.paths
    warm = _time({**whole, **mapped}, len(reader), reads) | _time(slow, len(reader), SLOW_READS)
    cold = _time(whole, len(reader), reads, files) | _time(slow, len(reader), SLOW_READS, files)
    print("| ms | warm median | warm p95 | cold median | cold p95 |\n|---|---|---|---|---|")
    for name in warm:
        print(f"| {name} | {_told(warm[name])} | {_told(cold.get(name))} |")
    scans: dict[str, Callable[[], Iterable[Any]]] = {
        "all annotations": reader.annotations,
        "areas and names": lambda: reader.batches(["image_id", "objects.list.element.area"]),
        "pyarrow.dataset: all annotations": lambda: (
            row for batch in table.to_batches(columns=others) for row in batch.to_pylist()
        ),
    }
    print(f"\n| ms a row, scanning {len(reader)} rows | warm | cold |\n|---|---|---|")
    for name, scan in scans.items():
        times = [_scan(scan, dropped) / len(reader) for dropped in ((), files)]
        print(f"| {name} | {times[0]:.2f} | {times[1]:.2f} |")
    print(f"\n`datasets` made its copy in {prepared:.1f} s.")


class _Plain:
    """Row groups as pyarrow reads them, with the footers in memory."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader
        self.paths = dict(zip(reader.shards, reader.paths, strict=True))
        self.footers = {name: pq.read_metadata(path) for name, path in self.paths.items()}

    def row(self, index: int, checked: bool) -> dict[str, Any]:
        name, row = self.reader.locate(index)
        with pq.ParquetFile(
            self.paths[name], metadata=self.footers[name], page_checksum_verification=checked
        ) as file:
            return file.read_row_group(row).to_pylist()[0]


def _time(
    kinds: dict[str, Read], rows: int, reads: int, dropped: Iterable[Path] = ()
) -> dict[str, list[float]]:
    """Milliseconds of each read of each kind."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    draw = random.Random(1)
    for _ in range(reads):
        for name in draw.sample(sorted(kinds), len(kinds)):
            index = draw.randrange(rows)
            _drop(dropped)
            start = time.perf_counter()
            kinds[name](index)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: times[name] for name in kinds}


def _told(times: list[float] | None) -> str:
    if times is None:
        return "– | –"
    return f"{median(times):.1f} | {sorted(times)[int(0.95 * len(times))]:.1f}"


def _scan(scan: Callable[[], Iterable[Any]], dropped: Iterable[Path]) -> float:
    _drop(dropped)
    start = time.perf_counter()
    for _ in scan():
        pass
    return 1e3 * (time.perf_counter() - start)


def _drop(files: Iterable[Path]) -> None:
    """Ask the kernel to forget files, which are on the disk already."""
    for path in files:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _make(shards: Path, count: int, rows: int) -> None:
    """Pack shards of so many rows; the panoramas are removed as soon as they are packed."""
    with tempfile.TemporaryDirectory(dir=shards.parent) as scratch:
        run = RunFolder(Path(scratch))
        scene = finish_scene(run)
        row = read_json(scene.panorama(0) / "row.json")
        random_bytes = np.random.default_rng(0)
        for index in range(count * rows):
            folder = scene.panorama(index)
            _write_panorama(folder, row | {"image_id": f"{scene.scene_id}/{index}"}, random_bytes)
        viewpoints = [{}] * (count * rows)
        write_json(scene.generated, read_json(scene.generated) | {"viewpoints": viewpoints})
        assert scene.scene_id == scene_id(SETTINGS, 0)
        size = IMAGE_BYTES + IDS_BYTES + 250_000  # an upper bound of a row's share
        pack(run, SETTINGS, shard_bytes=rows * size, validation_fraction=0)
        run.shards.rename(shards)


def _write_panorama(folder: Path, row: dict[str, Any], random_bytes: np.random.Generator) -> None:
    folder.mkdir(exist_ok=True)
    letters = random_bytes.integers(48, 112, (OBJECTS, RLE_BYTES), np.uint8)
    example = row["objects"][0]
    row["objects"] = [
        {
            **example,
            "id": number,
            "name": f"{example['name']}.{number:03d}",
            "area": int(random_bytes.integers(100, 100_000)),
            **{name: random_bytes.random(4).tolist() for name in ("bbox", "bbox_wrapped", "bfov")},
            "click": random_bytes.integers(0, 4096, 2).tolist(),
            "segmentation": {"size": [2048, 4096], "counts": rle.tobytes().decode()},
        }
        for number, rle in enumerate(letters)
    ]
    files = {
        "image.webp": random_bytes.bytes(IMAGE_BYTES),
        "ids.png": random_bytes.bytes(IDS_BYTES),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    row["summary"] |= {
        "bytes": sum(map(len, files.values())),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    (folder / "row.json").write_text(json.dumps(row))


if __name__ == "__main__":
    main()
