"""`python -m sap_model.importers`: convert a benchmark into shards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from sap_model.importers import coco, hunyuan, pavs
from sap_model.parser import Parser, flag, run_command, whole


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run an importer and exit as `pipeline.cli.main` does."""
    options = _parser().parse_args(arguments)
    options.command = convert
    run_command(options)


def convert(options: argparse.Namespace) -> None:
    """A benchmark → shards."""
    given = {k: v for k, v in vars(options).items() if k not in ("command", "importer")}
    print("\n".join(options.importer(**given).lines()))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m sap_model.importers", description=__doc__)
    importers = parser.add_subparsers(required=True, metavar="importer")

    def importer(name: str, function, help: str) -> argparse.ArgumentParser:
        added = importers.add_parser(name, help=help)
        added.set_defaults(importer=function)
        added.add_argument("source", type=Path, help="the benchmark as it was downloaded")
        added.add_argument("out", type=Path, help="a new folder for the shards")
        added.add_argument("--min-area", type=whole, default=1, help="smallest object, pixels")
        added.add_argument("--split", default="validation", help="train or validation")
        added.add_argument(
            "--skip-bad", type=flag, nargs="?", const=True, default=False,
            help="1 leaves out what is damaged, and lists it",
        )  # fmt: skip
        return added

    one = importer("coco", coco.import_coco, "a COCO JSON and a folder of panoramas")
    one.add_argument("--images", type=Path, help="folder of the panoramas")
    one.add_argument("--crowds", default="skip", help="iscrowd 1: skip, or instances")
    one = importer("pavs", pavs.import_pavs, "PAV-SOD's PAVS10K: three frames of each video")
    one.add_argument("--frames", default="Frames", help="folder of the frames in SOURCE")
    one.add_argument("--masks", default="Instances", help="folder of the masks in SOURCE")
    one.add_argument("--seed", type=whole, default=0, help="of the draw")
    one.add_argument("--per-video", type=whole, default=pavs.FRAMES_PER_VIDEO, help="frames drawn")
    importer("hunyuan", hunyuan.import_hunyuan, "a folder per panorama, a mask per object")
    return parser


if __name__ == "__main__":
    main()
