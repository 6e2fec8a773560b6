"""Results of an evaluation: a row per method, model, instance and number of clicks, in Parquet.

The evaluator writes `RESULTS`; tables and intervals are made from it alone, so that a new table
never needs a new run. Scores are of `sap_model.metrics`. An instance whose prediction is perfect
after a click gets no further one; its rows with more clicks repeat the score.

`oracle` is a method like any other: the truth, taken through the views and back. No model that
works on these views can be expected to score higher. It has no model and needs no clicks: its rows
have an empty `model`, and one number of clicks is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.annotations.sizes import SIZES
from pipeline.errors import UserError

ORACLE = "oracle"
METRIC_NAMES = {
    "iou": "IoU",
    "spherical_iou": "IoU by solid angle",
    "boundary_iou": "boundary IoU",
}
METRICS = tuple(METRIC_NAMES)
"""Columns that hold scores; the first is the paper's."""

_FIELDS: dict[str, pa.DataType] = {
    "method": pa.string(),  # as `eval_settings.label_of` names it, such as sam2, sap, sap-mean
    "model": pa.string(),  # size, such as tiny
    "benchmark": pa.string(),
    "scene_id": pa.string(),  # as in the shards; a video's frames share one
    "image_id": pa.string(),
    "object_id": pa.int32(),
    "area": pa.int64(),  # pixels
    "size": pa.string(),
    "crosses_seam": pa.bool_(),
    "touches_pole": pa.bool_(),
    "clicks": pa.int32(),  # how many the method was given, from 1
    **dict.fromkeys(METRICS, pa.float64()),
}
RESULTS = pa.schema([pa.field(name, kind, nullable=False) for name, kind in _FIELDS.items()])
"""The one schema of results; columns with the shards' names mean what they mean there."""

INSTANCE = ("benchmark", "image_id", "object_id")
"""Columns that name an instance."""

_RUN = ("method", "model", "clicks")
_OF_AN_INSTANCE = (*INSTANCE, "scene_id", "area", "size", "crosses_seam", "touches_pole")


def read_results(paths: Sequence[Path]) -> pa.Table:
    """Results from Parquet files, or from all `*.parquet` of folders, one after the other.

    Raises:
        UserError: There are none, or one is no such file; or as for `check_results`.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.parquet")) or [path])]
    tables = []
    for file in files:
        try:
            tables.append(check_results(pq.read_table(file), str(file)))
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file} cannot be read as Parquet ({error}); evaluate again") from None
    if not tables:
        raise UserError("no results were named; give files or folders that the evaluation wrote")
    return check_results(pa.concat_tables(tables), "the results together")


def check_results(table: pa.Table, where: str) -> pa.Table:
    """The table in the types of `RESULTS`.

    Args:
        table: Any table.
        where: What the user knows it by.

    Raises:
        UserError: Columns are missing or of other types, a value is missing or out of its range,
            or a method, model, instance and number of clicks occurs twice.
    """
    missing = [name for name in RESULTS.names if name not in table.column_names]
    if missing:
        raise UserError(f"{where}: no results, columns {', '.join(missing)} are missing")
    try:
        table = table.select(RESULTS.names).cast(RESULTS)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{where}: no results, {str(error).splitlines()[0]}") from None
    for metric in METRICS:
        values = table[metric].to_numpy()
        if not ((values >= 0) & (values <= 1)).all():
            raise UserError(f"{where}: {metric} is not within 0 and 1 everywhere; evaluate again")
    if not pc.all(pc.is_in(table["size"], pa.array(SIZES))).as_py() and len(table):
        raise UserError(f"{where}: sizes other than {', '.join(SIZES)}; evaluate again")
    if len(table.group_by([*_RUN, *INSTANCE]).aggregate([])) != len(table):
        raise UserError(
            f"{where}: a method has more than one result for an instance and number of clicks; "
            "leave out the older files"
        )
    return table


class Name(NamedTuple):
    """A method with a model."""

    method: str
    model: str

    @property
    def is_oracle(self) -> bool:
        return self.method.split("-")[0] == ORACLE  # whatever the fusion


class ScoredObject(NamedTuple):
    """Results turned so that all methods' scores of an instance are in one place.

    Attributes:
        instances: What is known of the N instances, in the order of their names.
        scores: (N,) float64 of each method, by number of clicks.
    """

    instances: pa.Table
    scores: Mapping[Name, Mapping[int, NDArray[np.float64]]]

    def of(self, name: Name, clicks: int) -> NDArray[np.float64] | None:
        """Scores (N,) of a method after some clicks; the oracle's do not depend on clicks."""
        found = self.scores.get(name, {})
        if name.is_oracle and clicks not in found:
            return next(iter(found.values()), None)
        return found.get(clicks)

    def seam_or_pole(self) -> NDArray[np.bool_]:
        """(N,) bool: the subset of the paper's Table 7."""
        return self.flag("crosses_seam") | self.flag("touches_pole")

    def flag(self, name: str) -> NDArray[np.bool_]:
        """A boolean column of the instances (N,)."""
        return self.instances[name].to_numpy()

    def scenes(self) -> NDArray[np.int64]:
        """(N,) the number, from 0, of the scene of each instance in its benchmark.

        Panoramas of a scene, and frames of a video, depend on each other.
        """
        pairs = zip(
            *(self.instances[name].to_pylist() for name in ("benchmark", "scene_id")), strict=True
        )
        numbers: dict[tuple[str, str], int] = {}
        return np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs], np.int64)


def align(table: pa.Table, metric: str = "iou") -> ScoredObject:
    """Line up the scores of all methods, and make sure that they are of the same instances.

    Args:
        table: Results of one benchmark or of several.
        metric: One of `METRICS`.

    Raises:
        UserError: There are no results, or two methods were scored on different instances.
    """
    if not len(table):
        raise UserError("there are no results to make a table of; evaluate first")
    table = table.sort_by([(column, "ascending") for column in (*_RUN, *INSTANCE)])
    scores: dict[Name, dict[int, NDArray[np.float64]]] = {}
    instances, first = table.select(_OF_AN_INSTANCE).slice(0, 0), ""
    runs = table.group_by(list(_RUN)).aggregate([]).sort_by([(c, "ascending") for c in _RUN])
    for run in runs.to_pylist():
        rows = table
        for column in _RUN:
            rows = rows.filter(pc.equal(rows[column], run[column]))
        known = rows.select(_OF_AN_INSTANCE).combine_chunks()
        told = f"{run['method']} {run['model']} with {run['clicks']} click(s)"
        if not scores:
            instances, first = known, told
        elif not known.equals(instances):
            raise UserError(
                f"{first} and {told} were not scored on the same instances ({len(instances)} and "
                f"{len(known)}); evaluate both to the end on the same shards"
            )
        of_clicks = scores.setdefault(Name(run["method"], run["model"]), {})
        of_clicks[run["clicks"]] = rows[metric].to_numpy()
    return ScoredObject(instances, scores)
