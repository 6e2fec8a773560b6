"""Vectorised counts over batches of annotation columns. Counts of two parts can be added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from pipeline.annotations.sizes import (
    COCO_MEDIUM,
    COCO_SMALL,
    SIZE_READINGS,
    SIZES,
    reading_scale,
)
from pipeline.sphere import Floats
from pipeline.taxonomy import TAXONOMIES, class_of

COLUMNS = (
    "scene_id",
    "width",
    "height",
    "generator",
    *(
        f"objects.list.element.{name}"
        for name in (
            "category",
            "is_structure",
            "area",
            "solid_angle",
            "size",
            "crosses_seam",
            "touches_pole",
            "bfov.list.element",
        )
    ),
    "provenance",
)

SOLID_ANGLE_FIRST, SOLID_ANGLE_PER_DECADE, SOLID_ANGLE_BINS = -8, 20, 182
"""Bin k starts at 10 ** (first + k / per_decade) steradian; the last bin ends beyond 4 pi. A pixel
at the horizon of an 8K panorama has 6e-7. Smaller values count in the first bin."""

POSITION_DEGREES = 10
"""Size of the cells in which positions are counted, in longitude and latitude."""

QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1}

PROVENANCE_FIELDS = (
    "pipeline",
    "infinigen",
    "bpy",
    "profile",
    "samples",
    "device",
    "settings_hash",
)
"""Fields of `provenance` that are counted by value, together with `resolution`."""

KINDS = ("instances", "objects")
PANORAMA_NUMBERS = ("exposure_stops",)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass
class Counts:
    """Counts of one split and generator.

    Sums of solid angles are integers in units of 1e-9 steradian, so that they do not depend on the
    order of the rows.
    """

    scenes: set[str] = field(default_factory=set)
    """Scene ids; all panoramas of a scene have the same split and generator."""
    numbers: dict[str, list[Floats]] = field(
        default_factory=lambda: {name: [] for name in (*KINDS, *PANORAMA_NUMBERS)}
    )
    """One number per panorama: its instances, its objects, and `PANORAMA_NUMBERS`."""
    made_with: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in (*PROVENANCE_FIELDS, "resolution")}
    )
    things: Counter[tuple[bool, str, str]] = field(default_factory=Counter)
    """Instances by (is_structure, property, value)."""
    nanosteradians: Counter[tuple[bool, str]] = field(default_factory=Counter)
    """Solid angle by (is_structure, size class)."""
    categories: dict[str, Counter[tuple[str, bool]]] = field(
        default_factory=lambda: {"instances": Counter(), "panoramas": Counter()}
    )
    solid_angles: Ints = field(
        default_factory=lambda: np.zeros((2, SOLID_ANGLE_BINS), np.int64)
    )  # objects, structure
    positions: Ints = field(
        default_factory=lambda: np.zeros((180 // POSITION_DEGREES, 360 // POSITION_DEGREES), int)
    )
    smallest_area: int | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch of `COLUMNS`."""
        self._add_panoramas(batch)
        objects = batch.column("objects")
        things = objects.flatten()
        structure = _bools(things.field("is_structure"))
        row = pc.list_parent_indices(objects).to_numpy()
        rows = batch.num_rows
        for name, selected in {"instances": row, "objects": row[~structure]}.items():
            self.numbers[name].append(np.bincount(selected, minlength=rows).astype(np.float64))
        if not len(things):
            return
        self._add_categories(things.field("category"), structure, row)
        for name in ("crosses_seam", "touches_pole"):
            for kind in (False, True):
                number = int(np.count_nonzero(_bools(things.field(name)) & (structure == kind)))
                self.things[kind, name, "yes"] += number
        solid_angle = things.field("solid_angle").to_numpy()
        size = things.field("size").to_numpy(zero_copy_only=False)
        for name in SIZES:
            for kind in (False, True):
                selected = (size == name) & (structure == kind)
                self.things[kind, "size", name] += int(np.count_nonzero(selected))
                nano = np.rint(solid_angle[selected] * 1e9).astype(np.int64)
                self.nanosteradians[kind, name] += int(nano.sum())
        self._add_readings(batch, things.field("area").to_numpy(), row, structure)
        smallest = pc.min(things.field("area")).as_py()
        self.smallest_area = min(smallest, self.smallest_area or smallest)
        self._add_solid_angles(solid_angle, structure)
        self._add_positions(things.field("bfov"), ~structure)

    @staticmethod
    def sum(parts: Iterable[Counts]) -> Counts:
        """The sum of several counts."""
        total = Counts()
        for part in parts:
            total.scenes |= part.scenes
            total.things += part.things
            total.nanosteradians += part.nanosteradians
            for name in total.numbers:
                total.numbers[name] += part.numbers[name]
            for name in total.made_with:
                total.made_with[name] += part.made_with[name]
            for name in total.categories:
                total.categories[name] += part.categories[name]
            total.solid_angles += part.solid_angles
            total.positions += part.positions
            areas = [area for area in (total.smallest_area, part.smallest_area) if area is not None]
            total.smallest_area = min(areas, default=None)
        return total

    def _add_panoramas(self, batch: pa.RecordBatch) -> None:
        provenance = batch.column("provenance")
        for name in PANORAMA_NUMBERS:
            self.numbers[name].append(_floats(provenance.field(name)))
        self.scenes.update(batch.column("scene_id").to_pylist())
        for name in PROVENANCE_FIELDS:
            values = pc.fill_null(pc.cast(provenance.field(name), pa.string()), "unknown")
            self.made_with[name].update(values.to_pylist())
        sides = zip(*(batch.column(name).to_pylist() for name in ("width", "height")), strict=True)
        self.made_with["resolution"].update(f"{width} × {height}" for width, height in sides)

    def _add_readings(self, batch: pa.RecordBatch, area: Ints, row: Ints, structure: Bools) -> None:
        """Count the size classes under each reading of the paper's thresholds."""
        columns = (batch.column(name).to_pylist() for name in ("width", "height"))
        sides = list(zip(*columns, strict=True))
        for reading in SIZE_READINGS:
            scale = np.array([reading_scale(reading, *pair) for pair in sides])[row]
            rank = (area >= COCO_SMALL * scale).astype(int) + (area >= COCO_MEDIUM * scale)
            for kind in (False, True):
                counts = np.bincount(rank[structure == kind], minlength=len(SIZES))
                for name, number in zip(SIZES, counts.tolist(), strict=True):
                    self.things[kind, f"size by {reading}", name] += number

    def _add_categories(self, category: pa.Array, structure: Bools, row: Ints) -> None:
        encoded = category.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        label = encoded.indices.to_numpy().astype(np.int64) * 2 + structure
        once = np.unique(row * 2 * len(names) + label) % (2 * len(names))  # once per panorama
        for what, labels in {"instances": label, "panoramas": once}.items():
            numbers = np.bincount(labels)
            for index in np.flatnonzero(numbers):
                self.categories[what][names[index // 2], bool(index % 2)] += int(numbers[index])

    def _add_solid_angles(self, solid_angle: Floats, structure: Bools) -> None:
        bins = np.searchsorted(solid_angle_edges(), solid_angle, side="right") - 1
        bins = np.clip(bins, 0, SOLID_ANGLE_BINS - 1)
        for kind in (0, 1):
            self.solid_angles[kind] += np.bincount(
                bins[structure == kind], minlength=SOLID_ANGLE_BINS
            )

    def _add_positions(self, boxes: pa.Array, selected: Bools) -> None:
        """Count the centres of the spherical boxes of the selected instances."""
        lon, lat = boxes.flatten().to_numpy().reshape(-1, 4)[selected, :2].T
        rows, columns = self.positions.shape
        column = np.floor((lon + 180) / POSITION_DEGREES).astype(np.int64) % columns
        row = np.floor((90 - lat) / POSITION_DEGREES).astype(np.int64).clip(0, rows - 1)
        np.add.at(self.positions, (row, column), 1)

    def report(self) -> dict[str, Any]:
        """The GROUP of the docstring of `pipeline.statistics.measure`."""
        panoramas = sum(map(len, self.numbers["instances"]))
        return {
            "panoramas": panoramas,
            "scenes": len(self.scenes),
            "instances": self._kind("instances", (False, True)),
            "objects": self._kind("objects", (False,)),
            "categories": [
                {
                    "category": name,
                    "is_structure": structure,
                    "instances": instances,
                    "panoramas": self.categories["panoramas"][name, structure],
                }
                for (name, structure), instances in sorted(
                    self.categories["instances"].items(), key=lambda item: (-item[1], item[0])
                )
            ],
            "taxonomies": self._taxonomies(),
            "sphere_percent": self._sphere_percent(panoramas),
            "smallest_area": self.smallest_area,
            "positions": self.positions.tolist(),
            "made_with": {
                name: [
                    {"value": value, "panoramas": number}
                    for value, number in sorted(values.items(), key=lambda item: (-item[1], item))
                ]
                for name, values in self.made_with.items()
            },
            **{name: _numbers(_joined(self.numbers[name])) for name in PANORAMA_NUMBERS},
        }

    def _taxonomies(self) -> dict[str, Any]:
        """How many instances, of how many classes, have a counterpart in each taxonomy."""
        counted = self.categories["instances"]
        found: dict[str, Any] = {}
        for taxonomy in TAXONOMIES:
            numbers: Counter[int] = Counter()
            for (name, _), number in counted.items():
                if counterpart := class_of(name, taxonomy):
                    numbers[counterpart.id] += number
            found[taxonomy] = {
                **_share(numbers.total(), counted.total()),
                "classes": len(numbers),
            }
        return found

    def _kind(self, name: str, kinds: tuple[bool, ...]) -> dict[str, Any]:
        def number(what: str, value: str) -> int:
            return sum(self.things[kind, what, value] for kind in kinds)

        per_panorama = _joined(self.numbers[name])
        count = int(per_panorama.sum())
        values, panoramas = np.unique(per_panorama.astype(np.int64), return_counts=True)
        histogram = self.solid_angles[list(map(int, kinds))].sum(axis=0)
        return {
            "count": count,
            "per_panorama": {
                **_numbers(per_panorama),
                "histogram": np.stack([values, panoramas], axis=1).tolist(),
            },
            "sizes": {size: _share(number("size", size), count) for size in SIZES},
            "size_readings": {
                reading: {size: _share(number(f"size by {reading}", size), count) for size in SIZES}
                for reading in SIZE_READINGS
            },
            **{
                flag: _share(number(flag, "yes"), count)
                for flag in ("crosses_seam", "touches_pole")
            },
            "solid_angles": {
                "histogram": histogram.tolist(),
                "quantiles": _binned_quantiles(histogram),
            },
        }

    def _sphere_percent(self, panoramas: int) -> dict[str, float]:
        nano = self.nanosteradians
        parts: dict[str, int] = {size: nano[False, size] + nano[True, size] for size in SIZES}
        parts["objects"] = sum(nano[False, size] for size in SIZES)
        parts["structure"] = sum(nano[True, size] for size in SIZES)
        parts["none"] = round(4 * np.pi * 1e9 * panoramas) - parts["objects"] - parts["structure"]
        return {
            name: rounded(100 * part / (4 * np.pi * 1e9 * panoramas)) if panoramas else 0.0
            for name, part in parts.items()
        }


def _numbers(values: ArrayLike) -> dict[str, float]:
    """Mean and quantiles of the values that are not NaN; empty without any."""
    known = np.sort(
        np.asarray(values, np.float64)
    )  # sorted, so that the order of rows does not matter
    known = known[~np.isnan(known)]
    if not known.size:
        return {}
    quantiles = np.quantile(known, list(QUANTILES.values()))
    return {
        "mean": rounded(known.mean()),
        **{name: rounded(value) for name, value in zip(QUANTILES, quantiles, strict=True)},
    }


def _binned_quantiles(histogram: Ints) -> dict[str, float]:
    """Quantiles in steradian, interpolated within each bin on the logarithmic scale."""
    if not histogram.any():
        return {}
    below = np.concatenate([[0], np.cumsum(histogram)])
    logs = np.log10(solid_angle_edges())
    found = {}
    for name in ("p5", "p25", "median", "p75", "p95"):
        wanted = QUANTILES[name] * below[-1]
        k = int(np.searchsorted(below, wanted, side="right")) - 1
        within = (wanted - below[k]) / histogram[k]
        found[name] = rounded(10 ** (logs[k] + within * (logs[k + 1] - logs[k])), 3)
    return found


def _share(count: int, of: int) -> dict[str, float]:
    return {"count": count, "percent": rounded(100 * count / of) if of else 0.0}


def rounded(value: float, digits: int = 6) -> float:
    """Round to significant digits, which removes rounding errors of sums in another order."""
    return float(f"{value:.{digits}g}")


def _joined(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0)


def _bools(column: pa.Array) -> Bools:
    return column.to_numpy(zero_copy_only=False).astype(bool)


def _floats(column: pa.Array) -> Floats:
    """An Arrow column of floats; nulls become NaN."""
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def solid_angle_edges() -> NDArray[np.float64]:
    """The edges of the solid-angle bins in steradian, `SOLID_ANGLE_BINS` + 1 of them."""
    steps = np.arange(SOLID_ANGLE_BINS + 1) / SOLID_ANGLE_PER_DECADE
    return np.power(10.0, SOLID_ANGLE_FIRST + steps)
