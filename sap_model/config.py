"""The settings of the model's commands: one dataclass for each, one field for each setting.

What a training run and an evaluation are is declared in `sap_model.train.settings` and
`sap_model.evaluate.eval_settings`, for Python code uses them too; commands take them as groups.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config import OnRun
from pipeline.farm.farm_settings import FarmSettings
from pipeline.setting import Given, Settings, group, json_list, like, setting
from sap_model.evaluate.eval_settings import EvalSettings
from sap_model.names import SIZE_HELP, Fusion, Method, Precision, Prompted, Visits
from sap_model.train.settings import Scored, TrainSettings, Watch

CLICK = re.compile(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*(?:,\s*([01])\s*)?")


@dataclass(frozen=True)
class Evaluate(OnRun):
    """Score methods on panoramas in the paper's protocol: tables and a page to look at."""

    eval: Path | None = setting(None, help="folder of the results", default_text="OUT/eval")
    settings: Given[EvalSettings] = group(
        EvalSettings, data="OUT/shards", size=f"the checkpoint's, or {EvalSettings.size}"
    )
    workers: int | None = setting(
        None, help="processes", at_least=1, default_text="one for each GPU, else one"
    )
    ray_address: str | None = like(FarmSettings, "ray_address")


@dataclass(frozen=True)
class Train(OnRun):
    """Fine-tune SAM2 on the scan, or continue a run that was stopped."""

    run: Path | None = setting(None, help="folder of the run", default_text="OUT/train")
    gpus: int = setting(1, help="processes on this machine, one for each GPU", at_least=1)
    settings: Given[TrainSettings] = group(
        TrainSettings, data="OUT/shards", size=f"the checkpoint's, or {TrainSettings.size}"
    )
    watch: Given[Watch] = group(Watch)


@dataclass(frozen=True)
class OnShardFolders(OnRun):
    """A command on several folders of shards."""

    data: tuple[str, ...] = setting((), help="folders or URLs of shards", default_text="OUT/shards")

    @property
    def folders(self) -> tuple[str, ...]:
        return self.data or (shards_of(self),)


@dataclass(frozen=True)
class Nano(OnShardFolders):
    """Make the small model that comes with the package."""

    run: Path | None = setting(None, help="folder of its runs", default_text="OUT/nano")
    weights: Path | None = setting(None, help="folder of the weights", default_text="RUN")


@dataclass(frozen=True)
class Ablations(OnShardFolders):
    """Train and score the paper's tables 4 to 6 at nano scale."""

    run: Path | None = setting(None, help="folder of all of it", default_text="OUT/ablations")
    checkpoint: str = setting(
        "sam2-nano", help="weights to start from: a file, a Hub id, a shipped name, or RUN of nano"
    )
    steps: int | None = setting(
        None, help="optimiser steps", at_least=1, default_text="those of the nano recipe"
    )
    scored: Given[Scored] = group(Scored)


@dataclass(frozen=True)
class ModelCard(OnRun):
    """Write the card of the small models, from their records and their scores."""

    weights: Path | None = setting(
        None, help="folder of the weights and their records", default_text="OUT/nano"
    )
    scores: Path | None = setting(
        None, help="tables.json of an evaluation", default_text="OUT/eval/tables.json"
    )
    repo: str | None = setting(None, help="the models' name on the Hub, for the examples")
    dataset: str | None = setting(None, help="the training data's name on the Hub")


def parse_clicks(text: str) -> tuple[tuple[int, int, int], ...]:
    """Clicks as (x, y, label), from X,Y or X,Y,LABEL or a JSON list of such texts.

    >>> parse_clicks("1200,900"), parse_clicks('["1200,900", "3,4,0"]')
    (((1200, 900, 1),), ((1200, 900, 1), (3, 4, 0)))
    """
    clicks = []
    for part in json_list(text) or [text]:
        found = CLICK.fullmatch(part)
        if not found:
            raise ValueError("X,Y or X,Y,0 in pixels")
        clicks.append((int(found[1]), int(found[2]), int(found[3] or 1)))
    return tuple(clicks)


@dataclass(frozen=True)
class Predict(Settings):
    """Segment an object of a panorama from clicks on it."""

    image: Path = setting(
        help="the panorama: a picture that shows the whole sphere, or says which part",
        positional=True,
        required="room.jpg",
    )
    clicks: tuple[tuple[int, int, int], ...] = setting(
        name="click",
        help="pixel X,Y of the object; with ,0 behind it a pixel beside the object; as often as "
        "needed",
        parse=parse_clicks,
        repeat=True,
        required="1200,900",
    )
    out: Path | None = setting(
        None, help="where the mask goes: PNG, 0 or 255, as large as the picture"
    )
    overlay: Path | None = setting(None, help="where the mask on the picture goes: PNG or JPEG")
    size: str | None = setting(None, help=SIZE_HELP, default_text="the checkpoint's, or nano")
    checkpoint: str | None = setting(
        None,
        help="weights: a file, a Hub id or a shipped name",
        default_text="SAM2's own or the shipped ones, as METHOD needs",
    )
    image_size: int | None = like(EvalSettings, "image_size")
    fusion: Fusion = setting(
        "mean", help="how views become one mask; mean scores higher, max is the paper's"
    )
    cycles: int = like(EvalSettings, "cycles")
    visits: Visits = like(EvalSettings, "visits")
    prompted: Prompted = like(EvalSettings, "prompted")
    precision: Precision = like(EvalSettings, "precision")
    method: Method = setting("zoom", help="how it is done; the oracle needs the truth")


@dataclass(frozen=True)
class CheckGpu(Settings):
    """Compare this machine's GPU with its CPU, and measure seconds and memory: the first command
    to run on a new GPU machine."""

    out: Path = setting(Path("out/check-gpu"), help="folder of check-gpu.json and check-gpu.md")
    sizes: tuple[str, ...] = setting(("tiny", "large"), help="models that are measured")
    image_size: int = setting(
        1024, help="side of their input, a multiple of 32", unit="pixels", at_least=32
    )
    objects: tuple[int, ...] = setting(
        (1, 6), help="objects that are followed together", at_least=1
    )
    frames: tuple[int, ...] = setting((24, 48), help="frames of a clip", at_least=1)
    minutes: float = setting(7.0, help="after which nothing more is begun", unit="minutes", above=0)
    render: bool = setting(True, help="also render a picture, where Blender is installed")


@dataclass(frozen=True)
class Demo(Settings):
    """Open a page on this machine on which masks are clicked."""

    data: str = setting(
        "out/shards",
        help="a picture, a folder of pictures, or a folder or URL of shards",
        positional=True,
    )
    size: str | None = setting(None, help=SIZE_HELP, default_text="the checkpoint's, or nano")
    checkpoint: str | None = setting(
        None, help="weights: a file, a Hub id or a shipped name", default_text="sap-nano"
    )
    image_size: int | None = like(EvalSettings, "image_size")
    method: Literal["warp", "zoom"] = setting("warp", help="how views are joined")
    threads: int = setting(1, help="threads that segment", at_least=1)
    port: int = setting(8360, help="port on 127.0.0.1; 0 takes a free one", at_least=0)
    browser: bool = setting(True, help="open the page in a browser")


@dataclass(frozen=True)
class SegmentFolder(Settings):
    """Segment every panorama of a folder or a video: masks, overlays, one COCO file."""

    data: Path = setting(
        help="a picture, a video, or a folder of them", positional=True, required="panoramas/"
    )
    out: Path = setting(help="folder of the results", required="masks/")
    everything: bool = setting(
        False, help="segment everything", default_text="1 unless PROMPTS is given"
    )
    prompts: Path | None = setting(
        None, help="JSON file of points and boxes for each picture (docs/model.md)"
    )
    every: int = setting(1, help="of a video, take each n-th frame", at_least=1)
    overlays: bool = setting(True, help="write the masks painted on the panoramas")
    points: int = setting(1536, help="points on the sphere, for everything", at_least=1)
    overlapping: bool = setting(True, help="masks of everything in the COCO file may overlap")
    size: str | None = setting(None, help=SIZE_HELP, default_text="the checkpoint's, or nano")
    checkpoint: str = setting("sap-nano", help="weights: a file, a Hub id or a shipped name")
    image_size: int | None = like(EvalSettings, "image_size")
    method: Literal["warp", "zoom"] = setting("zoom", help="how views are joined")


@dataclass(frozen=True)
class ScoreEverything(OnRun):
    """Score how well everything is found: on the sphere, and on the flat panorama."""

    data: str | None = setting(
        None, help="folder or URL of shards", default_text="OUT/shards", positional=True
    )
    split: Literal["train", "validation"] | None = setting(
        None, help="split of the shards", default_text="all"
    )
    limit: int | None = setting(None, help="panoramas", at_least=1, default_text="all")
    points: int = setting(1536, help="points on the sphere, and on the picture", at_least=1)
    size: str | None = setting(None, help=SIZE_HELP, default_text="the checkpoint's, or nano")
    checkpoint: str = setting("sap-nano", help="weights: a file, a Hub id or a shipped name")
    scores: Path | None = setting(None, help="JSON file of all values")


@dataclass(frozen=True)
class Import(Settings):
    """A command that converts a benchmark into shards."""

    source: Path = setting(
        help="the benchmark as it was downloaded", positional=True, required="downloaded/"
    )
    out: Path = setting(help="a new folder for the shards", positional=True, required="imported/")
    min_area: int = setting(
        1, help="smallest object that is kept, in pixels of its picture", at_least=1
    )
    split: Literal["train", "validation"] = setting("validation", help="split of all rows")
    skip_bad: bool = setting(
        False, help="leave out what is damaged, and list it, instead of refusing all"
    )


@dataclass(frozen=True)
class ImportCoco(Import):
    """Convert a COCO JSON and its folder of panoramas into shards."""

    images: Path | None = setting(
        None,
        help="folder of the pictures",
        default_text="the JSON's, or images/ there or beside it",
    )
    crowds: Literal["skip", "instances"] = setting(
        "skip", help="what becomes of annotations with iscrowd 1"
    )


@dataclass(frozen=True)
class ImportPavs(Import):
    """Convert PAV-SOD's PAVS10K, some frames of each video, into shards."""

    frames: str = setting("Frames", help="folder of the frames in SOURCE")
    masks: str = setting("Instances", help="folder of the instance masks in SOURCE")
    seed: int = setting(0, help="of the draw of frames", at_least=0)
    per_video: int = setting(3, help="frames drawn from each video", at_least=1)


@dataclass(frozen=True)
class ImportHunyuan(Import):
    """Convert a folder per panorama with a mask per object into shards."""


def shards_of(options: OnRun) -> str:
    """Where the shards of a run lie: OUT may be a URL."""
    return f"{options.out.rstrip('/')}/shards"
