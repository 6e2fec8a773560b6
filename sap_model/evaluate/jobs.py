"""Which panoramas are to be evaluated, and which are done already.

    EVAL/results/<benchmark>/<method>[-<size>]/
      method.json               what the results rest on; others are refused
      runtime.json              device, precision and batch; others are refused
      <panorama>.parquet        marker: this panorama is evaluated

A result belongs to a panorama as it was: its file bears a fingerprint of the annotations, so that
another panorama of the same name, or a damaged file, is evaluated again. A dataset may grow.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.layout import LEFTOVER, read_json, write_json
from pipeline.shards.reader import ShardReader
from sap_model.evaluate.eval_settings import EvalSettings, label_of, model_of

ANNOTATIONS = (
    "image_id",
    "width",
    "objects.list.element.id",
    "objects.list.element.solid_angle",
    "objects.list.element.click.list.element",
    "objects.list.element.bbox.list.element",
    "provenance.settings_hash",
)
"""What a fingerprint is made of: cheap to read, and no two panoramas have it in common."""

FINGERPRINT = b"panorama"


@dataclass(frozen=True)
class PanoramaRef:
    """A panorama of the data."""

    index: int
    image_id: str
    fingerprint: str


@dataclass(frozen=True)
class Job:
    """A method on a panorama."""

    method: str
    panorama: PanoramaRef


def panoramas(settings: EvalSettings, reader: ShardReader) -> list[PanoramaRef]:
    """The panoramas to evaluate: all, or `limit` evenly spaced ones."""
    count, limit = len(reader), settings.limit
    limit = min(limit or count, count)
    indices = {i * count // limit for i in range(limit)}
    return [
        PanoramaRef(index, row["image_id"], _hash(row))
        for index, row in enumerate(reader.annotations(ANNOTATIONS))
        if index in indices
    ]


def _hash(row: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def benchmark_folder(folder: Path, settings: EvalSettings) -> Path:
    """Where the results of all methods on a benchmark lie in EVAL."""
    return folder / "results" / re.sub(r"[^\w.-]+", "-", settings.benchmark)


def method_folder(folder: Path, settings: EvalSettings, method: str) -> Path:
    """Where the results of a method lie in EVAL."""
    parts = [label_of(settings, method), model_of(settings, method)]
    return benchmark_folder(folder, settings) / "-".join(filter(None, parts))


def result_path(folder: Path, settings: EvalSettings, job: Job) -> Path:
    """Where a panorama's results are; image ids hold letters, digits, `-`, `_`, `.` and one `/`."""
    name = job.panorama.image_id.replace("/", "-")
    return method_folder(folder, settings, job.method) / f"{name}.parquet"


def pending_jobs(settings: EvalSettings, folder: Path, wanted: list[PanoramaRef]) -> Iterator[Job]:
    """What has no result yet, method by method."""
    for method in settings.methods:
        for panorama in wanted:
            job = Job(method, panorama)
            if fingerprint_of(result_path(folder, settings, job)) != panorama.fingerprint:
                yield job


def fingerprint_of(path: Path) -> str | None:
    """Of which panorama a file holds the results; None if there is no whole file."""
    try:
        return (pq.read_schema(path).metadata or {}).get(FINGERPRINT, b"").decode()
    except (OSError, pa.ArrowException, ValueError):
        return None


def check_provenance(
    folder: Path, settings: EvalSettings, method: str, rests_on: dict[str, Any]
) -> None:
    """Refuse results of other settings; sweep what a killed process left."""
    path = method_folder(folder, settings, method) / "method.json"
    if path.exists():
        known = read_json(path)
        _refuse_others(path, known, rests_on)
        for leftover in path.parent.iterdir():
            if LEFTOVER.fullmatch(leftover.name):
                leftover.unlink()
    else:
        write_json(path, rests_on)


def check_runtime(
    folder: Path, settings: EvalSettings, method: str, runtime: dict[str, Any]
) -> None:
    """Refuse to add results to those of another device, precision or batch.

    Args:
        folder: EVAL.
        settings, method: Of the evaluation.
        runtime: `device` ("cpu" or "cuda"), `precision`, `batch` and whether the encoder is
            `compiled`, of the process that calls this.

    Raises:
        UserError: The folder's results, or another process's, were made with others.
    """
    path = method_folder(folder, settings, method) / "runtime.json"
    if not path.exists():
        write_json(path, runtime)
    _refuse_others(path, read_json(path), runtime)  # of several first processes the last one wins


def _refuse_others(path: Path, known: dict[str, Any], mine: dict[str, Any]) -> None:
    differing = sorted(k for k in known.keys() | mine if known.get(k) != mine.get(k))
    if differing:
        raise UserError(
            f"{path.parent} holds results of other settings ({', '.join(differing)} differ); "
            "choose another EVAL, or delete that folder"
        )
