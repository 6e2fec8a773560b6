"""Statistics of a dataset: annotation columns in, one dictionary of plain JSON types out.

Shards are read in batches, without images and masks. Counts are kept per split and generator, and
then added up. Memory grows with the dataset by one name per scene and three numbers per panorama.

    {
      "format": 3,
      "paper": {"masks_per_panorama", "sizes_percent": {small, medium, large}},
      "size_thresholds": [{"width", "height", "medium_from", "large_from"}, …],   integer pixels
      "solid_angle_bins": {"log10_first_edge", "per_decade", "bins"},
      "position_bins": {"degrees"},
      "total": GROUP, "splits": {"train": GROUP, …}, "generators": {"indoors": GROUP, …}
    }

    GROUP
      panoramas, scenes
      instances, objects   KIND; objects are the instances that are not structure
      categories           [{category, is_structure, instances, panoramas}], most instances first
      taxonomies           {coco, lvis, ade20k, nyu40: {count, percent, classes}}: instances with a
                           counterpart there, and the number of its classes
      sphere_percent       share of the sphere covered by small, medium and large instances, by
                           objects, structure and none (not annotated)
      smallest_area        pixels of the smallest instance
      positions            objects by the centre of their spherical box: 18 rows from the zenith
                           down, 36 columns from longitude -180°
      made_with            {versions, profile, samples, resolution, …: [{value, panoramas}]}
      exposure_stops       NUMBERS over panoramas

    KIND
      count
      per_panorama         NUMBERS, and histogram: [[instances, panoramas], …]
      sizes                {small, medium, large: {count, percent}}
      size_readings        the same under three readings of the paper's thresholds: {coco, pixels,
                           side: {small, medium, large: {count, percent}}}
      crosses_seam, touches_pole   {count, percent}
      solid_angles         histogram (counts by bin), and quantiles in steradian computed from it,
                           accurate to half a bin, 6 %

    NUMBERS: {mean, min, p5, p25, median, p75, p95, max}; empty without values

Percentages refer to the KIND's count. Equal shards give equal dictionaries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.annotations.sizes import (
    PAPER_MASKS_PER_PANORAMA,
    PAPER_MIX_PERCENT,
    size_thresholds,
)
from pipeline.errors import UserError
from pipeline.layout import write_json
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import SPLITS
from pipeline.statistics.counts import (
    COLUMNS,
    POSITION_DEGREES,
    SOLID_ANGLE_BINS,
    SOLID_ANGLE_FIRST,
    SOLID_ANGLE_PER_DECADE,
    Counts,
)
from pipeline.statistics.validate import validation_error
from pipeline.storage import disk_full_as_user_error

FORMAT = 3
"""Version of the layout of statistics.json; increased when the layout changes."""

_REMEDY = "run make verify, which lists them"


def measure(shards: ShardReader) -> dict[str, Any]:
    """The statistics of a dataset, with the layout of this module's docstring.

    Raises:
        UserError: A shard cannot be read, or a row does not fit the schema.
    """
    return measure_batches(shards.batches(COLUMNS))


def write_statistics(shards: ShardReader, path: Path) -> dict[str, Any]:
    """Measure a dataset and write `statistics.json`; equal shards give equal bytes.

    Raises:
        UserError: As for `measure`, or the disk is full.
    """
    statistics = measure(shards)
    full = f"no room for {path}; free some space and run the same command again"
    with disk_full_as_user_error(full):
        write_json(path, statistics)
    return statistics


def measure_batches(batches: Iterable[tuple[str, pa.RecordBatch]]) -> dict[str, Any]:
    """The statistics of (shard name, batch of `COLUMNS`) pairs, in any order.

    Raises:
        UserError: A row does not fit the schema.
    """
    cells: dict[tuple[str, str], Counts] = {}
    for shard, batch in batches:
        split = shard.rsplit("-", 1)[0]
        if problem := validation_error(batch):
            raise UserError(f"{shard} has rows that do not fit the schema ({problem}); {_REMEDY}")
        names = batch.column("generator")
        try:
            for name in pc.unique(names):
                cell = cells.setdefault((split, name.as_py()), Counts())
                cell.add(batch.filter(pc.equal(names, name)))
        except UnicodeDecodeError as error:
            raise UserError(f"{shard} has names that are not UTF-8; {_REMEDY}") from error
    total = Counts.sum(cells.values())
    order = {split: place for place, split in enumerate(SPLITS)}
    splits = sorted({split for split, _ in cells}, key=lambda split: order.get(split, len(order)))
    generators = sorted({generator for _, generator in cells})
    return {
        "format": FORMAT,
        "paper": {
            "masks_per_panorama": PAPER_MASKS_PER_PANORAMA,
            "sizes_percent": dict(PAPER_MIX_PERCENT),
        },
        "size_thresholds": [
            _thresholds(*(int(side) for side in resolution.split(" × ")))
            for resolution in sorted(total.made_with["resolution"])
        ],
        "solid_angle_bins": {
            "log10_first_edge": SOLID_ANGLE_FIRST,
            "per_decade": SOLID_ANGLE_PER_DECADE,
            "bins": SOLID_ANGLE_BINS,
        },
        "position_bins": {"degrees": POSITION_DEGREES},
        "total": total.report(),
        "splits": {
            split: Counts.sum(cell for (name, _), cell in cells.items() if name == split).report()
            for split in splits
        },
        "generators": {
            generator: Counts.sum(
                cell for (_, name), cell in cells.items() if name == generator
            ).report()
            for generator in generators
        },
    }


def _thresholds(width: int, height: int) -> dict[str, Any]:
    """The smallest areas that are medium and large, in integer pixels."""
    medium, large = map(math.ceil, size_thresholds(width, height))
    return {"width": width, "height": height, "medium_from": medium, "large_from": large}
