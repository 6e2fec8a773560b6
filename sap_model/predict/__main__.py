"""`python -m sap_model.predict`: segment an object of a panorama from clicks.

    python -m sap_model.predict room.jpg --click 1200,900 --click 1300,700,0 --out mask.png

The default model comes with the package and runs on a laptop.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NoReturn

from sap_model.clicks import POSITIVE, Click
from sap_model.parser import Parser, run_command, whole
from sap_model.predict.command import Request, segment


def main(arguments: list[str] | None = None) -> NoReturn:
    """Segment an object and exit as `pipeline.cli.main` does."""
    options = _parser().parse_args(arguments)
    options.command = predict
    run_command(options)


def predict(options: argparse.Namespace) -> None:
    """A panorama and clicks → a mask."""
    given = {name: value for name, value in vars(options).items() if name != "command"}
    print(segment(Request(**given)), end="")


def click(text: str) -> Click:
    """X,Y or X,Y,LABEL in whole pixels.

    >>> click("1200,900"), click("3,4,0")
    (Click(x=1200, y=900, label=1), Click(x=3, y=4, label=0))
    """
    found = re.fullmatch(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*(?:,\s*([01])\s*)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be X,Y in whole pixels, or X,Y,0, not {text}")
    return Click(int(found[1]), int(found[2]), int(found[3] or POSITIVE))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sap_model.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "image", type=Path, metavar="IMAGE", help="a panorama: jpg, png, webp, tif, exr, hdr"
    )
    parser.add_argument(
        "--click",
        type=click,
        action="append",
        required=True,
        dest="clicks",
        metavar="X,Y[,0]",
        help="a pixel of the object; with ,0 one beside it. As often as needed",
    )
    parser.add_argument("--out", type=Path, metavar="MASK.png", help="where the mask goes")
    parser.add_argument(
        "--overlay", type=Path, metavar="PICTURE", help="the mask on the panorama; png or jpg"
    )
    parser.add_argument("--size", help="model size, or a YAML file (the checkpoint's, or nano)")
    parser.add_argument(
        "--checkpoint", help="weights: a file, a Hub id, or a shipped name (sap-nano)"
    )
    parser.add_argument(
        "--image-size", type=whole, help="side of the model's input (the size's own)"
    )
    parser.add_argument("--fusion", choices=("max", "mean"), default="max", help="of views (max)")
    parser.add_argument(
        "--method", default="sap", help="how it is done, as in METHODS of eval (sap)"
    )
    return parser


if __name__ == "__main__":
    main()
