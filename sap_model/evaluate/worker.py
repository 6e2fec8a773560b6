"""What one process does: load a model once, then evaluate one panorama after the other.

A result file holds the columns of `sap_model.evaluate.results.RESULTS`, and two more for
the page: `prediction` (run-length counts) and `points` (the clicks, as [x, y, label]).
"""

from __future__ import annotations

import io
import platform
import time
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.shards.reader import ShardReader, decode_image
from pipeline.storage import write_atomic
from sap_model.evaluate.eval_settings import EvalSettings, label_of, model_of
from sap_model.evaluate.jobs import FINGERPRINT, Job, check_runtime, result_path
from sap_model.evaluate.results import ORACLE, RESULTS
from sap_model.evaluate.score_panorama import ObjectResult, score_panorama
from sap_model.predict.memory import default_batch
from sap_model.predict.methods import Method, make
from sap_model.threads import adapt_threads, use_threads

FILE = pa.schema(
    [
        *RESULTS,
        pa.field("prediction", pa.string()),
        pa.field("points", pa.list_(pa.list_(pa.int32()))),
    ]
)


def choose(objects: list[dict[str, Any]], settings: EvalSettings) -> list[dict[str, Any]]:
    """The objects of a panorama that are scored, in their order."""
    kept = [thing for thing in objects if settings.structure or not thing["is_structure"]]
    count, limit = len(kept), settings.objects
    if limit is None or limit >= count:
        return kept
    by_area = sorted(kept, key=lambda thing: (thing["area"], thing["id"]))
    chosen = {by_area[(2 * i + 1) * count // (2 * limit)]["id"] for i in range(limit)}
    return [thing for thing in kept if thing["id"] in chosen]


def machine_of(device: str) -> str:
    """The name of this machine's GPU or CPU, for the record."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else platform.machine()


class Worker:
    """Evaluates panoramas. One lives in each of Ray's processes, for as long as it does."""

    def __init__(self, settings: EvalSettings, folder: Path, threads: int | None = None) -> None:
        """Args:
        settings: The evaluation's.
        folder: EVAL.
        threads: CPU threads that torch and OpenCV may use; all of them by default.
        """
        if threads is not None:
            use_threads(threads)
        self.settings, self.folder, self.threads = settings, folder, threads
        self.machine = machine_of("cpu")
        self.method = lru_cache(maxsize=1)(self._make)  # one model in memory at a time

    @cached_property
    def reader(self) -> ShardReader:
        return ShardReader(self.settings.data, self.settings.split)

    def evaluate(self, job: Job) -> float:
        """Evaluate a method on a panorama; returns the seconds it took, without loading."""
        columns = ["image", "image_id", "scene_id", "objects"]
        row = self.reader.row(job.panorama.index, columns)
        method = self.method(job.method)
        started = time.monotonic()
        things = choose(row["objects"], self.settings)
        rounds = 1 if job.method == ORACLE else self.settings.clicks
        found = score_panorama(method, decode_image(row["image"]), things, rounds)
        table = pa.Table.from_pylist([self._record(job.method, row, one) for one in found], FILE)
        seconds = time.monotonic() - started
        about = {
            FINGERPRINT: job.panorama.fingerprint,
            b"seconds": f"{seconds:.3f}",
            b"machine": self.machine,
        }
        file = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(about), file, compression="zstd")
        write_atomic(result_path(self.folder, self.settings, job), file.getvalue())
        return seconds

    def _make(self, name: str) -> Method:
        settings = self.settings
        weights = settings.weights_of(name)
        model = None
        if weights is not None:
            from sap_model.model.checkpoints import load

            model = load(settings.size, weights, settings.side)
            model.precision = settings.precision
            adapt_threads(model, self.threads)
            device = model.device.type
            batch = settings.max_batch or default_batch(device)
            if settings.compile:
                model.compile_encoder()
            runtime = {
                "device": device,
                "precision": model.computes_in,
                "compiled": settings.compile,
                "batch": batch,
            }
            check_runtime(self.folder, settings, name, runtime)
            self.machine = machine_of(device)
        return make(
            name,
            model,
            settings.scan,
            settings.side,
            settings.fusion,
            settings.corrections,
            cycles=settings.cycles,
            visits=settings.visits,
            prompted=settings.prompted,
            max_batch=settings.max_batch,
        )

    def _record(self, name: str, row: dict[str, Any], one: ObjectResult) -> dict[str, Any]:
        thing = one.thing
        return {
            "method": label_of(self.settings, name),
            "model": model_of(self.settings, name),
            "benchmark": self.settings.benchmark,
            "scene_id": row["scene_id"],
            "image_id": row["image_id"],
            "object_id": thing["id"],
            **{key: thing[key] for key in ("area", "size", "crosses_seam", "touches_pole")},
            "clicks": one.round,
            **one.scores._asdict(),
            "prediction": one.prediction,
            "points": [list(click) for click in one.clicks],
        }
