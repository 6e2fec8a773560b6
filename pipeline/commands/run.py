"""The commands on a run: render, status, failures, shards, preview."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import Any

from pipeline import storage
from pipeline.config import Failures, OnRun, Preview, Render, Shards, Status
from pipeline.errors import UserError
from pipeline.layout import RunFolder
from pipeline.run_settings import PROFILES, read_run_settings
from pipeline.storage import exists, open_path

BRIEF = 10.0
"""Seconds for which `status` and `failures` wait for a store that does not answer."""


def render(options: Render) -> None:
    """Seeds → panoramas → shards → preview."""
    from pipeline.farm.driver import render_run
    from pipeline.farm.records import names_of
    from pipeline.preview.page import is_current, write_preview
    from pipeline.shards.writer import pack

    if find_spec("bpy") is None:
        raise UserError(
            "package bpy is missing, which exists for Python 3.11 alone; run: make setup (in a "
            'checkout), or with Python 3.11: pip install "sap-panorama[render]"'
        )
    run = run_folder(options)
    farm = options.farm.build()
    profile = options.run.values.get("profile", "auto")
    automatic = profile == "auto"
    # refuses wrong settings before Blender starts to look for GPUs
    settings = options.run.build(profile="cpu" if automatic else profile)
    if automatic:
        profile = _automatic_profile(run, not farm.works_here)
        settings = options.run.build(profile=profile)
    if PROFILES[profile].gpu and farm.works_here:
        farm = replace(farm, gpus=len(_gpus()))  # Ray does not find every GPU that Cycles finds
    print(
        f"{', '.join(name for name, _ in settings.generators)} scenes, {settings.panos} panoramas "
        f"each, profile {settings.profile}: {settings.width}×{settings.height}, "
        f"{settings.samples} samples; into {run.path}"
    )
    summary = render_run(run, settings, options.scenes, farm)
    packed = pack(run, settings)
    page = run.preview / "index.html"
    if not is_current(run):
        page = write_preview(run)
    _report(packed)
    if (finished := len(names_of(run.done_folder))) > options.scenes:
        print(f"OUT holds {finished} finished scenes, more than SCENES={options.scenes}")
    print(
        f"{len(summary.scenes)} scenes done ({summary.made} now, {len(summary.failed)} seeds "
        f"failed), {summary.panoramas} panoramas\n"
        f"shards:  {run.shards / 'data'}\n"
        f"load:    {loading(run.shards / 'data')}\n"
        f"look:    {page}"
    )


def loading(data: object) -> str:
    """The Python that opens shards, whatever characters their folder has.

    >>> print(loading("it's out/shards/data"))
    datasets.load_dataset('parquet', data_dir="it's out/shards/data")
    """
    return f"datasets.load_dataset('parquet', data_dir={str(data)!r})"


def status(options: Status) -> None:
    """What OUT has done, is doing and has failed."""
    from pipeline.farm.report import status_json, status_text

    storage.errors.RETRY_SECONDS = BRIEF
    run = run_folder(options)
    read_run_settings(run.path)  # refuses a folder that holds no run, or a damaged one
    print(status_json(run) if options.json else status_text(run))


def failures(options: Failures) -> None:
    """Why seeds are quarantined, and how to make each of them again."""
    from pipeline.farm.report import failures_json, failures_text

    storage.errors.RETRY_SECONDS = BRIEF
    run = run_folder(options)
    read_run_settings(run.path)
    print(failures_json(run) if options.json else failures_text(run, options.limit))


def shards(options: Shards) -> None:
    """Finished scenes → shards."""
    from pipeline.shards.writer import pack

    run = run_folder(options)
    settings, rows_hash = read_run_settings(run.path)
    packed = pack(run, settings, rows_hash=rows_hash)
    _report(packed)


def preview(options: Preview) -> None:
    """Shards → preview page."""
    from pipeline.preview.page import write_preview

    print(write_preview(run_folder(options), options.limit))


def run_folder(options: OnRun) -> RunFolder:
    """OUT: a folder, or a URL of a store that fsspec reaches."""
    return RunFolder(open_path(options.out))


def _automatic_profile(run: RunFolder, cluster: bool) -> str:
    """The profile of a run that exists, else `farm` where Cycles finds a GPU, else `cpu`."""
    if exists(run.settings):
        return read_run_settings(run.path)[0].profile
    if cluster:
        raise UserError(
            "PROFILE=auto looks for GPUs on this machine, not on the Ray cluster; give "
            "PROFILE=farm (GPUs) or PROFILE=cpu"
        )
    gpus = _gpus()
    print(f"PROFILE=auto: {'GPU ' + ', '.join(gpus) if gpus else 'Cycles finds no GPU here'}")
    return "farm" if gpus else "cpu"


@cache
def _gpus() -> tuple[str, ...]:
    """Names of this machine's GPUs, as Cycles finds them."""
    found = subprocess.run(  # Blender never runs in this process
        [sys.executable, "-m", "pipeline.blender.devices"], capture_output=True, text=True
    )
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"Blender does not start ({reason}); run: make clean setup")
    line = (found.stdout.splitlines() or [""])[-1]  # Blender may print other lines before it
    return tuple(name for name in line.split(", ") if name)


def _report(packed: dict[str, Any]) -> None:
    """What the shards hold, what is not in them, and why."""
    print(
        f"{packed['train']} panoramas for training, {packed['validation']} for validation; "
        f"{packed['left_out']} unfit ones left out"
    )
    if packed["waiting"]:
        print(
            f"{packed['waiting']} finished scenes are not packed yet: scenes with earlier seeds are"
            " not finished, and a dataset grows in the order of its seeds; make render continues"
        )
    print(f"{packed['dropped']} instances below the minimum area were dropped")
    unknown = packed["unknown"]
    if unknown:
        names = ", ".join(f"{name} ({count})" for name, count in unknown.most_common())
        print(f"categories not in the table, named after the object: {names}")
