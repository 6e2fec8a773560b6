"""What the model's commands do: a few lines over the modules that do the work."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import is_follower
from pipeline.config import OnRun
from pipeline.errors import UserError
from pipeline.storage import is_remote, open_path
from sap_model.config import (
    Ablations,
    CheckGpu,
    Demo,
    Evaluate,
    Import,
    ImportCoco,
    ImportHunyuan,
    ImportPavs,
    ModelCard,
    Nano,
    Predict,
    ScoreEverything,
    SegmentFolder,
    Train,
    shards_of,
)
from sap_model.evaluate.eval_settings import EvalSettings
from sap_model.train.settings import TrainSettings

if TYPE_CHECKING:
    from sap_model.importers.tally import Tally

SECONDS_BETWEEN_LINES = 10.0


def evaluate(options: Evaluate) -> None:
    """Shards and weights → scores, tables, a page."""
    from pipeline.shards.reader import ShardReader
    from sap_model.evaluate.jobs import benchmark_folder, panoramas
    from sap_model.evaluate.page import write_page
    from sap_model.evaluate.report import write_report
    from sap_model.evaluate.run import Progress
    from sap_model.evaluate.run import evaluate as score
    from sap_model.model.checkpoints import resolve_size

    given = {"data": shards_of(options), **options.settings.values}
    weights = given.get("checkpoint") or given.get("sam2")
    size = resolve_size(given.get("size"), weights, EvalSettings.size)
    settings = options.settings.build(**{**given, "size": size})
    folder = options.eval or _folder(options, "EVAL", "eval")
    last = 0.0

    def progress(state: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or state.done == state.total:
            last = now
            left = "" if state.seconds_left is None else f", {state.seconds_left / 60:.0f} min left"
            print(f"{state.done} of {state.total} evaluated{left}", flush=True)

    score(
        settings,
        folder,
        workers=options.workers,
        ray_address=options.ray_address or os.environ.get("RAY_ADDRESS"),
        progress=progress,
    )
    wanted = panoramas(settings, ShardReader(settings.data, settings.split))
    benchmark = benchmark_folder(folder, settings).name
    text = write_report(folder, benchmark, wanted, settings.size_thresholds)
    page = write_page(settings, folder, wanted, text)
    print(text)
    print(f"tables: {folder / 'tables.md'}\nlook:   {page}")


def train(options: Train) -> None:
    """Shards and weights → weights that are fine-tuned on the scan."""
    from sap_model.model.checkpoints import resolve_size
    from sap_model.train.train import train as fit

    run = options.run or _folder(options, "RUN", "train")
    given = {"data": (shards_of(options),), **options.settings.values}
    size = resolve_size(given.get("size"), given.get("checkpoint"), TrainSettings.size)
    settings = options.settings.build(**{**given, "size": size})
    if options.gpus > 1 and "RANK" not in os.environ:
        restart_for_each_gpu(options.gpus)
    weights = fit(settings, run, options.watch.build())
    if not is_follower():
        print(f"weights: {weights}")


def restart_for_each_gpu(gpus: int) -> None:
    """Replace this process by torchrun, which starts the same command once for each GPU."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]
    sys.stdout.flush()
    os.execv(  # noqa: S606 - the same program, without a shell
        sys.executable, [sys.executable, *torchrun, "-m", "--", "sap_model", *sys.argv[1:]]
    )


def nano(options: Nano) -> None:
    """Shards → the two small models that come with the package."""
    from sap_model.train.nano import make

    run = options.run or _folder(options, "RUN", "nano")
    make(options.folders, run, options.weights or run)


def ablations(options: Ablations) -> None:
    """Shards → the paper's tables 4 to 6 at nano scale."""
    from sap_model.train.ablations import ablate, base_settings

    run = options.run or _folder(options, "RUN", "ablations")
    settings = base_settings(options.folders, options.checkpoint, options.steps)
    print(ablate(settings, run, options.scored.build()))
    print(f"tables: {run / 'ablations.md'}")


def model_card(options: ModelCard) -> None:
    """Shipped weights and their scores → their card for the Hub."""
    from sap_model.train.card import write_card

    weights = options.weights or _folder(options, "WEIGHTS", "nano")
    scores = options.scores or _folder(options, "SCORES", "eval") / "tables.json"
    print(f"card: {write_card(weights, scores, options.repo, options.dataset)}")


def predict(options: Predict) -> None:
    """A panorama and clicks → a mask."""
    from sap_model.predict.command import segment

    print(segment(options), end="")


def check_gpu(options: CheckGpu) -> None:
    """This machine's GPU: are its answers the CPU's, how fast is it, how much memory is needed?"""
    from sap_model.check_gpu.check import check

    text, passed = check(options)
    print(f"\n{text}\nwritten: {options.out / 'check-gpu.json'}")
    if not passed:
        raise UserError(
            "this machine's GPU and CPU differ, or a check failed; report it with "
            f"{options.out / 'check-gpu.json'}"
        )


def demo(options: Demo) -> None:
    """A page on which masks are clicked, until Ctrl-C."""
    from sap_model.demo.server import serve
    from sap_model.demo.sessions import find_panoramas, open_sessions

    panoramas = find_panoramas(options.data)  # before the model is loaded
    sessions, model = open_sessions(options, panoramas)
    serve(sessions, model, options.port, options.browser)


def segment(options: SegmentFolder) -> None:
    """Panoramas of a folder → masks."""
    from sap_model.predict.predictor import SapPredictor
    from sap_model.segment.everything import EverythingOptions
    from sap_model.segment.folder import FolderJob, read_prompts, segment_folder
    from sap_model.segment.sources import count_panoramas

    if options.everything and options.prompts:
        raise UserError("EVERYTHING and PROMPTS are both given; give one of them")
    count_panoramas(options.data)  # before the model is loaded
    job = FolderJob(
        source=options.data,
        out=options.out,
        prompts=read_prompts(options.prompts) if options.prompts else None,
        everything=EverythingOptions(options.points, overlapping=options.overlapping),
        every=options.every,
        overlays=options.overlays,
        about={
            "checkpoint": options.checkpoint,
            "image_size": options.image_size,
            "method": options.method,
        },
    )
    predictor = SapPredictor.from_pretrained(
        options.checkpoint,
        method=options.method,
        size=options.size,
        image_size=options.image_size,
    )
    left_out = segment_folder(job, predictor, lambda line: print(line, flush=True))
    print(f"masks:  {options.out / 'masks'}\ncoco:   {options.out / 'coco.json'}")
    if left_out:
        print(f"left out: {left_out}, named above", file=sys.stderr)
        sys.exit(1)


def score_everything(options: ScoreEverything) -> None:
    """Shards and weights → recall of everything, on the sphere and on the flat picture."""
    from pipeline.shards.reader import ShardReader
    from sap_model.predict.predictor import SapPredictor
    from sap_model.segment.everything import EverythingOptions
    from sap_model.segment.scoring import score_everything as score
    from sap_model.segment.scoring import table, write_scores

    data = options.data or shards_of(options)
    reader = ShardReader(data, options.split)
    model = SapPredictor.from_pretrained(options.checkpoint, size=options.size).model
    scored = score(model, reader, EverythingOptions(options.points), options.limit)
    print(table(scored), end="")
    if options.scores:
        about = {"data": data, "checkpoint": options.checkpoint, "points": options.points}
        write_scores(options.scores, scored, about)


def import_coco(options: ImportCoco) -> None:
    """A COCO JSON and its pictures → shards."""
    from sap_model.importers.coco import import_coco as convert

    _imported(convert, options)


def import_pavs(options: ImportPavs) -> None:
    """PAVS10K → shards."""
    from sap_model.importers.pavs import import_pavs as convert

    _imported(convert, options)


def import_hunyuan(options: ImportHunyuan) -> None:
    """Folders of panoramas and masks → shards."""
    from sap_model.importers.hunyuan import import_hunyuan as convert

    _imported(convert, options)


def _imported(convert: Callable[..., Tally], options: Import) -> None:
    tally = convert(**{field.name: getattr(options, field.name) for field in fields(options)})
    print("\n".join(tally.lines()))


def _folder(options: OnRun, setting: str, name: str) -> Path:
    """A folder of OUT, which has to be on this machine."""
    if is_remote(open_path(options.out)):
        raise UserError(f"OUT={options.out} is not a folder on this machine; give {setting}")
    return Path(options.out, name)
