"""The paper's tables from results: Tables 1 to 3 (by size) and Table 7 (seam and poles).

Figures are mIoU in percent, each with its 95 % interval (`bootstrap`). Rows come in the paper's
order: for each model size SAM2, SAM2 along the scan, SAP, and what SAP gained over SAM2. Gains are
differences of exact means, so their last digit may differ from that of the rounded figures above.
Beyond the paper: the mean gain of all model sizes (its "+17.2") as a row, the number of instances
behind each column, and the oracle as the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.annotations.sizes import SIZES
from sap_model.evaluate.bootstrap import CONFIDENCE, RESAMPLES, Bootstrap, Estimate
from sap_model.evaluate.results import METRIC_NAMES, ORACLE, Name, ScoredObject, align

CLICKS = (1, 3)
"""The paper's two settings (section 5.2)."""

_MODELS = ("nano", "tiny", "small", "base_plus", "large")
_FIRST, _LAST = ("sam2", "sam2-pad", "scan"), "sap"
"""Methods of a model that come before others, and the one that comes after them."""
_LABELS = {"sam2": "SAM2-{}", "scan": "SAM2-{}+scan", "sap": "SAP-{}"}
"""The paper's names of its methods; others keep ours."""


@dataclass(frozen=True)
class Column:
    """A column: some instances, after some clicks."""

    clicks: int
    subset: str
    chosen: NDArray[np.bool_]  # (N,) of all instances


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
    cluster: str
    resamples: int
    seed: int
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
        lines.append(["instances", *(str(np.count_nonzero(c.chosen)) for c in self.columns)])
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return (
            f"**{self.title}.** Mean {METRIC_NAMES[self.metric]} in percent, with "
            f"{CONFIDENCE:.0%} intervals ({self.resamples} resamples by {self.cluster})."
            f"\n\n{text}\n"
        )

    def json(self) -> dict[str, Any]:
        """The same as plain JSON types; figures in percent, to four decimals."""
        return {
            "title": self.title,
            "metric": self.metric,
            "unit": "percent",
            "confidence": CONFIDENCE,
            "cluster": self.cluster,
            "resamples": self.resamples,
            "seed": self.seed,
            "columns": [
                {
                    "clicks": column.clicks,
                    "subset": column.subset,
                    "instances": int(np.count_nonzero(column.chosen)),
                }
                for column in self.columns
            ],
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
    cluster: str = "image_id",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Table:
    """A benchmark in the layout of the paper's Tables 1 to 3: overall and by size.

    Args:
        results: With the schema `RESULTS` of `results`; other benchmarks are ignored.
        benchmark: The benchmark's name.
        clicks: Numbers of clicks, one group of columns for each.
        metric: One of `sap_model.evaluate.results.METRICS`.
        cluster: What is resampled: panoramas (`image_id`), or `scene_id` where several panoramas of
            a scene or frames of a video depend on each other, for wider and safer intervals.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        UserError: There are no results, or methods were scored on different instances.
    """
    scored = align(results.filter(pc.equal(results["benchmark"], benchmark)), metric)
    sizes = np.array(scored.instances["size"].to_pylist())
    subsets = {"overall": np.ones(len(sizes), bool)}
    for size in SIZES:
        subsets[size] = sizes == size
    return _fill(benchmark, scored, subsets, clicks, metric, cluster, resamples, seed)


def seam_pole_table(
    results: pa.Table,
    benchmarks: Sequence[str] | None = None,
    *,
    clicks: Sequence[int] = CLICKS,
    metric: str = "iou",
    cluster: str = "image_id",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Table:
    """The instances that cross the seam or touch a pole, of several benchmarks: Table 7.

    Args:
        results: With the schema `sap_model.evaluate.results.RESULTS`.
        benchmarks: Those to take, the paper's PAV-SOD and HunyuanWorld-1.0; all by default.
        clicks, metric, cluster, resamples, seed: As for `size_table`.

    Raises:
        UserError: There are no results, or methods were scored on different instances.
    """
    if benchmarks is not None:
        results = results.filter(pc.is_in(results["benchmark"], pa.array(benchmarks, pa.string())))
    scored = align(results, metric)
    either = scored.seam_or_pole()
    subsets = {
        "seam or pole": either,
        "seam": scored.flag("crosses_seam"),
        "pole": scored.flag("touches_pole"),
        "elsewhere": ~either,
    }
    title = "Seam and poles: " + ", ".join(pc.unique(results["benchmark"]).to_pylist())
    return _fill(title, scored, subsets, clicks, metric, cluster, resamples, seed)


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
    return rows + [Row(f"{ORACLE} (ceiling)", "ceiling", (name,)) for name in ceilings]


def _rank(name: Name) -> tuple[int, str, int, str]:
    """By model in the order of their sizes, then by method."""
    method, model = name
    size = _MODELS.index(model) if model in _MODELS else len(_MODELS)
    place = _FIRST.index(method) if method in _FIRST else len(_FIRST) + (method == _LAST)
    return size, model, place, method


def _label(name: Name) -> str:
    size = "base" if name.model == "base_plus" else name.model
    return _LABELS.get(name.method, f"{name.method}-{{}}").format(size).removesuffix("-")


def _fill(
    title: str,
    scored: ScoredObject,
    subsets: dict[str, NDArray[np.bool_]],
    clicks: Sequence[int],
    metric: str,
    cluster: str,
    resamples: int,
    seed: int,
) -> Table:
    bootstrap = Bootstrap(scored.clusters(cluster), resamples, seed)
    columns = [Column(n, name, chosen) for n in clicks for name, chosen in subsets.items()]
    rows = arrange(scored.scores)
    cells = [[_estimate(row, column, scored, bootstrap) for column in columns] for row in rows]
    return Table(title, metric, cluster, resamples, seed, columns, rows, cells)


def _estimate(
    row: Row, column: Column, scored: ScoredObject, bootstrap: Bootstrap
) -> Estimate | None:
    plus = [scored.of(method, column.clicks) for method in row.plus]
    minus = [scored.of(method, column.clicks) for method in row.minus]
    known = [scores for scores in plus + minus if scores is not None]
    if len(known) < len(plus) + len(minus):
        return None
    values = np.mean(known[: len(plus)], axis=0)
    if minus:
        values = values - np.mean(known[len(plus) :], axis=0)
    return bootstrap.mean(values, column.chosen)


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
        "panoramas": cell.panoramas,
    }
