"""How long the statistics of a dataset take, and how much memory.

    python -m tests.benchmarks.statistics [PANORAMAS …]

Writes shards of 10, 100 and 1,000 panoramas with about 57 instances each, in which everything but
the pictures has its real size, and measures each in a fresh process. Only annotation columns are
read, so pictures would change nothing but the distance between the columns in the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.annotations.sizes import size_of
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import leaf_columns, make_schema
from pipeline.statistics.measure import measure

PANORAMAS = (10, 100, 1000)
PAPER_PANORAMAS = 183_440
ROWS_PER_SHARD = 75
"""As many 4K panoramas as fit into a shard of 512 MiB."""
WIDTH, HEIGHT = 4096, 2048
OBJECTS = 57
CATEGORIES = [f"category_{number}" for number in range(60)]


def main(numbers: list[int]) -> None:
    empty = _measure(None)
    print("| panoramas | instances | seconds | peak memory above an idle process, MiB |")
    print("|---|---|---|---|")
    found = {}
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            write_shards(Path(folder), number)
            found[number] = _measure(folder)
        seconds, memory, instances = found[number]
        print(
            f"| {number:,} | {instances:,} | {seconds:.2f} | {memory - empty[1]:.0f} |", flush=True
        )
    largest = max(numbers)
    seconds = found[largest][0] / largest * PAPER_PANORAMAS
    print(
        f"\nExtrapolated from {largest:,} panoramas, not measured: {PAPER_PANORAMAS:,} panoramas, "
        f"as many as the paper's dataset has, would take {seconds:.0f} seconds."
    )


def write_shards(folder: Path, panoramas: int, seed: int = 0) -> None:
    """Shards as the packer lays them out, with made-up annotations and without pictures."""
    schema = make_schema()
    leaves = leaf_columns(schema)
    images = [leaf for leaf in leaves if leaf.endswith(".bytes")]
    rng = np.random.default_rng(seed)
    (folder / "data").mkdir(parents=True)
    for shard, first in enumerate(range(0, panoramas, ROWS_PER_SHARD)):
        rows = [
            row_of(index, rng) for index in range(first, min(first + ROWS_PER_SHARD, panoramas))
        ]
        others = [leaf for leaf in leaves if leaf not in images]
        pq.write_table(
            pa.Table.from_pylist(rows, schema),
            folder / "data" / f"train-{shard:05d}.parquet",
            row_group_size=1,
            compression={leaf: "NONE" if leaf in images else "ZSTD" for leaf in leaves},
            use_dictionary=others,
            write_statistics=others,
        )


def row_of(index: int, rng: np.random.Generator) -> dict:
    """One panorama with about `OBJECTS` instances."""
    scene = f"indoors-{index // 2:010d}"
    return {
        "image": {"bytes": b"", "path": f"{scene}-{index % 2}-image.webp"},
        "ids": {"bytes": b"", "path": f"{scene}-{index % 2}-ids.png"},
        "image_id": f"{scene}/{index % 2}",
        "scene_id": scene,
        "width": WIDTH,
        "height": HEIGHT,
        "generator": "indoors",
        "seed": index // 2,
        "camera": {
            "position": rng.uniform(0, 9, 3).tolist(),
            "rotation_euler": [1.5707963267948966, 0.0, rng.uniform(-3, 3)],
            "room": "kitchen_0/0.floor",
        },
        "objects": [_object(label + 1, rng) for label in range(max(1, rng.poisson(OBJECTS)))],
        "provenance": {
            "pipeline": "0.1.0",
            "infinigen": "2.0.0a3",
            "bpy": "4.2.0",
            "profile": "cpu",
            "samples": 2,
            "device": "CPU",
            "settings_hash": "0123456789ab",
            "exposure_stops": float(rng.normal(2)),
        },
    }


def _object(label: int, rng: np.random.Generator) -> dict:
    area = int(np.clip(rng.lognormal(9, 2), 100, WIDTH * HEIGHT / 2))
    x, y, lon, lat = rng.uniform([0, 0, -180, -60], [WIDTH, HEIGHT, 180, 60])
    edge = area**0.5
    structure = label <= 8
    return {
        "id": label,
        "category": ("wall", "floor")[label % 2] if structure else str(rng.choice(CATEGORIES)),
        "name": f"Factory({rng.integers(2**31)}).spawn_asset({rng.integers(2**23)})",
        "is_structure": structure,
        "area": area,
        "solid_angle": area * 2.4e-6,
        "size": size_of(area, WIDTH, HEIGHT),
        "bbox": [float(int(x)), float(int(y)), float(int(edge)), float(int(edge))],
        "bbox_wrapped": [float(int(x)), float(int(y)), float(int(edge)), float(int(edge))],
        "crosses_seam": bool(rng.random() < 0.05),
        "touches_pole": bool(rng.random() < 0.02),
        "bfov": [round(lon, 4), round(lat, 4), 3.0, 3.0],
        "click": [int(x), int(y)],
        "iscrowd": 0,
        "segmentation": {
            "size": [HEIGHT, WIDTH],
            "counts": rng.integers(48, 112, int(6 * edge)).astype(np.uint8).tobytes().decode(),
        },
    }


def _measure(folder: str | None) -> tuple[float, float, int]:
    """Seconds, peak memory in MiB and instances, in a fresh process; without a folder, idle."""
    command = [sys.executable, "-m", "tests.benchmarks.statistics", "--child", folder or ""]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    seconds, memory, instances = json.loads(output)
    return seconds, memory, instances


def _child(folder: str) -> None:
    start = time.perf_counter()
    instances = measure(ShardReader(folder))["total"]["instances"]["count"] if folder else 0
    seconds = time.perf_counter() - start
    # not getrusage: its peak is inherited from the process that started this one
    status = Path("/proc/self/status").read_text()
    memory = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps([seconds, memory, instances]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2])
    else:
        main([int(number) for number in sys.argv[1:]] or list(PANORAMAS))
