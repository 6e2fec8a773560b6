"""The command line that make calls: its options, its exit status, its one line for the user."""

from __future__ import annotations

import argparse
import re
import sys
from typing import NoReturn

from pipeline.commands import dataset, plan, run
from pipeline.errors import UserError
from pipeline.export.images import FORMATS
from pipeline.settings import PROFILES


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit."""
    run_command(_parser().parse_args(arguments))


def run_command(options: argparse.Namespace) -> NoReturn:
    """Call `options.command` and exit: 0 is done, 2 a line for the user, 130 Ctrl-C."""
    try:
        options.command(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, for example `head`, is gone
        sys.stderr.close()
        sys.exit(1)
    except ModuleNotFoundError as error:
        name = error.name or ""
        if "." in name or name in ("", "pipeline") or name in sys.stdlib_module_names:
            raise  # a fault of ours
        print(f"error: package {name} is missing; run: make clean setup", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, in the words of make: SCENES for --scenes."""

    def error(self, message: str) -> NoReturn:
        option = re.match(r"argument --([\w-]+): ", message)
        if option:
            message = f"{option[1].upper().replace('-', '_')} {message[option.end() :]}"
        self.exit(2, f"error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m pipeline", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help)
        added.set_defaults(command=function)
        added.add_argument("--out", default="out", help="the run's folder, or its URL")
        return added

    one = command("render", run.render, "make annotated scenes")
    one.add_argument("--scenes", type=whole, default=1, help="good scenes that OUT shall hold")
    _add_settings(one, profile="auto")
    one.add_argument("--passes", default="", help="extra passes: depth,normal")
    one.add_argument("--min-area", type=whole, default=100, help="smallest instance, pixels at 4K")
    one.add_argument("--workers", type=whole, help="CPUs of the local Ray")
    one.add_argument("--render-cpus", type=whole, help="CPUs of one render on a CPU")
    one.add_argument("--keep-scenes", type=flag, default=False, help="1 keeps .blend files")
    one.add_argument("--ray-address", help="a Ray cluster instead of this machine")
    one.add_argument("--scratch", help="where attempts work on their machines")
    one.add_argument("--waiting-gb", type=whole, help="disk for scenes that wait for a render")
    one = command("status", run.status, "how a run stands, and what it cost")
    one.add_argument("--json", type=flag, nargs="?", const=True, default=False, help="1: as JSON")
    one = command("failures", run.failures, "why seeds were given up")
    one.add_argument("--json", type=flag, nargs="?", const=True, default=False, help="1: as JSON")
    one.add_argument("--limit", type=whole, default=3, help="seeds to show of each kind")
    one = command("plan", plan.plan, "what a run will take")
    one.add_argument("--scenes", type=whole, default=1)
    one.add_argument("--cpus", type=whole, help="of all machines")
    one.add_argument("--gpus", type=whole, default=0, help="of all machines")
    one.add_argument("--node-cpus", type=whole, help="CPUs of one machine")
    one.add_argument("--node-memory", type=whole, help="GiB of one machine")
    one.add_argument("--waiting-gb", type=whole, help="disk for scenes that wait for a render")
    one.add_argument("--ledger", default="", help="OUT folders of earlier runs: a,b")
    one.add_argument("--gpu-speed", type=number, help="one GPU renders like so many CPU cores")
    for name in ("cpu-hour", "gpu-hour", "gb-month"):
        one.add_argument(f"--price-{name}", type=number)
    one.add_argument("--json", type=flag, nargs="?", const=True, default=False, help="1: as JSON")
    _add_settings(one, profile=None)
    one.set_defaults(generator=None, seed=None, panos=None)  # a ledger has its own
    command("shards", run.shards, "pack finished scenes into Parquet")
    command("preview", run.preview, "write the HTML page").add_argument(
        "--limit", type=whole, default=24, help="panoramas on the page"
    )
    for name, function, help in (
        ("verify", dataset.verify, "read the shards back and check everything"),
        ("stats", dataset.stats, "count what the dataset holds, and draw it"),
        ("coco", dataset.coco, "export images and COCO annotations"),
    ):
        one = command(name, function, help)
        one.add_argument("--data", help="a folder or URL of shards instead of OUT/shards")
        if name == "verify":
            one.add_argument("--workers", type=whole, help="processes")
        if name == "coco":
            one.add_argument("--format", choices=FORMATS, default="webp", help="of the images")
            one.add_argument("--license", help="named in the JSON")
    for name, function, help in (
        ("card", dataset.card, "write the dataset card"),
        ("publish", dataset.publish, "send the dataset to the Hugging Face Hub"),
    ):
        one = command(name, function, help)
        one.add_argument("--license", default="", help="an identifier, or a file with the text")
        one.add_argument("--repo", help="user/name on the Hub")
    one.add_argument("--private", type=flag, default=True, help="0 makes a new one public")
    one.add_argument("--dry-run", type=flag, default=False, help="1 only says what would change")
    one.add_argument("--replace", type=flag, default=False, help="1 replaces what REPO holds")
    one.add_argument("--workers", type=whole, help="processes that verify")
    return parser


def _add_settings(one: argparse.ArgumentParser, profile: str | None) -> None:
    """What scenes look like, as far as it changes what they cost."""
    one.add_argument("--generator", default="indoors", help="a name or a mix: indoors:3,rooms:1")
    one.add_argument("--seed", type=whole, default=0, help="first seed")
    one.add_argument("--panos", type=whole, default=2, help="panoramas per scene, at most")
    one.add_argument("--profile", default=profile, help=f"auto, {', '.join(PROFILES)}")
    one.add_argument("--width", type=whole, help="panorama width in pixels")
    one.add_argument("--samples", type=whole, help="Cycles samples per pixel")


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text}") from None


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text}") from None


def flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"must be 0 or 1, not {text}")
    return text == "1"
