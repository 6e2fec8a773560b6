"""The tables of the ablations beside the paper's figures: ablations.md and ablations.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import __version__
from pipeline.layout import write_json
from pipeline.storage import write_atomic
from pipeline.units import format_count
from sap_model.evaluate.results import METRICS, Name, align
from sap_model.evaluate.tables import Row, Table, fill, size_subsets

BENCHMARK = "validation"
"""The name of the data in results."""

PAPER = ("PAV-SOD", "HunyuanWorld-1.0")
"""Benchmarks of the paper's tables 4 to 6."""


class Line(NamedTuple):
    """A row: a variant, what the table calls it, and the paper's overall mIoU on `PAPER`."""

    variant: str
    label: str
    paper: tuple[float, float]


_FULL = (77.3, 77.4)
TABLES = {
    "Table 4, training data": (
        Line("only-crops", "only SAM2's data (here: crops)", (60.0, 47.4)),
        Line("only-panoramas", "only panoramas", (67.3, 71.8)),
        Line("both", "both", _FULL),
    ),
    "Table 5, strategy": (
        Line("no-scan", "without scan", (73.0, 76.1)),
        Line("no-overlap", "scan without overlap", (66.5, 72.0)),
        Line("both", "scan with overlap", _FULL),
    ),
    "Table 6, views": (
        Line("erp", "patches of the panorama", (72.6, 76.4)),
        Line("both", "perspective", _FULL),
    ),
}
"""The paper's tables; the last row of each is the full method, from which the others differ."""


def write(
    results: pa.Table,
    run: Path,
    trained_on: dict[str, Any],
    made: dict[str, dict[str, Any]],
    scored: dict[str, Any],
) -> str:
    """Write ablations.md and ablations.json; returns the former.

    Args:
        results: Of all variants, each under its name as the method.
        run: RUN.
        trained_on: What `nano.contents` says of the data.
        made: Settings, their hash and the weights' SHA-256 of each variant.
        scored: What was scored of the validation split.
    """
    tables = make(results)
    figures = {title: paper_figures(lines) for title, lines in TABLES.items()}
    evaluated = {
        "scenes": pc.count_distinct(results["scene_id"]).as_py(),
        "panoramas": pc.count_distinct(results["image_id"]).as_py(),
        "objects": tables[0].json()["columns"][0]["instances"],
        "settings": scored,
    }
    content = {
        "version": __version__,
        "train": trained_on,
        "validation": evaluated,
        "variants": made,
        "tables": [
            {
                **table.json(),
                "paper": {
                    name: [row[k] for row in figures[table.title]] for k, name in enumerate(PAPER)
                },
            }
            for table in tables
        ],
    }
    write_json(run / "ablations.json", content)
    parts = [
        "# The paper's ablations at nano scale\n",
        caveats(made["both"]["settings"]),
        facts(trained_on, evaluated, made["both"]["settings"]),
        *(beside(table, figures[table.title]) for table in tables),
        rests_on(made),
    ]
    text = "\n".join(parts)
    write_atomic(run / "ablations.md", text.encode())
    return text


def make(results: pa.Table) -> list[Table]:
    """Tables 4, 5 and 6: the variants, then what the full method has over each of the others.

    Differences are paired by instance, so their intervals are narrower than the variants'.
    """
    clicks = sorted({1, pc.max(results["clicks"]).as_py()})
    scored = align(results)
    (model,) = {name.model for name in scored.scores}
    subsets = size_subsets(scored)
    tables = []
    for title, lines in TABLES.items():
        rows = [Row(line.label, "score", (Name(line.variant, model),)) for line in lines]
        *others, full = rows
        for other in others:
            label = f"({full.label} - {other.label})"
            rows.append(Row(label, "difference", full.plus, other.plus))
        tables.append(fill(title, scored, rows, subsets, clicks, METRICS[0]))
    return tables


def paper_figures(lines: tuple[Line, ...]) -> list[tuple[float, ...]]:
    """The paper's figures on `PAPER` for the rows that `make` gives a table, in percent."""
    *others, full = lines
    gains = [
        tuple(round(a - b, 1) for a, b in zip(full.paper, other.paper, strict=True))
        for other in others
    ]
    return [line.paper for line in lines] + gains


def beside(table: Table, figures: list[tuple[float, ...]]) -> str:
    """A table in Markdown with the paper's figures as further columns."""
    about, grid = table.markdown().strip().split("\n\n")
    signs = ["+" if row.kind == "difference" else "" for row in table.rows]
    cells = [[f"{x:{sign}.1f}" for x in row] for sign, row in zip(signs, figures, strict=True)]
    counts = [[""] * len(PAPER)] * 2  # instances and scenes
    more = [[f"paper: {name}" for name in PAPER], ["---:"] * len(PAPER), *cells, *counts]
    lines = [
        f"{line} {' | '.join(own)} |" for line, own in zip(grid.splitlines(), more, strict=True)
    ]
    return f"{about}\n\n" + "\n".join(lines) + "\n"


def caveats(settings: dict[str, Any]) -> str:
    """What the tables can say and what they cannot."""
    return (
        f"The paper's columns are overall mIoU after 1 click of SAM2-large, trained on 183,440 "
        f"panoramas of 4K and on SAM2's own data. Ours are of a {settings['size']} model at "
        f"{settings['image_size']}² pixels, on other panoramas, after "
        f"{format_count(settings['steps'], 'step')}: "
        "compare differences between rows, never figures with the paper's, and expect that some "
        "differences come out otherwise at this scale.\n\n"
        "- **Stand-ins.** In place of SA-1B and SA-V there are perspective crops of the same "
        f"panoramas, {_videos(settings)}. So “only SAM2's data” has seen our scenes, "
        "which SAM2's own data have not. In place of SAM2's pretrained weights, every variant "
        "begins with the same weights, which were trained on such crops.\n"
        "- **Mixing.** Every step is made from one source, which is drawn by its weight, as in "
        "SAM2's training; the loss is the mean over objects and the sum over frames.\n"
        "- **One training run each.** Intervals say how the figures depend on the scenes that are "
        "evaluated, not on the seed of training.\n"
    )


def _videos(settings: dict[str, Any]) -> str:
    frames, turn = settings["crop_frames"], settings["crop_step"]
    if frames == 1:
        return "single images"
    return f"videos of {frames} frames by a camera that turns by up to {turn:g}° a frame"


def facts(trained_on: dict[str, Any], evaluated: dict[str, Any], settings: dict[str, Any]) -> str:
    """What was trained on and what was evaluated, as a list."""
    most = evaluated["settings"]["objects"]
    steps, clips = (
        format_count(settings["steps"], "step"),
        format_count(settings["batch_size"], "clip"),
    )
    return (
        f"- trained on {format_count(trained_on['panoramas'], 'panorama')} of "
        f"{format_count(len(trained_on['scenes']), 'scene')}: {steps} of {clips} with "
        f"{format_count(settings['clip_objects'], 'object')} each\n"
        f"- evaluated on {format_count(evaluated['objects'], 'object')}"
        + (f" (at most {most} of a panorama)" if most else "")
        + f" in {format_count(evaluated['panoramas'], 'panorama')} of "
        f"{format_count(evaluated['scenes'], 'scene')} of the validation split\n"
        f"- version {__version__}\n"
    )


def rests_on(made: dict[str, dict[str, Any]]) -> str:
    """What the figures of each variant rest on."""
    lines = ["| variant | method | mix | settings | weights |", "|---" * 5 + "|"]
    for name, about in made.items():
        settings = about["settings"]
        mix = ", ".join(f"{source} {share:.0%}" for source, share in settings["mix"])
        cells = [name, settings["method"], mix, about["hash"], about["weights_sha256"][:12]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
