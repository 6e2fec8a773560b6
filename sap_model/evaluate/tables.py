"""The paper's tables from results: Tables 1 to 3 (by size) and Table 7 (seam and poles).

Figures are mIoU in percent, each with its 95 % interval over scenes (`intervals`). Rows come in the
paper's order: for each model size SAM2, SAM2 along the scan, SAP, and what SAP gained over SAM2.
Gains are differences of exact means, so their last digit may differ from that of the rounded
figures above.

Beyond the paper: the mean gain of all model sizes (its "+17.2") as a row, the numbers of instances
and scenes behind each column, the overall figure that data with the paper's mix of sizes would have
given, and the oracle as the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.annotations.sizes import PAPER_MIX_PERCENT, SIZES, Size
from sap_model.evaluate.intervals import CONFIDENCE, Estimate, estimate, reweighted
from sap_model.evaluate.results import METRIC_NAMES, Name, ScoredObject, align

CLICKS = (1, 3)
"""The paper's two settings (section 5.2)."""

_MODELS = ("nano", "tiny", "small", "base_plus", "large")
_FIRST, _LAST = ("sam2", "sam2-pad", "scan"), "sap"
"""Methods of a model that come before others, and the one that comes after them."""
_LABELS = {"sam2": "SAM2-{}", "scan": "SAM2-{}+scan", "sap": "SAP-{}"}
"""The paper's names of its methods; others keep ours."""


@dataclass(frozen=True)
class Column:
    """A column: a subset of the instances, after some clicks; how many and of how many scenes."""

    clicks: int
    subset: str
    instances: int
    scenes: int


@dataclass(frozen=True)
class Subset:
    """Instances that a column is about, and how much their sizes count."""

    chosen: NDArray[np.bool_]  # (N,) of all instances
    mix: Mapping[Size, float] | None = None  # None: every instance counts the same


@dataclass(frozen=True)
class Row:
    """A row: what the mean of `plus`' scores is, or by how much it exceeds that of `minus`."""

    label: str
    kind: str  # score, difference or ceiling
    plus: tuple[Name, ...]
    minus: tuple[Name, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table that can be written as Markdown or JSON; cells are fractions, None is no result."""

    title: str
    metric: str
    columns: list[Column]
    rows: list[Row]
    cells: list[list[Estimate | None]]  # by row

    def markdown(self) -> str:
        """The table in Markdown, with its title and a line on how to read it."""
        heads = ["Method"]
        for before, column in zip([None, *self.columns], self.columns, strict=False):
            new = before is None or before.clicks != column.clicks
            heads.append(f"{column.clicks}-click {column.subset}" if new else column.subset)
        lines = [heads, ["---"] + ["---:"] * len(self.columns)]
        for row, cells in zip(self.rows, self.cells, strict=True):
            signed = row.kind == "difference"
            lines.append([row.label, *(_cell(cell, signed) for cell in cells)])
        lines.append(["instances", *(str(column.instances) for column in self.columns)])
        lines.append(["scenes", *(str(column.scenes) for column in self.columns)])
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return (
            f"**{self.title}.** Mean {METRIC_NAMES[self.metric]} in percent, with "
            f"{CONFIDENCE:.0%} intervals (Student's t over scenes)."
            f"\n\n{text}\n"
        )

    def json(self) -> dict[str, Any]:
        """The same as plain JSON types; figures in percent, to four decimals."""
        return {
            "title": self.title,
            "metric": self.metric,
            "unit": "percent",
            "confidence": CONFIDENCE,
            "interval": "Student's t over scenes",
            "columns": [asdict(column) for column in self.columns],
            "rows": [
                {
                    "label": row.label,
                    "kind": row.kind,
                    "of": [name._asdict() for name in row.plus],
                    "minus": [name._asdict() for name in row.minus],
                    "cells": [cell and _cell_json(cell) for cell in cells],
                }
                for row, cells in zip(self.rows, self.cells, strict=True)
            ],
        }


def size_table(
    results: pa.Table,
    benchmark: str,
    *,
    clicks: Sequence[int] = CLICKS,
    metric: str = "iou",
) -> Table:
    """A benchmark in the layout of the paper's Tables 1 to 3: overall and by size.

    Args:
        results: With the schema `RESULTS` of `results`; other benchmarks are ignored.
        benchmark: The benchmark's name.
        clicks: Numbers of clicks, one group of columns for each.
        metric: One of `sap_model.evaluate.results.METRICS`.

    Raises:
        UserError: There are no results, or methods were scored on different instances.
    """
    scored = align(results.filter(pc.equal(results["benchmark"], benchmark)), metric)
    return fill(benchmark, scored, arrange(scored.scores), size_subsets(scored), clicks, metric)


def size_subsets(scored: ScoredObject) -> dict[str, Subset]:
    """All instances, those of each size, and all at the paper's mix of sizes."""
    sizes = np.array(scored.instances["size"].to_pylist())
    everything = np.ones(len(sizes), bool)
    return {
        "overall": Subset(everything),
        **{size: Subset(sizes == size) for size in SIZES},
        "at the paper's mix": Subset(everything, PAPER_MIX_PERCENT),
    }


def seam_pole_table(
    results: pa.Table,
    benchmarks: Sequence[str] | None = None,
    *,
    clicks: Sequence[int] = CLICKS,
    metric: str = "iou",
) -> Table:
    """The instances that cross the seam or touch a pole, of several benchmarks: Table 7.

    Args:
        results: With the schema `sap_model.evaluate.results.RESULTS`.
        benchmarks: Those to take, the paper's PAV-SOD and HunyuanWorld-1.0; all by default.
        clicks, metric: As for `size_table`.

    Raises:
        UserError: There are no results, or methods were scored on different instances.
    """
    if benchmarks is not None:
        results = results.filter(pc.is_in(results["benchmark"], pa.array(benchmarks, pa.string())))
    scored = align(results, metric)
    either = scored.seam_or_pole()
    subsets = {
        "seam or pole": Subset(either),
        "seam": Subset(scored.flag("crosses_seam")),
        "pole": Subset(scored.flag("touches_pole")),
        "elsewhere": Subset(~either),
    }
    title = "Seam and poles: " + ", ".join(pc.unique(results["benchmark"]).to_pylist())
    return fill(title, scored, arrange(scored.scores), subsets, clicks, metric)


def arrange(methods: Iterable[Name]) -> list[Row]:
    """The rows of a table: methods in the paper's order, with the gains between them.

    >>> names = [("sap", "tiny"), ("oracle", ""), ("sam2", "tiny"), ("scan", "tiny")]
    >>> [row.label for row in arrange(Name(*name) for name in names)]
    ['SAM2-tiny', 'SAM2-tiny+scan', 'SAP-tiny', '(SAP-SAM2)', 'oracle (ceiling)']
    """
    names = sorted(methods, key=_rank)
    rows, gains = [], []
    for name in names:
        if name.is_oracle:
            continue
        rows.append(Row(_label(name), "score", (name,)))
        other = Name("sam2", name.model)
        if name.method == "sap" and other in names:
            gains.append(Row("(SAP-SAM2)", "difference", (name,), (other,)))
            rows.append(gains[-1])
    if len(gains) > 1:
        plus = tuple(name for gain in gains for name in gain.plus)
        minus = tuple(name for gain in gains for name in gain.minus)
        rows.append(Row(f"(SAP-SAM2), mean of {len(gains)}", "difference", plus, minus))
    ceilings = [name for name in names if name.is_oracle]
    return rows + [Row(f"{_label(name)} (ceiling)", "ceiling", (name,)) for name in ceilings]


def _rank(name: Name) -> tuple[int, str, int, str]:
    """By model in the order of their sizes, then by method."""
    method, model = name
    size = _MODELS.index(model) if model in _MODELS else len(_MODELS)
    place = _FIRST.index(method) if method in _FIRST else len(_FIRST) + (method == _LAST)
    return size, model, place, method


def _label(name: Name) -> str:
    size = "base" if name.model == "base_plus" else name.model
    return _LABELS.get(name.method, f"{name.method}-{{}}").format(size).removesuffix("-")


def fill(
    title: str,
    scored: ScoredObject,
    rows: list[Row],
    subsets: Mapping[str, Subset],
    clicks: Sequence[int],
    metric: str,
) -> Table:
    """A table of these rows over these subsets, after each of the numbers of clicks."""
    scenes = scored.scenes()
    sizes = np.array(scored.instances["size"].to_pylist())
    columns: list[Column] = []
    cells: list[list[Estimate | None]] = [[] for _ in rows]
    for number in clicks:
        for name, subset in subsets.items():
            chosen = subset.chosen
            held = int(np.count_nonzero(chosen)), len(np.unique(scenes[chosen]))
            columns.append(Column(number, name, *held))
            for row, cell in zip(rows, cells, strict=True):
                values = _values(row, number, scored)
                if values is None:
                    cell.append(None)
                elif subset.mix is None:
                    cell.append(estimate(values, scenes, chosen))
                else:
                    cell.append(
                        reweighted(values[chosen], scenes[chosen], sizes[chosen], subset.mix)
                    )
    return Table(title, metric, columns, rows, cells)


def _values(row: Row, clicks: int, scored: ScoredObject) -> NDArray[np.float64] | None:
    """A row's value of each instance (N,); None if one of its methods has no such results."""
    plus = [scored.of(method, clicks) for method in row.plus]
    minus = [scored.of(method, clicks) for method in row.minus]
    known = [scores for scores in plus + minus if scores is not None]
    if len(known) < len(plus) + len(minus):
        return None
    values = np.mean(known[: len(plus)], axis=0)
    return values - np.mean(known[len(plus) :], axis=0) if minus else values


def _cell(cell: Estimate | None, signed: bool) -> str:
    if cell is None:
        return "–"
    mean, low, high = (
        f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
        for value in (cell.mean, cell.low, cell.high)
    )
    return mean if math.isnan(cell.low) else f"{mean} [{low}, {high}]"


def _cell_json(cell: Estimate) -> dict[str, Any]:
    known = {name: value for name, value in cell._asdict().items() if not math.isnan(value)}
    return {
        **{name: round(100 * known[name], 4) for name in ("mean", "low", "high") if name in known},
        "instances": cell.instances,
        "scenes": cell.scenes,
    }
