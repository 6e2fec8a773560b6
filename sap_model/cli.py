"""The command line that make calls for the model: `python -m sap_model eval`, `train`, …"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import UserError
from pipeline.shards.reader import ShardReader
from sap_model.parser import Parser, flag, run_command, whole


def shares(text: str) -> tuple[tuple[str, float], ...]:
    """A mix by weight, such as "panoramas:2,sa1b:1"; a name alone weighs 1."""
    parts = []
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        try:
            parts.append((name, float(weight or 1)))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r}: a name and a weight due") from None
    return tuple(parts)


def at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` on."""

    def number(text: str) -> int:
        if whole(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
        return whole(text)

    return number


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit as `pipeline.cli.main` does."""
    run_command(_parser().parse_args(arguments))


def evaluate(options: argparse.Namespace) -> None:
    """Shards and weights → scores, tables, a page."""
    from sap_model.evaluate.jobs import method_folder, panoramas
    from sap_model.evaluate.page import write_page
    from sap_model.evaluate.report import write_report
    from sap_model.evaluate.run import Progress
    from sap_model.evaluate.run import evaluate as score
    from sap_model.evaluate.settings import EvalSettings
    from sap_model.model.checkpoints import resolve_size

    settings = EvalSettings(
        data=options.data,
        methods=tuple(name.strip() for name in options.methods.split(",") if name.strip()),
        benchmark=options.benchmark,
        split=None if options.split == "all" else options.split,
        size=resolve_size(options.size, options.checkpoint or options.sam2, "large"),
        checkpoint=options.checkpoint,
        sam2=options.sam2,
        image_size=options.image_size,
        fusion=options.fusion,
        clicks=options.clicks,
        structure=options.structure,
        objects=options.objects,
        limit=options.limit,
    )
    last = 0.0

    def progress(state: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 10 or state.done == state.total:
            last = now
            left = "" if state.seconds_left is None else f", {state.seconds_left / 60:.0f} min left"
            print(f"{state.done} of {state.total} evaluated{left}", flush=True)

    score(
        settings,
        options.out,
        workers=options.workers,
        ray_address=options.ray_address,
        progress=progress,
    )
    wanted = panoramas(settings, ShardReader(settings.data, settings.split))
    benchmark = method_folder(options.out, settings, "oracle").parent.name
    text = write_report(options.out, benchmark, wanted)
    page = write_page(settings, options.out, wanted, text)
    print(text)
    print(f"tables: {options.out / 'tables.md'}\nlook:   {page}")


def train(options: argparse.Namespace) -> None:
    """Shards and weights → weights that are fine-tuned on the scan."""
    from sap_model.model.checkpoints import resolve_size
    from sap_model.train.processes import GRACE
    from sap_model.train.settings import TrainSettings
    from sap_model.train.train import Watch
    from sap_model.train.train import train as fit

    given = {name: getattr(options, name) for name in TRAIN_OPTIONS}
    first = os.environ.get("RANK", "0") == "0"  # torchrun starts this once for each GPU
    try:
        given["size"] = resolve_size(given["size"], given["checkpoint"], TrainSettings.size)
        settings = TrainSettings(**{name: it for name, it in given.items() if it is not None})
    except UserError:
        if not first:
            time.sleep(GRACE)  # the first process says what is wrong
            sys.exit(2)
        raise
    watch = {name: getattr(options, name) for name in ("validate_every", "save_every", "workers")}
    weights = fit(
        settings,
        options.run,
        Watch(**{name: value for name, value in watch.items() if value is not None}),
    )
    if first:
        print(f"weights: {weights}")


def nano(options: argparse.Namespace) -> None:
    """Shards → the two small models that ship with the package."""
    from sap_model.train.nano import make

    make(options.data.split(), options.run, options.weights)


def ablations(options: argparse.Namespace) -> None:
    """Shards → the paper's tables 4 to 6 at nano scale."""
    from sap_model.train.ablations import Scored, ablate, base_settings

    settings = base_settings(options.data.split(), options.checkpoint, options.steps)
    print(ablate(settings, options.run, Scored(options.objects, options.limit, options.clicks)))
    print(f"tables: {options.run / 'ablations.md'}")


def card(options: argparse.Namespace) -> None:
    """Shipped weights and their scores → their card for the Hub."""
    from sap_model.train.card import write_card

    print(f"card: {write_card(options.weights, options.scores, options.repo, options.dataset)}")


TRAIN_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "data": (lambda text: tuple(text.split()), "folders or URLs of shards, space between them"),
    "sa1b": (str, "folder of SA-1B"),
    "sav": (str, "folder of SA-V"),
    "mix": (shares, "sources by weight: panoramas:2,sa1b:1,sav:1"),
    "method": (str, "what the weights are for: sap, erp, sap-no-overlap, sap-no-scan"),
    "size": (str, "model size, or a YAML file"),
    "checkpoint": (str, "weights to start from: a file, a Hub id or official"),
    "image_size": (whole, "side of the model's input"),
    "clip_objects": (whole, "objects of a clip"),
    "clip_frames": (whole, "frames of a clip; 24 are one cycle of the scan"),
    "batch_size": (whole, "clips of a step, over all processes"),
    "micro_batch_size": (whole, "clips of a forward pass"),
    "steps": (whole, "optimiser steps"),
    "lr": (float, "learning rate"),
    "min_pixels": (whole, "least pixels of an object where it is clicked"),
    "seed": (whole, "of everything random"),
    "precision": (str, "auto, bf16 or float32"),
    "checkpointing": (flag, "0 keeps activations: more memory, less time"),
}
"""Settings of `TrainSettings` that have an option of their own."""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m sap_model", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    one = commands.add_parser("eval", help="score methods in the paper's protocol")
    one.set_defaults(command=evaluate)
    one.add_argument("--out", type=Path, default=Path("out/eval"), help="where results go")
    one.add_argument("--data", default="out/shards", help="a folder or URL of shards")
    one.add_argument("--methods", default="oracle,sam2,scan,sap", help="names, in order")
    one.add_argument("--benchmark", default="infinigen", help="the data's name in the tables")
    one.add_argument("--split", default="validation", help="train, validation or all")
    one.add_argument("--size", help="model size, or a YAML file (the checkpoint's, or large)")
    one.add_argument("--checkpoint", help="fine-tuned weights: a file, a Hub id, sap-nano")
    one.add_argument("--sam2", default="official", help="SAM2's weights: a file or a Hub id")
    one.add_argument("--image-size", type=whole, help="side of the model's input")
    one.add_argument("--fusion", choices=("max", "mean"), default="max")
    one.add_argument("--clicks", type=whole, default=3, help="rounds of the protocol")
    one.add_argument("--structure", type=flag, default=True, help="0 leaves walls and the like out")
    one.add_argument("--objects", type=whole, help="objects of a panorama, at most")
    one.add_argument("--limit", type=whole, help="panoramas, at most")
    one.add_argument("--workers", type=whole, help="processes; one for each GPU by default")
    one.add_argument("--ray-address", help="a Ray cluster instead of this machine")
    one = commands.add_parser("train", help="fine-tune SAM2 on the scan")
    one.set_defaults(command=train)
    one.add_argument("--run", type=Path, default=Path("out/train"), help="the run's folder")
    for name, (kind, help) in TRAIN_OPTIONS.items():
        one.add_argument(f"--{name.replace('_', '-')}", type=kind, help=help)
    one.add_argument("--validate-every", type=at_least(1), help="steps between validations")
    one.add_argument("--save-every", type=at_least(1), help="steps between kept states")
    one.add_argument("--workers", type=at_least(0), help="processes that make clips")
    one = commands.add_parser("nano", help="make the small models from nothing")
    one.set_defaults(command=nano)
    one.add_argument("--data", default="out/shards", help="folders or URLs of shards")
    one.add_argument("--run", type=Path, default=Path("out/nano"), help="where its runs go")
    one.add_argument("--weights", type=Path, default=Path("out/nano"), help="where results go")
    one = commands.add_parser("ablations", help="the paper's tables 4 to 6 at nano scale")
    one.set_defaults(command=ablations)
    one.add_argument("--data", default="out/shards", help="folders or URLs of shards")
    one.add_argument("--run", type=Path, default=Path("out/ablations"), help="where all of it goes")
    one.add_argument(
        "--checkpoint", default="sam2-nano", help="weights to start from, or RUN of nano"
    )
    one.add_argument("--steps", type=at_least(1), help="optimiser steps, in place of the recipe's")
    one.add_argument("--objects", type=at_least(1), help="objects of a panorama to score, at most")
    one.add_argument("--limit", type=at_least(1), help="panoramas of a folder to score, at most")
    one.add_argument("--clicks", type=at_least(1), default=1, help="rounds of the protocol")
    one = commands.add_parser("card", help="write the card of the small models")
    one.set_defaults(command=card)
    one.add_argument("--weights", type=Path, default=Path("out/nano"), help="folder of make nano")
    one.add_argument(
        "--scores", type=Path, default=Path("out/eval/tables.json"), help="of make eval"
    )
    one.add_argument("--repo", help="the models' name on the Hub, for the examples")
    one.add_argument("--dataset", help="the training data's name on the Hub")
    return parser
