"""The paper's ablations (tables 4, 5 and 6) at nano scale, by one command: `make ablations`.

    RUN/
      data.json             what is trained on; variants on other data are refused
      <variant>/            its training run, ending with weights.pt
      <variant>/eval/       its results
      ablations.md, .json   the three tables

Every variant is the nano model, fine-tuned along the scan, with one thing changed. All of it can be
stopped and called again: what is done already is not done twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.layout import read_json, write_json
from pipeline.shards.reader import ShardReader
from pipeline.storage import exclusive_lock
from sap_model.evaluate.eval_settings import EvalSettings
from sap_model.evaluate.jobs import panoramas
from sap_model.evaluate.report import read_benchmark
from sap_model.evaluate.results import RESULTS, check_results
from sap_model.evaluate.run import Progress, evaluate
from sap_model.model.checkpoints import SHIPPED
from sap_model.train import ablation_tables, nano
from sap_model.train.scan_clips import NoSplitError
from sap_model.train.settings import Scored, TrainSettings, Watch, settings_hash, to_json
from sap_model.train.train import train

START = "sam2-nano"
"""The shipped weights with which training begins."""

VARIANTS: dict[str, dict[str, Any]] = {
    "both": {},
    "only-crops": {"mix": (("crops", 1.0),)},
    "only-panoramas": {"mix": (("panoramas", 1.0),)},
    "no-scan": {"method": "sap-no-scan"},
    "no-overlap": {"method": "sap-no-overlap"},
    "erp": {"method": "erp"},
}
"""Variant: the settings that it changes. `both`, the full method, is in all three tables."""

SPLIT = "validation"

WATCH = Watch(log_every=50, save_every=50, clips=0, workers=0)
"""Nothing is chosen by validation clips: the weights after the last step are evaluated. Nothing is
gained by loader processes: a crop takes a millisecond."""


def scan_settings(data: Sequence[str]) -> TrainSettings:
    """How the nano model would be fine-tuned along the scan, with its encoder frozen, as SAM2
    becomes SAP."""
    return TrainSettings(
        data=tuple(data),
        mix=(("panoramas", 3.0), ("crops", 1.0)),
        size="nano",
        image_size=256,
        checkpoint=None,
        crop_frames=3,
        crop_step=60.0,
        crop_fov=(50.0, 100.0),
        clip_objects=8,
        clip_frames=10,
        min_pixels=64,
        inference_prompt_fraction=0.75,
        batch_size=2,
        micro_batch_size=1,
        steps=240,
        warmup_steps=10,
        hold_fraction=0.3,
        balanced_fraction=0.0,
        lr=8e-4,
        final_lr_fraction=0.0,
        weight_decay=0.02,
        betas=(0.9, 0.98),
        optimizer="muon",
        max_grad_norm=1.0,
        seed=5,
        precision="float32",
        checkpointing=False,
        freeze_encoder=True,
        loss="from-scratch",
        teacher_forced_presence=True,
        teacher_forced_memory=0.3,
        point_probability=1.0,
        box_probability=0.1,
        correction_clicks=1,
    )


def base_settings(
    data: Sequence[str], checkpoint: str = START, steps: int | None = None
) -> TrainSettings:
    """The settings of the full method.

    Args:
        data: Folders of shards.
        checkpoint: Weights to begin with: a file, a Hub id, a shipped name, or RUN of `make nano`.
        steps: Of training, in place of the recipe's; the warm-up keeps its share of them.

    Raises:
        UserError: The folder `checkpoint` is no RUN of `make nano` that has got that far.
    """
    if Path(checkpoint).is_dir():
        found = Path(checkpoint) / SHIPPED[START]
        if not found.is_file():
            raise UserError(f"{checkpoint} holds no {found.name}: finish make nano there first")
        checkpoint = str(found)
    recipe = scan_settings(data)
    settings = replace(recipe, checkpoint=checkpoint)
    if steps is not None:
        warmup_steps = recipe.warmup * steps // recipe.steps
        settings = replace(settings, steps=steps, warmup_steps=min(warmup_steps, steps))
    return settings


def ablate(settings: TrainSettings, run: Path, scored: Scored | None = None) -> str:
    """Train and evaluate what is not yet, and write the tables.

    Args:
        settings: Of the full method; see `base_settings`.
        run: RUN.
        scored: What is scored of the validation split; all of it by default.

    Returns:
        The report as Markdown.

    Raises:
        UserError: RUN holds ablations of other data or settings, there is no validation split, or
            as for `train` and `evaluate`.
    """
    scored = scored or Scored()
    with exclusive_lock(run / ".lock", "ablating in"):
        watched = validation_folders(settings.data)
        trained_on = same_data(settings.data, run)
        results, made = [], {}
        for name, changes in VARIANTS.items():
            variant = replace(settings, **changes)
            print(f"{name}: training", flush=True)
            weights = train(variant, run / name, WATCH)
            for number, folder in enumerate(watched):
                wanted = EvalSettings(
                    data=folder,
                    methods=(variant.method,),
                    benchmark=str(number),
                    split=SPLIT,
                    size=variant.size,
                    checkpoint=str(weights),
                    image_size=variant.image_size,
                    clicks=scored.clicks,
                    objects=scored.objects,
                    limit=scored.limit,
                )
                results.append(score(wanted, run / name / "eval", name))
            made[name] = {
                "settings": to_json(variant),
                "hash": settings_hash(variant),
                "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            }
        together = check_results(pa.concat_tables(results), "the ablations together")
        return ablation_tables.write(together, run, trained_on, made, asdict(scored))


def validation_folders(data: Sequence[str]) -> list[str]:
    """Those folders of shards that have a validation split.

    Raises:
        NoSplitError: None has one.
    """
    found = [folder for folder in data if SPLIT in ShardReader(folder).splits]
    if not found:
        raise NoSplitError(f"no {SPLIT} panoramas in {', '.join(data)}: render more scenes")
    return found


def same_data(data: Sequence[str], run: Path) -> dict[str, Any]:
    """What is trained on, which must be the same for all variants.

    Raises:
        UserError: RUN was begun with other data.
    """
    record, now = run / "data.json", nano.contents(data)
    if not record.is_file():
        write_json(record, now)
    if read_json(record) != now:
        raise UserError(
            f"{run} was begun with other data, of which variants are trained already: give the "
            "same DATA, or choose another RUN"
        )
    return now


def score(settings: EvalSettings, folder: Path, variant: str) -> pa.Table:
    """Results of one variant on one folder of shards, under the variant's name.

    Args:
        settings: Of the evaluation, with one method.
        folder: Where its results are kept.
        variant: Becomes the method's name, for several variants share a method.
    """

    def progress(state: Progress) -> None:
        print(f"{variant}: {state.done} of {state.total} panoramas evaluated", flush=True)

    evaluate(settings, folder, workers=1, progress=progress)
    wanted = panoramas(settings, ShardReader(settings.data, settings.split))
    whole, _ = read_benchmark(folder / "results" / settings.benchmark, wanted)
    (method,) = whole
    table = pa.concat_tables(method.tables.values()).select(RESULTS.names)
    # two folders may hold panoramas of the same name: other renders of the same seed
    images = [f"{settings.benchmark}/{name}" for name in table["image_id"].to_pylist()]
    renamed = {
        "image_id": images,
        "method": [variant] * len(images),
        "benchmark": [ablation_tables.BENCHMARK] * len(images),
    }
    for name, values in renamed.items():
        field = RESULTS.field(name)
        table = table.set_column(RESULTS.names.index(name), field, pa.array(values, field.type))
    return table
