"""Figures of a dataset's statistics: PNG files for a width of 800 pixels on the page.

They are drawn without pyplot, which keeps global state, and saved without dates and versions, so
that equal statistics give equal bytes. The palette is Okabe and Ito's, for colour-blind readers.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    MultipleLocator,
    NullFormatter,
    NullLocator,
)
from numpy.typing import NDArray

from pipeline.annotations.sizes import SIZES
from pipeline.statistics.counts import solid_angle_edges
from pipeline.storage import disk_full_as_user_error, write_atomic

OBJECTS, STRUCTURE, PAPER = "#0072B2", "#E69F00", "#7F7F7F"
OBJECTS_LIGHT = "#7FB8D8"
INK, FAINT = "#222222", "#666666"

INCHES_WIDE, DPI = 8.0, 200
"""1600 pixels. Shown at half the size, one point of type is 1.4 pixels."""

TEXT, TITLE = 11, 14
MAX_CATEGORIES = 30
MAX_BINS = 40

MIN_PER_CELL, COARSER = 4, 3
"""With fewer objects per cell on average, cells of positions are merged 3 × 3."""

Statistics = dict[str, Any]


def draw_figures(statistics: Statistics, folder: Path) -> list[Path]:
    """Draw all figures of the statistics of `pipeline.statistics.measure`.

    Returns:
        The files: sizes.png, instances.png, categories.png, solid_angles.png and positions.png.

    Raises:
        UserError: The disk is full; figures that were written stay.
    """
    figures = {
        "sizes": sizes(statistics),
        "instances": instances(statistics),
        "categories": categories(statistics),
        "solid_angles": solid_angles(statistics),
        "positions": positions(statistics),
    }
    paths = []
    full = f"no room for figures in {folder}; free some space and run the same command again"
    for name, figure in figures.items():
        path, data = folder / f"{name}.png", png(figure)
        with disk_full_as_user_error(full):
            write_atomic(path, data)
        paths.append(path)
    return paths


def png(figure: Figure) -> bytes:
    """Encode a figure as PNG, without metadata that changes."""
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()


def sizes(statistics: Statistics) -> Figure:
    """Shares of small, medium and large instances, compared with the paper's."""
    total, paper = statistics["total"], statistics["paper"]["sizes_percent"]
    figure, axes = _figure("Sizes of the instances", _thresholds(statistics), height=4.6)
    series = {
        "all instances": (OBJECTS, [total["instances"]["sizes"][s]["percent"] for s in SIZES]),
        "without structure": (
            OBJECTS_LIGHT,
            [total["objects"]["sizes"][s]["percent"] for s in SIZES],
        ),
        "the paper's dataset": (PAPER, [paper[s] for s in SIZES]),
    }
    longest = max(max(values) for _, values in series.values())
    for place, (name, (colour, values)) in enumerate(series.items()):
        for group, value in enumerate(values):
            y = group + (place - 1) * 0.27
            axes.barh(y, value, height=0.25, color=colour)
            label = f" {value:.1f} %" + (f"  {name}" if group == 0 else "")
            axes.text(value, y, label, va="center", fontsize=TEXT, color=INK)
    axes.set_yticks(range(len(SIZES)), SIZES)
    axes.invert_yaxis()
    axes.set_xlim(0, max(longest * 1.4, 1))
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    return figure


def instances(statistics: Statistics) -> Figure:
    """Histogram of the instances per panorama, with the means of the dataset and the paper."""
    total = statistics["total"]
    histogram = np.array(total["instances"]["per_panorama"]["histogram"]).reshape(-1, 2)
    mean = total["instances"]["per_panorama"].get("mean", 0.0)
    paper = statistics["paper"]["masks_per_panorama"]
    figure, axes = _figure(
        "Instances per panorama",
        f"{total['panoramas']:,} panoramas, walls, floors and ceilings included",
    )
    high = max(histogram[:, 0].max(initial=0), round(paper))
    step = next(step for step in (1, 2, 5, 10, 20, 50, 10**4) if high / step < MAX_BINS)
    edges = np.arange(0, high + step + 1, step)
    heights, _ = np.histogram(histogram[:, 0], bins=edges, weights=histogram[:, 1])
    axes.bar(edges[:-1], heights, width=step * 0.92, align="edge", color=OBJECTS)
    top = max(heights.max(initial=0), 1) * 1.25
    marks = [(paper, f"the paper: {paper}", PAPER), (mean, f"this dataset: {mean:.1f}", INK)]
    for (value, label, colour), other in zip(marks, (mean, paper), strict=True):
        axes.plot([value, value], [0, top * 0.93], color=colour, linewidth=2)
        left = value < other
        axes.text(
            value,
            top * 0.97,
            f"{label} " if left else f" {label}",
            ha="right" if left else "left",
            va="top",
            fontsize=TEXT,
            fontweight="bold",
            color=colour,
        )
    axes.set_ylim(0, top)
    axes.set_xlim(0, max(edges[-1], 1.35 * max(mean, paper)))  # space for the right label
    axes.set_xlabel(f"instances in a panorama (bars of {step})", fontsize=TEXT)
    _count_axis(axes, "panoramas")
    return figure


def categories(statistics: Statistics) -> Figure:
    """The most frequent categories, and the share of panoramas that show them."""
    total = statistics["total"]
    shown = total["categories"][:MAX_CATEGORIES]
    others = len(total["categories"]) - len(shown)
    figure, axes = _figure(
        "Most frequent categories" if others else "Categories",
        "instances, and the share of the panoramas that show the category"
        + (f"; {others} more categories not shown" if others else ""),
        height=1.6 + 0.26 * max(len(shown), 4),
    )
    longest = max((entry["instances"] for entry in shown), default=1)
    for y, entry in enumerate(shown):
        colour = STRUCTURE if entry["is_structure"] else OBJECTS
        axes.barh(y, entry["instances"], height=0.72, color=colour)
        share = 100 * entry["panoramas"] / total["panoramas"]
        label = f" {entry['instances']:,}  ({share:.0f} %)"
        axes.text(entry["instances"], y, label, va="center", fontsize=TEXT - 1, color=INK)
    axes.set_yticks(
        range(len(shown)), [entry["category"].replace("_", " ") for entry in shown], fontsize=TEXT
    )
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.22)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    _key(axes, 0.98, 0.03)
    return figure


def solid_angles(statistics: Statistics) -> Figure:
    """Histogram of solid angles on a logarithmic scale."""
    total = statistics["total"]
    figure, axes = _figure(
        "How large the instances appear", "solid angle, as seen from the camera", height=4.8
    )
    edges, merged = solid_angle_edges(), 2
    everything = np.array(total["instances"]["solid_angles"]["histogram"])
    objects = np.array(total["objects"]["solid_angles"]["histogram"])
    steps = edges[::merged]
    all_bins, object_bins = (v.reshape(-1, merged).sum(axis=1) for v in (everything, objects))
    axes.stairs(all_bins, steps, fill=True, color=STRUCTURE)
    axes.stairs(object_bins, steps, fill=True, color=OBJECTS)
    seen = np.flatnonzero(all_bins)
    low = seen[0] if seen.size else 0
    axes.set_xscale("log")
    axes.set_xlim(steps[max(low - 3, 0)], 4 * np.pi)
    axes.set_ylim(0, max(all_bins.max(initial=0), 1) * 1.1)
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _count_axis(axes, "instances")
    axes.set_xlabel("solid angle in steradian, ten bars for each power of ten", fontsize=TEXT)
    _degrees_above(axes)
    _key(axes, 0.98, 0.8)
    return figure


def positions(statistics: Statistics) -> Figure:
    """Density of the objects on the sphere, drawn as a panorama."""
    total, degrees = statistics["total"], statistics["position_bins"]["degrees"]
    counts = np.array(total["positions"])
    if counts.sum() < MIN_PER_CELL * counts.size:
        rows, columns = counts.shape
        counts = counts.reshape(rows // COARSER, COARSER, columns // COARSER, COARSER)
        counts, degrees = counts.sum(axis=(1, 3)), degrees * COARSER
    density = position_density(counts, total["panoramas"])
    figure, axes = _figure(
        "Where the objects are in the panorama",
        "centres of their spherical boxes; walls, floors and ceilings are left out",
        height=4.7,
    )
    shown = axes.imshow(
        density, extent=(-180, 180, -90, 90), cmap="cividis", vmin=0, interpolation="nearest"
    )
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_locator(MultipleLocator(60))
    axes.yaxis.set_major_locator(MultipleLocator(30))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}°"))
    axes.set_xlabel(f"longitude (cells of about {degrees}° × {degrees}°)", fontsize=TEXT)
    axes.set_ylabel("latitude", fontsize=TEXT)
    bar = figure.colorbar(shown, cax=axes.inset_axes((1.02, 0.0, 0.02, 1.0)))
    bar.outline.set_visible(False)
    bar.set_label("objects per panorama\nand steradian", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT - 1, colors=FAINT)
    return figure


def position_density(counts: NDArray[np.int64], panoramas: int) -> NDArray[np.float64]:
    """Objects per panorama and steradian, from counts (rows, columns) by latitude and longitude.

    Towards the poles, neighbouring cells of a row are merged so that all cells have about the same
    solid angle: otherwise a single lamp in a cell at the zenith would dominate the figure.
    """
    rows, columns = counts.shape
    edges = np.linspace(np.pi / 2, -np.pi / 2, rows + 1)
    density = np.zeros(counts.shape)
    for row, values in enumerate(counts):
        ideal = columns * np.cos((edges[row] + edges[row + 1]) / 2)
        cells = max(n for n in range(1, columns + 1) if columns % n == 0 and n <= 1.3 * ideal + 1)
        solid_angle = (np.sin(edges[row]) - np.sin(edges[row + 1])) * 2 * np.pi / cells
        merged = values.reshape(cells, -1).sum(axis=1) / (solid_angle * max(panoramas, 1))
        density[row] = np.repeat(merged, columns // cells)
    return density


def _figure(title: str, subtitle: str, height: float = 4.5) -> tuple[Figure, Axes]:
    """An empty figure with title and subtitle at the left, and axes with left and bottom spines."""
    figure = Figure(figsize=(INCHES_WIDE, height), dpi=DPI, facecolor="white")
    figure.text(0.02, 1 - 0.13 / height, title, fontsize=TITLE, weight="bold", va="top", color=INK)
    figure.text(0.02, 1 - 0.43 / height, subtitle, fontsize=TEXT, va="top", color=FAINT)
    axes = figure.subplots()
    figure.set_layout_engine("constrained", rect=(0.01, 0.01, 0.98, 0.98 - 0.72 / height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=TEXT, colors=FAINT, labelcolor=INK)
    return figure, axes


def _thresholds(statistics: Statistics) -> str:
    """The size thresholds of the first resolution, as text."""
    first = statistics["size_thresholds"][0] if statistics["size_thresholds"] else None
    if first is None:
        return ""
    return (
        f"medium from {first['medium_from']:,.0f} pixels, large from "
        f"{first['large_from']:,.0f} pixels at {first['width']} × {first['height']}"
    )


def _count_axis(axes: Axes, label: str) -> None:
    """Format the vertical axis as integers with thousands separators."""
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylabel(label, fontsize=TEXT)


def _key(axes: Axes, x: float, y: float) -> None:
    """A legend of the two colours, right-aligned at (x, y) of the axes."""
    for row, (name, colour) in enumerate({"structure": STRUCTURE, "objects": OBJECTS}.items()):
        axes.annotate(
            f"■ {name}",
            (x, y),
            xycoords="axes fraction",
            xytext=(0, row * 1.5 * TEXT),
            textcoords="offset points",
            ha="right",
            fontsize=TEXT,
            weight="bold",
            color=colour,
        )


def _degrees_above(axes: Axes) -> None:
    """Add a second scale: the diameter, in degrees, of a disc with that solid angle."""
    twin = axes.twiny()
    twin.set_xscale("log")
    twin.set_xlim(axes.get_xlim())
    low, high = axes.get_xlim()
    ticks = {
        degrees: 2 * np.pi * (1 - np.cos(np.radians(degrees) / 2))
        for degrees in (0.1, 0.3, 1, 3, 10, 30, 90, 180)
    }
    ticks = {degrees: value for degrees, value in ticks.items() if low <= value <= high}
    twin.set_xticks(list(ticks.values()), [f"{degrees:g}°" for degrees in ticks])
    twin.xaxis.set_minor_locator(NullLocator())
    twin.tick_params(labelsize=TEXT, colors=FAINT, labelcolor=INK)
    twin.spines[["left", "right", "bottom"]].set_visible(False)
    twin.spines["top"].set_color(FAINT)
    twin.set_xlabel("diameter of a disc that large", fontsize=TEXT)
