"""Results to tables: EVAL/tables.md, tables.json and results.parquet."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.outputs import write_atomic, write_json
from sap_model.evaluation.results import METRICS, RESULTS, check_results
from sap_model.evaluation.tables import CLICKS, seam_pole_table, size_table


def read_methods(folder: Path, methods: tuple[str, ...]) -> tuple[pa.Table, dict[str, list[float]]]:
    """All rows that were evaluated, and the seconds of each panorama, by method.

    Raises:
        UserError: There are none, or a file is damaged.
    """
    tables: list[pa.Table] = []
    seconds: dict[str, list[float]] = {}
    for method in methods:
        for path in sorted((folder / "results" / method).glob("*.parquet")):
            try:
                table = pq.read_table(path)
            except (OSError, pa.ArrowException):
                raise UserError(f"{path} is damaged; delete it and run the same again") from None
            tables.append(table)
            taken = (table.schema.metadata or {}).get(b"seconds", b"nan")
            seconds.setdefault(method, []).append(float(taken))
    if not tables:
        raise UserError(f"{folder} holds no results yet; run make eval")
    return pa.concat_tables(tables), seconds


def write_report(folder: Path, methods: tuple[str, ...], benchmark: str, rounds: int) -> str:
    """Write the tables of an evaluation; returns them as Markdown.

    Raises:
        UserError: Methods were not evaluated on the same instances.
    """
    found, seconds = read_methods(folder, methods)
    results = check_results(found.select(RESULTS.names), str(folder))
    clicks = [number for number in CLICKS if number <= rounds] or [rounds]
    tables = [
        size_table(results, benchmark, clicks=clicks),
        seam_pole_table(results, clicks=clicks),
    ]
    tables += [size_table(results, benchmark, clicks=clicks, metric=m) for m in METRICS[1:]]
    panoramas = len(set(results["image_id"].to_pylist()))
    lines = [f"# {benchmark}: {panoramas} panoramas\n"]
    lines += [table.markdown() for table in tables]
    lines += ["| method | seconds a panorama |", "|---|---:|"]
    lines += [f"| {m} | {sum(taken) / len(taken):.1f} |" for m, taken in seconds.items()]
    text = "\n".join(lines) + "\n"
    file = io.BytesIO()
    pq.write_table(results, file, compression="zstd")
    write_atomic(folder / "results.parquet", file.getvalue())
    write_json(folder / "tables.json", {"tables": [table.json() for table in tables]})
    write_atomic(folder / "tables.md", text.encode())
    return text
