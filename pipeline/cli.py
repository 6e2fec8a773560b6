"""The commands that make calls; each is a few lines over the module that does the work."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NoReturn

from pipeline.errors import UserError
from pipeline.outputs import RunFolder, read_json
from pipeline.settings import PROFILES, RunSettings, from_json, make_settings


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 when done, 2 after one line for the user, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
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
    sys.exit(0)


def render(options: argparse.Namespace) -> None:
    """Seeds → panoramas → shards → preview."""
    from pipeline.farm.driver import render_run
    from pipeline.farm.options import FarmSettings
    from pipeline.preview.page import write_preview
    from pipeline.shards.writer import pack

    run = RunFolder(options.out)
    if options.scenes < 1:
        raise UserError(f"SCENES must be at least 1, not {options.scenes}")
    settings = make_settings(
        generator=options.generator,
        profile=_profile(options.profile, run),
        width=options.width,
        samples=options.samples,
        passes=options.passes,
        seed=options.seed,
        panos=options.panos,
        min_area=options.min_area,
    )
    print(
        f"{options.generator} scenes, {settings.panos} panoramas each, profile {settings.profile}: "
        f"{settings.width}×{settings.height}, {settings.samples} samples; into {run.path}"
    )
    farm = FarmSettings(
        workers=options.workers,
        render_cpus=options.render_cpus,
        keep_scenes=options.keep_scenes,
        ray_address=options.ray_address,
    )
    summary = render_run(run, settings, options.scenes, farm)
    packed = pack(run, settings)
    page = run.preview / "index.html"
    if packed["written"] or packed["removed"] or not page.exists():
        page = write_preview(run)
    _report(run, packed)
    print(
        f"{len(summary.scenes)} scenes done ({summary.made} now, {len(summary.failed)} seeds "
        f"failed), {summary.panoramas} panoramas\n"
        f"shards:  {run.shards / 'data'}\n"
        f"load:    datasets.load_dataset('parquet', data_dir='{run.shards / 'data'}')\n"
        f"look:    {page}"
    )


def status(options: argparse.Namespace) -> None:
    """What OUT has done, is doing and has failed."""
    from pipeline.farm.progress import status_json, status_text

    run = RunFolder(options.out)
    _settings(run)
    print(status_json(run) if options.json else status_text(run))


def shards(options: argparse.Namespace) -> None:
    """Finished scenes → shards."""
    from pipeline.shards.writer import pack

    run = RunFolder(options.out)
    packed = pack(run, _settings(run))
    _report(run, packed)


def preview(options: argparse.Namespace) -> None:
    """Shards → preview page."""
    from pipeline.preview.page import write_preview

    if options.limit < 1:
        raise UserError(f"LIMIT must be at least 1, not {options.limit}")
    print(write_preview(RunFolder(options.out), options.limit))


def _settings(run: RunFolder) -> RunSettings:
    """The settings that a run was begun with."""
    if not run.settings.exists():
        raise UserError(f"{run.path} is not the OUT of a run (it has no run.json)")
    return from_json(read_json(run.settings)["settings"])


def _profile(name: str, run: RunFolder) -> str:
    """`auto` is what the run was begun with, or `farm` where Cycles finds a GPU, else `cpu`."""
    if name != "auto":
        return name
    if run.settings.exists():
        return _settings(run).profile
    found = subprocess.run(  # Blender never runs in this process
        [sys.executable, "-m", "pipeline.blender.devices"], capture_output=True, text=True
    )
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"Blender does not start ({reason}); run: make clean setup")
    gpus = found.stdout.strip()
    print(f"PROFILE=auto: {'GPU ' + gpus if gpus else 'Cycles finds no GPU here'}")
    return "farm" if gpus else "cpu"


def _report(run: RunFolder, packed: dict[str, int]) -> None:
    """What the shards hold, and what is not in them and why."""
    print(
        f"{packed['train']} panoramas for training, {packed['validation']} for validation; "
        f"{packed['left_out']} unfit ones left out"
    )
    dropped = 0
    unknown: Counter[str] = Counter()
    for path in sorted(run.scenes.iterdir()):
        scene = run.scene(path.name)
        if not scene.done.exists():
            continue
        unknown.update(read_json(scene.generated).get("unknown_categories", {}))
        for row in sorted(path.glob("panoramas/*/row.json")):
            dropped += read_json(row)["summary"]["dropped"]
    print(f"{dropped} instances below the minimum area were dropped")
    if unknown:
        names = ", ".join(f"{name} ({count})" for name, count in unknown.most_common())
        print(f"categories not in the table, named after the object: {names}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help)
        added.set_defaults(command=function)
        added.add_argument("--out", type=Path, default=Path("out"), help="the run's folder")
        return added

    one = command("render", render, "make annotated scenes")
    one.add_argument("--scenes", type=int, default=1, help="good scenes that OUT shall hold")
    one.add_argument("--generator", default="indoors", help="a name or a mix: indoors:3,rooms:1")
    one.add_argument("--seed", type=int, default=0, help="first seed")
    one.add_argument("--panos", type=int, default=2, help="panoramas per scene, at most")
    one.add_argument("--profile", default="auto", help=f"auto, {', '.join(PROFILES)}")
    one.add_argument("--width", type=int, help="panorama width in pixels")
    one.add_argument("--samples", type=int, help="Cycles samples per pixel")
    one.add_argument("--passes", default="", help="extra passes: depth,normal")
    one.add_argument("--min-area", type=int, default=100, help="smallest instance, pixels at 4K")
    one.add_argument("--workers", type=int, help="CPUs of the local Ray")
    one.add_argument("--render-cpus", type=int, help="CPUs of one render on a CPU")
    one.add_argument("--keep-scenes", type=_flag, default=False, help="1 keeps .blend files")
    one.add_argument("--ray-address", help="a Ray cluster instead of this machine")
    command("status", status, "how a run stands").add_argument("--json", action="store_true")
    command("shards", shards, "pack finished scenes into Parquet")
    command("preview", preview, "write the HTML page").add_argument(
        "--limit", type=int, default=24, help="panoramas on the page"
    )
    return parser


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"must be 0 or 1, not {text}")
    return text == "1"
