"""Results to tables: EVAL/tables.md, tables.json and results.parquet.

An EVAL may hold several benchmarks, methods and model sizes, evaluated by several calls; all of
them are reported. Of each benchmark those panoramas count that the call at hand asked for, or else
those that all of its methods have; a method that has not all of them is left out, and said so.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.annotations.sizes import SIZES
from pipeline.errors import UserError
from pipeline.layout import read_json, write_json
from pipeline.storage import exclusive_lock, write_atomic
from pipeline.units import format_count
from sap_model.evaluate.jobs import PanoramaRef, fingerprint_of
from sap_model.evaluate.results import METRICS, RESULTS, check_results
from sap_model.evaluate.tables import CLICKS, Table, seam_pole_table, size_table

THRESHOLDS = "thresholds.json"
"""Of a benchmark's folder: the areas from which its objects are medium and large."""


@dataclass
class Evaluated:
    """A method's results on a benchmark, panorama by panorama.

    Attributes:
        about: What they rest on (`method.json` and `runtime.json`).
        tables: With `prediction` and `points`, by fingerprint.
        seconds: What each took.
        machines: Names of the GPUs or CPUs that did the work.
    """

    name: str
    about: dict[str, Any]
    tables: dict[str, pa.Table] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    machines: set[str] = field(default_factory=set)


def read_benchmark(
    folder: Path, wanted: list[PanoramaRef] | None = None
) -> tuple[list[Evaluated], list[str]]:
    """The methods that have all panoramas, and a line about each that has not.

    Args:
        folder: EVAL/results/<benchmark>.
        wanted: The panoramas; those that all methods have, where it is None.

    Raises:
        UserError: There are none, or a file is damaged.
    """
    found = [_read_method(path) for path in sorted(folder.glob("*/method.json"))]
    found = [method for method in found if method.tables]
    if wanted is None:
        kept = set.intersection(*(set(method.tables) for method in found)) if found else set()
    else:
        kept = {panorama.fingerprint for panorama in wanted}
    whole = [method for method in found if kept and kept <= set(method.tables)]
    notes = [
        f"{method.name}: {len(kept & set(method.tables))} of {len(kept)} panoramas; left out"
        for method in found
        if method not in whole
    ]
    for method in whole:
        method.tables = {mark: method.tables[mark] for mark in sorted(kept)}
    if not whole:
        raise UserError(f"{folder} holds no results of all panoramas yet; run make eval")
    return whole, notes


def _read_method(path: Path) -> Evaluated:
    runtime = path.with_name("runtime.json")  # the oracle has none
    about = read_json(path) | (read_json(runtime) if runtime.exists() else {})
    method = Evaluated(path.parent.name, about)
    for file in sorted(path.parent.glob("*.parquet")):
        mark = fingerprint_of(file)
        if mark is None:
            raise UserError(f"{file} is damaged; delete it and run the same command again")
        table = pq.read_table(file)
        method.tables[mark] = table.replace_schema_metadata(None)
        metadata = table.schema.metadata or {}
        method.seconds.append(float(metadata.get(b"seconds", b"nan")))
        method.machines.add(metadata.get(b"machine", b"unknown").decode())
    return method


def write_report(
    folder: Path,
    benchmark: str,
    wanted: list[PanoramaRef],
    thresholds: tuple[float, float] | None = None,
) -> str:
    """Write the tables of an evaluation; returns them as Markdown.

    Args:
        folder: EVAL.
        benchmark: Folder name of the benchmark that was just evaluated.
        wanted: Its panoramas.
        thresholds: Areas in pixels from which its objects are medium and large, kept for later
            reports; by default sizes are those of the shards.
    """
    with exclusive_lock(folder / ".lock", "reporting on"):
        kept = folder / "results" / benchmark / THRESHOLDS
        if thresholds is not None:
            write_json(kept, {"medium": thresholds[0], "large": thresholds[1]})
        else:
            kept.unlink(missing_ok=True)
        lines, tables, rows = [], [], []
        methods: list[Evaluated] = []
        for path in sorted((folder / "results").iterdir()):
            mine = path.name == benchmark
            try:
                whole, notes = read_benchmark(path, wanted if mine else None)
            except UserError as error:
                if mine:
                    raise
                lines.append(f"{path.name} is left out: {error}\n")  # not this call's business
                continue
            results, note = _resize(_join(whole), path / THRESHOLDS)
            name, clicks = whole[0].about["benchmark"], _clicks(whole)
            lines.append(f"# {name}: {len(whole[0].tables)} panoramas\n")
            of_name = [
                size_table(results, name, clicks=clicks, metric=metric) for metric in METRICS
            ]
            lines += [*(table.markdown() for table in of_name), note, _rests_on(whole), *notes, ""]
            tables += of_name
            rows.append(results)
            methods += whole
        lines.append(_add_seam(rows, methods, tables))
        text = "\n".join(lines) + "\n"
        file = io.BytesIO()
        pq.write_table(pa.concat_tables(rows), file, compression="zstd")
        write_atomic(folder / "results.parquet", file.getvalue())
        about = [method.about for method in methods]
        content = {"tables": [table.json() for table in tables], "methods": about}
        write_json(folder / "tables.json", content)
        write_atomic(folder / "tables.md", text.encode())
    return text


def _add_seam(rows: list[pa.Table], methods: list[Evaluated], tables: list[Table]) -> str:
    """The table of seam and poles over all benchmarks, if all methods were run on all of them."""
    try:
        together = pa.concat_tables(rows)
        table = seam_pole_table(together, clicks=_clicks(methods))
    except UserError:
        table = seam_pole_table(rows[0], clicks=_clicks(methods))
    tables.append(table)
    return table.markdown()


def _join(methods: list[Evaluated]) -> pa.Table:
    tables = [table for method in methods for table in method.tables.values()]
    return check_results(pa.concat_tables(tables).select(RESULTS.names), "the results together")


def _resize(results: pa.Table, path: Path) -> tuple[pa.Table, str]:
    """Results with the sizes that a file of thresholds gives their areas, and a note that says so;
    as they are without such a file."""
    if not path.exists():
        return results, ""
    limits = read_json(path)
    area = results["area"].to_numpy()
    number = (area >= limits["medium"]).astype(int) + (area >= limits["large"])
    sizes = pa.array(np.array(SIZES)[number], pa.string())
    index = results.schema.get_field_index("size")
    note = (
        f"Medium from {limits['medium']:g} pixels, large from {limits['large']:g} "
        "(SIZE_THRESHOLDS).\n"
    )
    return results.set_column(index, results.schema.field(index), sizes), note


def _clicks(methods: list[Evaluated]) -> list[int]:
    """The paper's numbers of clicks, and the last that was given."""
    rounds = max(method.about["clicks"] for method in methods)
    return sorted({number for number in CLICKS if number <= rounds} | {rounds})


def _rests_on(methods: list[Evaluated]) -> str:
    """What the figures of each method rest on, and what a panorama took."""
    lines = [
        "| method | weights | views | fusion | cycles | objects | computed in | seconds each |",
        "|---" * 8 + "|",
    ]
    for method in methods:
        about, seconds = method.about, method.seconds
        weights = about.get("weights_sha256", "none")[:12]
        objects = about["objects"] or "all"
        objects = objects if about["structure"] else f"{objects}, no structure"
        cycles = f"{about['cycles']}, {about['visits']} visits count, {about['prompted']} prompted"
        where = f"{about.get('precision', '')} on {', '.join(sorted(method.machines))}"
        if "batch" in about:
            where += f", {format_count(about['batch'], 'object')} at a time"
        cells = [method.name, weights, f"{about['image_size']}²", about["fusion"], cycles]
        cells += [str(objects), where.strip()]
        lines.append(f"| {' | '.join(cells)} | {sum(seconds) / len(seconds):.1f} |")
    return "\n".join(lines) + "\n"
