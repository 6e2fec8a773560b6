"""The card of the weights that ship, as the Hugging Face Hub wants it: weights/README.md.

The words are in model_card.md.jinja; this module says what they are filled with: the records that
`nano.give_away` leaves beside the weights, and the tables of an evaluation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pipeline.errors import UserError
from pipeline.layout import read_json
from pipeline.storage import write_atomic
from pipeline.units import format_bytes
from sap_model.evaluate.intervals import Estimate
from sap_model.evaluate.results import METRICS, Name, read_results
from sap_model.evaluate.tables import Column, Row, Table
from sap_model.model.checkpoints import SHIPPED

TEMPLATE = Path(__file__).parent / "model_card.md.jinja"

TAGS = ["panorama", "360", "equirectangular", "promptable-segmentation", "sam2", "synthetic"]

LICENCE = "apache-2.0"

MAIN = "zoom"
"""The method whose figures stand at the head of the card: the default for these weights."""

SHIPPED_AS = "sap-nano"
"""The name in `SHIPPED` of the weights that the card is about."""

Record = Mapping[str, Any]


def write_card(
    folder: Path, scores: Path, repo: str | None = None, dataset: str | None = None
) -> Path:
    """Write README.md beside weights.

    Args:
        folder: Where `nano` left weights and records.
        scores: tables.json of an evaluation of these weights, with results.parquet beside it.
        repo, dataset: See `card`.

    Raises:
        UserError: A record or the scores are missing, or as for `card`.
    """
    record = _read(folder / Path(SHIPPED[SHIPPED_AS]).with_suffix(".json").name, "make nano")
    tables = _read(scores, "make eval SIZE=nano")
    if any("interval" not in table for table in tables["tables"]):
        raise UserError(f"{scores} is of an older version; evaluate again: make eval SIZE=nano")
    scenes = read_results([scores.with_name("results.parquet")])["scene_id"].unique().to_pylist()
    text = card(record, tables, scenes, repo, dataset)
    path = folder / "README.md"
    write_atomic(path, text.encode())
    return path


def card(
    record: Record,
    scores: Mapping[str, Any],
    scenes: Collection[str],
    repo: str | None = None,
    dataset: str | None = None,
) -> str:
    """The card as Markdown; the same input gives the same text.

    Args:
        record: How the weights were made; see `nano.give_away`.
        scores: The tables of an evaluation, as `write_report` leaves them in tables.json.
        scenes: Names of the scenes that were evaluated.
        repo: The models' name on the Hub (`user/name`), for the examples.
        dataset: That of the panoramas they were trained on, if these are on the Hub.

    Raises:
        UserError: The scores are of other weights.
    """
    refuse_others(record, scores)
    phases = record["phases"]
    trained_on = {scene for phase in phases for scene in phase["scenes"]}
    shown = [table for table in scores["tables"] if table["metric"] == METRICS[0]]
    filled = ModelCard.from_template(
        metadata(shown, repo, dataset),
        template_path=str(TEMPLATE),
        record=record,
        bytes=format_bytes,
        side=phases[-1]["settings"]["image_size"],
        repo=repo,
        dataset=dataset,
        phases=[phase_words(phase) for phase in phases],
        most=scores["methods"][0]["objects"],
        scenes=len(scenes),
        seen=len(trained_on & set(scenes)),
        tables=[table_of(table).markdown() for table in shown],
    )
    return f"{filled}\n"


def refuse_others(record: Record, scores: Mapping[str, Any]) -> None:
    """Raise UserError unless each method was scored with these weights, and `zoom` is among them.

    What an evaluation holds of other model sizes is refused too: this card is about these weights.
    """
    methods = {about["method"] for about in scores["methods"]}
    strange = sorted(
        about["method"]
        for about in scores["methods"]  # the oracle has no weights
        if about.get("weights_sha256", record["sha256"]) != record["sha256"]
    )
    if strange or MAIN not in methods:
        which = ", ".join(strange) or f"{MAIN} is missing"
        raise UserError(
            f"the scores are of other weights ({which}); evaluate these alone, "
            "with make eval SIZE=nano EVAL= for a new folder"
        )


def metadata(
    tables: Sequence[Mapping[str, Any]], repo: str | None, dataset: str | None
) -> ModelCardData:
    """The card's YAML, with `MAIN`'s overall figures as the Hub's `model-index`."""
    return ModelCardData(
        license=LICENCE,
        library_name="sap-panorama",
        pipeline_tag="mask-generation",
        tags=TAGS,
        datasets=[dataset] if dataset else None,
        metrics=["mean_iou"],
        model_name=repo.split("/")[-1] if repo else "sap-nano",
        eval_results=list(results(tables, dataset)),
    )


def results(tables: Sequence[Mapping[str, Any]], dataset: str | None) -> Iterator[EvalResult]:
    """`MAIN`'s overall mIoU in percent on each benchmark, after each number of clicks."""
    for table in tables:
        (main,) = (
            row["cells"]
            for row in table["rows"]
            if row["kind"] == "score" and row["of"][0]["method"] == MAIN
        )
        for column, cell in zip(table["columns"], main, strict=True):
            if column["subset"] == "overall" and cell is not None:
                yield EvalResult(
                    task_type="mask-generation",
                    dataset_type=dataset or table["title"],
                    dataset_name=table["title"],
                    metric_type="mean_iou",
                    metric_name=f"{column['clicks']}-click mIoU (%)",
                    metric_value=round(cell["mean"], 1),
                )


def phase_words(phase: Mapping[str, Any]) -> dict[str, Any]:
    """What the card's table says about a phase of training.

    >>> about = {"mix": [["panoramas", 0.75], ["crops", 0.25]], "clip_frames": 10,
    ...          "crop_frames": 3, "crop_step": 20.0, "image_size": 256, "steps": 300,
    ...          "batch_size": 1, "clip_objects": 8, "freeze_encoder": True}
    >>> phase_words({"phase": "scan", "settings": about, "panoramas": 90, "scenes": ["a", "b"],
    ...              "version": "0.2.0"})["clips"]
    '75% windows of 10 views of the scan, 25% videos of 3 perspective crops, up to 20° a frame'
    """
    settings = phase["settings"]
    counted = {key: phase[key] for key in ("panoramas", "version")}
    counted |= {"name": phase["phase"], "scenes": len(phase["scenes"])}
    counted |= {"pixels": settings["image_size"]}
    if "asked" in settings:
        asked = settings["asked"]
        objects = asked["objects"] + asked["masks"] + asked["corrections"]
        return counted | {
            "clips": f"single views, {settings['leaves']:.0%} of them dead leaves",
            "work": f"{settings['steps']} × {settings['images']} × {objects}",
            "trained": "all but the memory",
        }
    turn = f"{settings['crop_step']:g}"
    sources = {
        "panoramas": f"windows of {settings['clip_frames']} views of the scan",
        "crops": "single perspective crops"
        if settings["crop_frames"] == 1
        else f"videos of {settings['crop_frames']} perspective crops, up to {turn}° a frame",
    }
    clips = [
        f"{share:.0%} {sources.get(source, source)}" if share < 1 else sources.get(source, source)
        for source, share in settings["mix"]
    ]
    return counted | {
        "clips": ", ".join(clips),
        "work": f"{settings['steps']} × {settings['batch_size']} × {settings['clip_objects']}",
        "trained": "all but the image encoder" if settings["freeze_encoder"] else "everything",
    }


def table_of(content: Mapping[str, Any]) -> Table:
    """The table that `Table.json` was called on, as far as `markdown` tells."""
    columns = [Column(**column) for column in content["columns"]]
    rows, cells = [], []
    for row in content["rows"]:
        plus, minus = (tuple(Name(**name) for name in row[key]) for key in ("of", "minus"))
        rows.append(Row(row["label"], row["kind"], plus, minus))
        cells.append([cell and _estimate(cell) for cell in row["cells"]])
    return Table(content["title"], content["metric"], columns, rows, cells)


def _estimate(cell: Mapping[str, Any]) -> Estimate:
    mean, low, high = (cell.get(name, float("nan")) / 100 for name in ("mean", "low", "high"))
    return Estimate(mean, low, high, cell["instances"], cell["scenes"])


def _read(path: Path, command: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing; it is made by {command}")
    return read_json(path)
