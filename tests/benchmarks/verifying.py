"""What verifying costs: seconds and memory against the number of panoramas and of shards.

python -m tests.benchmarks.verifying [10 100 1000] [--width 1024]

Each run verifies, in a separate process, shards of synthetic panoramas with about 60 instances
(discs on a sphere). The picture is the same throughout, so that making a thousand of them takes
seconds; near-duplicates are therefore found, and not counted here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.annotations.annotate import InstanceInfo, annotate
from pipeline.annotations.stage import encode_png, encode_webp
from pipeline.shards.schema import make_schema
from tests.synthetic import disc, picture

ROWS_IN_A_SHARD = 50
PAPER_PANORAMAS = 183_440

MEASURE = """
import json, os, resource, sys, time
from pipeline.verify.verify import verify
def memory():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
before, start = memory(), time.process_time()
found = verify(sys.argv[1])
others = [f for f in found.findings if "shows the same" not in f.text]
print(json.dumps([time.process_time() - start, memory() - before, found.panoramas, len(others)]))
"""


def main(counts: list[int], width: int) -> None:
    print("| panoramas | shards | CPU-seconds | a panorama, ms | memory above idle, MiB |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        row = _row(width)
        for count in counts:
            folder = Path(scratch) / str(count) / "data"
            folder.mkdir(parents=True)
            shards = _write(folder, row, count)
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True
            )
            seconds, memory, seen, findings = json.loads(done.stdout)
            assert (seen, findings) == (count, 0), done.stderr
            each = 1000 * seconds / count
            print(f"| {count} | {shards} | {seconds:.1f} | {each:.0f} | {memory:.0f} |", flush=True)
    hours = PAPER_PANORAMAS * each / 1000 / 3600
    print(f"\nThe paper's {PAPER_PANORAMAS:,} at this width: {hours:.0f} CPU-hours.")


def _row(width: int) -> dict:
    """A panorama with 60 discs before a floor and a ceiling."""
    random = np.random.default_rng(0)
    ids = np.full((width // 2, width), 1, np.uint16)
    ids[width // 4 :] = 2
    for label in range(3, 63):
        lon, lat, radius = random.uniform((-180, -70, 1), (180, 70, 12))
        ids[disc(lon, lat, radius, width)] = label
    table = {
        k: InstanceInfo(f"thing.{k}", "thing" if k > 2 else "wall", k < 3) for k in range(1, 63)
    }
    objects, _ = annotate(ids, table, 1)
    return {
        "image": {"bytes": encode_webp(picture(ids, 0))},
        "ids": {"bytes": encode_png(ids)},
        "width": width,
        "height": width // 2,
        "generator": "spheres",
        "camera": {"position": [0.0, 0, 1.5], "rotation_euler": [1.57, 0, 0], "room": "hall"},
        "objects": objects,
        "provenance": {
            **dict.fromkeys(("pipeline", "infinigen", "bpy", "profile", "device"), "-"),
            "samples": 1,
            "exposure_stops": 0.0,
            "settings_hash": "0",
        },
    }


def _write(folder: Path, row: dict, count: int) -> int:
    """So many rows, each as if of another seed; returns the number of shards."""
    schema = make_schema()
    for shard, first in enumerate(range(0, count, ROWS_IN_A_SHARD)):
        path = folder / f"train-{shard:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="NONE", write_page_checksum=True) as writer:
            for seed in range(first, min(first + ROWS_IN_A_SHARD, count)):
                scene = f"spheres-{seed:010d}"
                own = {"seed": seed, "scene_id": scene, "image_id": f"{scene}/0"}
                files = {
                    name: {**row[name], "path": f"{scene}-0-{file}"}
                    for name, file in (("image", "image.webp"), ("ids", "ids.png"))
                }
                writer.write_table(pa.Table.from_pylist([{**row, **own, **files}], schema))
    return shard + 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--width", type=int, default=1024)
    given = parser.parse_args()
    main(given.counts, given.width)
