"""The settings of the pipeline's commands: one dataclass for each, one field for each setting.

Settings of a run are in `pipeline.run_settings.RunSettings` (what decides the pixels) and
`pipeline.farm.farm_settings.FarmSettings` (where and how the work is done), for Python code uses
them too; commands take them as groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.farm.farm_settings import FarmSettings
from pipeline.run_settings import RunSettings
from pipeline.setting import Given, Settings, group, like, setting


@dataclass(frozen=True)
class OnRun(Settings):
    """A command on the folder of a run."""

    out: str = setting("out", help="the run's folder, or its URL")


@dataclass(frozen=True)
class Render(OnRun):
    """Make annotated scenes: render, annotate, pack into shards, write the preview page."""

    scenes: int = setting(1, help="finished scenes that OUT holds at the end", at_least=1)
    run: Given[RunSettings] = group(RunSettings, profile="auto")
    farm: Given[FarmSettings] = group(FarmSettings)


@dataclass(frozen=True)
class Status(OnRun):
    """Show what OUT has done, is doing and has failed, from its files alone."""

    json: bool = setting(False, help="print JSON")


@dataclass(frozen=True)
class Failures(OnRun):
    """Show why seeds are quarantined, and the command that makes each of them again."""

    json: bool = setting(False, help="print JSON")
    limit: int = setting(3, help="seeds shown for each kind of failure", at_least=1)


@dataclass(frozen=True)
class Plan(Settings):
    """Estimate hours, storage and price of a run before it starts."""

    cpus: int = setting(help="CPUs of all machines together", at_least=1, required="64")
    scenes: int = setting(1, help="finished scenes that are wanted", at_least=1)
    gpus: int = setting(0, help="GPUs of all machines together", at_least=0)
    waiting_gib: float = like(FarmSettings, "waiting_gib")
    runs: tuple[str, ...] = setting((), help="OUT folders of earlier runs to learn from")
    gpu_speed: float | None = setting(
        None, help="CPU cores that render as fast as one GPU", above=0, default_text="50"
    )
    price_cpu_hour: float | None = setting(None, help="price of a CPU-hour", at_least=0)
    price_gpu_hour: float | None = setting(None, help="price of a GPU-hour", at_least=0)
    price_gib_month: float | None = setting(
        None, help="price of storing a GiB for a month", at_least=0
    )
    json: bool = setting(False, help="print JSON")
    run: Given[RunSettings] = group(
        RunSettings,
        every="the first of RUNS, else {}",
        profile="the first of RUNS, else farm with GPUS and cpu without",
    )


@dataclass(frozen=True)
class Shards(OnRun):
    """Pack the finished scenes of OUT into Parquet shards; render does it too."""


@dataclass(frozen=True)
class Preview(OnRun):
    """Write OUT/preview/index.html, a page to look at."""

    limit: int = setting(24, help="panoramas on the page", at_least=1)


@dataclass(frozen=True)
class OnShards(OnRun):
    """A command on the shards of a run or of another folder."""

    data: str | None = setting(None, help="folder or URL of the shards", default_text="OUT/shards")


@dataclass(frozen=True)
class Verifying(Settings):
    """A command that verifies shards."""

    workers: int | None = setting(
        None, help="processes that verify", at_least=1, default_text="one per CPU"
    )


@dataclass(frozen=True)
class Licensed(Settings):
    """A command that names the dataset's licence."""

    license: str | None = setting(
        None,
        help="the dataset's licence: an identifier such as cc-by-4.0, or a file with the text",
    )


@dataclass(frozen=True)
class Verify(Verifying, OnShards):
    """Read every shard back and check all of it; exit status 1 where something is wrong."""


@dataclass(frozen=True)
class Stats(OnShards):
    """Count what the dataset holds, as JSON and as figures in OUT/card."""


@dataclass(frozen=True)
class Coco(Licensed, OnShards):
    """Export images and COCO annotations to OUT/coco."""

    format: Literal["webp", "png", "jpg"] = setting("webp", help="file format of the images")
    categories: Literal["own", "coco", "lvis", "ade20k", "nyu40"] = setting(
        "own", help="whose categories the annotations have; objects without one are left out"
    )


@dataclass(frozen=True)
class Export(OnShards):
    """Export the dataset to the format of another tool; a repeated export resumes."""

    format: Literal[
        "perspective", "cubemap", "yolo-seg", "webdataset", "nerfstudio", "colmap", "fiftyone"
    ] = setting(help="format", required="perspective")
    to: str | None = setting(
        None, help="folder to write to, new or of the same export", default_text="OUT/export/FORMAT"
    )
    size: int | None = setting(
        None, help="edge of a view", unit="pixels", at_least=32, at_most=8192, default_text="1024"
    )
    fov: float | None = setting(
        None, help="field of view", unit="degrees", at_least=10, at_most=150, default_text="90"
    )
    categories: Literal["own", "coco", "lvis", "ade20k", "nyu40"] | None = setting(
        None, help="whose categories the objects have", default_text="own"
    )


@dataclass(frozen=True)
class Card(Licensed, OnRun):
    """Write the dataset card to OUT/card; it needs LICENSE."""

    repo: str | None = setting(None, help="the dataset's name on the Hub, user/name")


@dataclass(frozen=True)
class Publish(Verifying, Licensed, OnRun):
    """Verify the dataset and send it to the Hugging Face Hub; it needs REPO and LICENSE."""

    repo: str = setting(help="the dataset's name on the Hub", required="user/name")
    private: bool = setting(True, help="whether a new dataset is private")
    dry_run: bool = setting(False, help="only say what would be sent")
    replace: bool = setting(False, help="replace what REPO holds")


@dataclass(frozen=True)
class SettingsReference(Settings):
    """Print the settings of all commands as Markdown: docs/settings.md."""


@dataclass(frozen=True)
class Completion(Settings):
    """Print a script for the shell that completes commands and settings."""

    shell: Literal["bash", "zsh", "fish", "tcsh"] = setting(
        "bash", help="shell that reads the script", positional=True
    )
