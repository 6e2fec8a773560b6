"""The command line that make calls for the model: `python -m sap_model eval`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NoReturn

from pipeline.cli import Parser, flag, run_command, whole
from pipeline.shards.reader import ShardReader


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit as `pipeline.cli.main` does."""
    run_command(_parser().parse_args(arguments))


def evaluate(options: argparse.Namespace) -> None:
    """Shards and weights → scores, tables, a page."""
    from sap_model.evaluation.page import write_page
    from sap_model.evaluation.report import write_report
    from sap_model.evaluation.run import Progress
    from sap_model.evaluation.run import evaluate as score
    from sap_model.evaluation.settings import EvalSettings
    from sap_model.evaluation.units import method_folder, panoramas

    settings = EvalSettings(
        data=options.data,
        methods=tuple(name.strip() for name in options.methods.split(",") if name.strip()),
        benchmark=options.benchmark,
        split=None if options.split == "all" else options.split,
        size=options.size,
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
    one.add_argument("--size", default="large", help="model size, or a YAML file")
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
    return parser
