"""What happens to inputs as people have them: a table, each row of it really tried.

    python -m tests.benchmarks.field_inputs [TABLE.md]

Pictures go through `read_picture`, COCO files through `import_coco` without and with SKIP_BAD=1,
checkpoints through `load`, and paths through the commands. The samples are those of the tests.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from pipeline.cli import main as command
from pipeline.errors import UserError
from pipeline.pictures.read import read_picture
from sap_model.importers.coco import import_coco
from sap_model.model.build import build
from sap_model.model.checkpoints import SAM_2_0, load
from tests.pictures import samples
from tests.pictures.read_samples import READ
from tests.pictures.refused_samples import REFUSED
from tests.sap_model.importers import coco_samples
from tests.sap_model.model import weight_samples

ODD_NAMES = (
    "my data", "it's", '"quoted"', "[a]", "ümläut 室内", "-x", "a;b", "$HOME", "a%20b", "a#b", "~x",
)  # fmt: skip

NUMBERS: dict[str, tuple[str, samples.Maker]] = {
    "PNG of 12 bits in 16": (
        "a.png", samples.by_opencv((samples.ramp() * 4095).astype(np.uint16), ".png")
    ),
    "TIFF of 10 bits, packed": (
        "a.tif",
        lambda path: path.write_bytes(
            samples.packed_tiff(np.rint(samples.ramp(1)[..., 0] * 1023).astype(np.int64), 10)
        ),
    ),
    "EXR": ("a.exr", samples.exr({"RGB": samples.ramp()})),
    "EXR of halves": ("a.exr", samples.exr({"RGB": samples.ramp().astype(np.float16)})),
    "EXR in candela (10^6 times)": ("a.exr", samples.exr({"RGB": samples.ramp() * 1e6})),
    "HDR": ("a.hdr", samples.by_opencv(samples.ramp(), ".hdr")),
    "TIFF of floats": ("a.tif", samples.tiff(samples.ramp(), photometric="rgb")),
    "a quarter of a sphere (GPano)": (
        "a.jpg", samples.saved("JPEG", xmp=samples.gpano(**samples.QUARTER))
    ),
    "GPano sizes that cannot be true": (
        "a.jpg", samples.saved("JPEG", xmp=samples.gpano(FullPanoWidthPixels="many"))
    ),
    "a tilted camera (GPano pose)": (
        "a.jpg", samples.saved("JPEG", xmp=samples.gpano(PosePitchDegrees=-4, PoseRollDegrees=2))
    ),
    "CMYK JPEG with a profile": (
        "a.jpg", samples.saved("JPEG", "CMYK", icc_profile=samples.cmyk_profile(20))
    ),
}  # fmt: skip


class Row(NamedTuple):
    """A row of the table."""

    kind: str
    given: str
    happens: str


def attempt(action: Callable[[], str], folder: Path) -> str:
    """What an action says, without the folder's name and the remedy's tail."""
    try:
        text = action()
    except UserError as error:
        text = f"refused: {error}"
    return text.replace(f"{folder}/", "").replace("|", "\\|")


def pictures(folder: Path) -> Iterator[Row]:
    made = {**READ, **NUMBERS} | {name: sample[:2] for name, sample in REFUSED.items()}
    for number, (kind, (name, make)) in enumerate(made.items()):
        place = folder / str(number)
        place.mkdir()
        make(place / name)

        def read(path: Path = place / name) -> str:
            picture = read_picture(path)
            height, width = picture.size
            notes = "".join(f"; note: {note}" for note in picture.notes)
            return f"read, {width} × {height}, brightest {picture.pixels.max()}{notes}"

        yield Row("picture", kind, attempt(read, place))


def coco_files(folder: Path) -> Iterator[Row]:
    changes = {
        name: sample[0]
        for group in (coco_samples.STRUCTURE, coco_samples.DAMAGED, coco_samples.TAKEN)
        for name, sample in group.items()
    }
    for number, (kind, change) in enumerate(changes.items()):
        place = folder / str(number)
        file = coco_samples.write(place / "in", change)

        def convert(skip_bad: bool, file: Path = file, place: Path = place) -> str:
            tally = import_coco(file, place / f"out{skip_bad:d}", skip_bad=skip_bad)
            return "; ".join(tally.lines())

        without = attempt(lambda convert=convert: convert(False), place)
        happens = without
        if "SKIP_BAD=1" in without:
            happens += f". SKIP_BAD=1: {attempt(lambda convert=convert: convert(True), place)}"
        yield Row("COCO", kind, happens)


def checkpoints(folder: Path) -> Iterator[Row]:
    state = build("nano", 64, seed=3).state_dict()
    made = dict(weight_samples.TAKEN)
    made |= {name: sample[0] for name, sample in weight_samples.REFUSED.items()}
    for number, (kind, write) in enumerate(made.items()):
        path = folder / f"{number}.pt"
        write(state, path)

        def take(path: Path = path) -> str:
            found = load(None, path, image_size=64, device="cpu").state_dict()
            same = all(torch.equal(weight, state[name]) for name, weight in found.items())
            return f"loaded without SIZE=, weights {'equal' if same else 'DIFFERENT'}"

        yield Row("checkpoint", kind, attempt(take, folder))
        path.unlink(missing_ok=True)

    torch.save(build("tiny", 64, **SAM_2_0).state_dict(), folder / "sam2_hiera_tiny.pt")

    def take_2_0() -> str:
        network = load(None, folder / "sam2_hiera_tiny.pt", image_size=64, device="cpu")
        return f"loaded without SIZE=, as SAM 2.0: {network.no_obj_embed_spatial is None}"

    yield Row("checkpoint", "weights of SAM 2.0", attempt(take_2_0, folder))


def paths(folder: Path) -> Iterator[Row]:
    for name in ODD_NAMES:
        place = folder / name
        file = coco_samples.write(place / "in here")
        os.chdir(place)
        said, wrong = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
            try:
                command(["import-coco", str(file), str(place / name), "--split", "train"])
            except SystemExit as ended:
                status = ended.code
        shards = len(list((place / name / "data").glob("*.parquet")))
        text = f"exit {status}, {shards} shard; {said.getvalue() or wrong.getvalue()}"
        yield Row("path of import-coco", f"`{name}`", " ".join(text.split()))


def main() -> None:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cv2.setNumThreads(1)
        for part in (pictures, coco_files, checkpoints, paths):
            folder = Path(root) / part.__name__
            folder.mkdir()
            rows += part(folder)
        os.chdir("/")
    lines = ["| kind | input | what happens |", "|---|---|---|"]
    lines += [f"| {row.kind} | {row.given} | {row.happens.replace(root, '…')} |" for row in rows]
    text = "\n".join(lines) + "\n"
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(text)
    else:
        print(text)
    print(f"{len(rows)} rows")


if __name__ == "__main__":
    main()
