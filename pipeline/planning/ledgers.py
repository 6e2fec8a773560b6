"""The ledgers of earlier runs as samples of what a scene takes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import Attempt, read_attempts
from pipeline.farm.records import Cost, Done, Failed, read_all_done, read_failed
from pipeline.layout import RunFolder, read_json
from pipeline.planning.measured import Measured, Sample, reference, scale
from pipeline.settings import RunSettings, from_json

LOOKED_AT = 200
"""Scenes whose attempts are read as well, for the CPUs that their renders had."""

FEW = 3
"""Renders on several CPUs that are enough to tell what one thread does of them."""


def settings_of(folder: str) -> RunSettings:
    """The settings of an earlier run.

    Raises:
        UserError: There is no run.
    """
    run = RunFolder(storage.open_path(folder))
    try:
        return from_json(read_json(run.settings)["settings"])
    except FileNotFoundError:
        raise UserError(
            f"LEDGER={folder} holds no run (run.json is missing); leave LEDGER out to plan by the "
            "reference measurements"
        ) from None


def from_ledgers(folders: Sequence[str], wanted: RunSettings) -> Measured:
    """What the scenes of earlier runs took, scaled to a GPU's profile where they had none.

    Raises:
        UserError: A folder holds no finished scene, or was made with other settings.
    """
    samples: list[Sample] = []
    sources, notes = [], []
    for folder in folders:
        made = settings_of(folder)
        same = (made.profile, made.width, made.samples) == (
            wanted.profile,
            wanted.width,
            wanted.samples,
        )
        if not same and wanted.profile != "farm":
            raise UserError(
                f"LEDGER={folder} was made with PROFILE={made.profile} WIDTH={made.width} "
                f"SAMPLES={made.samples}; plan with these, or leave LEDGER out"
            )
        run = RunFolder(storage.open_path(folder))
        found, about = read_samples(run, made.panos)
        names = {name for name, _ in wanted.generators}
        found, more = scale([one for one in found if one.generator in names], made, wanted)
        good = sum(one.last == "annotate" for one in found)
        sources.append(
            f"ledger {folder}: {good} finished scenes, {len(found) - good} seeds given up; {about}"
        )
        samples += found
        notes += more
    finished = {one.generator for one in samples if one.good}
    for name, _ in wanted.generators:
        if name not in finished:
            raise UserError(
                f"LEDGER={','.join(folders)} holds no finished scene of GENERATOR={name}; make a "
                "few first, or leave LEDGER out to plan by the reference measurements"
            )
    size = reference()["ledger_bytes"]["value"]
    return Measured(tuple(samples), tuple(sources), tuple(dict.fromkeys(notes)), size)


def read_samples(
    run: RunFolder, asked: int, only: Container[str] | None = None
) -> tuple[list[Sample], str]:
    """The scenes of a run by their names, and what their times rest on.

    Args:
        asked: PANOS of the run.
        only: Scenes that are taken; None takes all.
    """
    done = list(read_all_done(run, _ids(run.done_folder, only)))
    failed = [read_failed(run, name) for name in _ids(run.failed_folder, only)]
    tried = {
        record.scene_id: read_attempts(run.scene(record.scene_id)) for record in done[:LOOKED_AT]
    }
    serial, about = _serial(tried)
    kept = _shard_bytes(run)
    samples = [
        _done_sample(record, asked, serial, _threads(tried.get(record.scene_id, [])), kept)
        for record in done
    ]
    made = [record.costs.get("generate", Cost()) for record in done]
    used = sum(cost.cpu_seconds for cost in made)
    if used:  # more than about 1 where the machine had other work, or waited for its disk
        waited = sum(cost.seconds for cost in made) / used
        about += f"; generating took {waited:.1f} times its CPU time, and hours are planned with it"
    return samples + [_failed_sample(record, asked) for record in failed], about


def _ids(folder: Path, only: Container[str] | None) -> list[str]:
    """Scenes that have a record in a folder."""
    names = (name for name in storage.names(folder) if not name.startswith("."))
    found = sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))
    return found if only is None else [name for name in found if name in only]


def _threads(tried: Sequence[Attempt]) -> int:
    """CPUs of a scene's render; 1 where it is not known, which is what a busy farm gives."""
    return max(
        (one.cpus for one in tried if one.stage == "render" and one.reason == "ok"), default=1
    )


def _serial(tried: dict[str, list[Attempt]]) -> tuple[float, str]:
    """Seconds of a render that one thread takes however many there are, and how that is known.

    On n CPUs the CPUs are held for n × wall-clock seconds, and what is not used of that is what
    n − 1 waited for. A busy machine only adds to it, so the lower quartile is taken.
    """
    waited = sorted(
        max(0.0, (one.cpus * one.seconds - one.cpu_seconds) / (one.cpus - 1))
        for attempts in tried.values()
        for one in attempts
        if one.stage == "render" and one.reason == "ok" and one.cpus > 1 and not one.gpus
    )
    if len(waited) >= FEW:
        return waited[len(waited) // 4], f"a render's serial part from {len(waited)} renders there"
    return float(reference()["render_serial"]["value"]), "a render's serial part from the reference"


def _done_sample(
    record: Done, asked: int, serial: float, threads: int, kept: float | None
) -> Sample:
    views = max(1, len(record.panoramas) + len(record.unfit))
    generate, render, annotate = (
        record.costs.get(stage, Cost()) for stage in ("generate", "render", "annotate")
    )
    on_gpu = render.gpu_seconds > 0
    serial = min(serial, render.cpu_seconds / 2)
    ideal = serial + (render.cpu_seconds - serial) / threads
    stretch = render.seconds / ideal if ideal and not on_gpu else 1.0  # a busy or slow machine
    size = record.bytes.get("panoramas", 0) / views
    return Sample(
        generator=record.generator,
        views=views,
        good=len(record.panoramas),
        asked=asked,
        generate=generate.seconds,
        serial=0.0 if on_gpu else serial * stretch,
        parallel=0.0 if on_gpu else (render.cpu_seconds - serial) * stretch / views,
        gpu=render.gpu_seconds / views if on_gpu else None,
        annotate=annotate.seconds / views,
        cpu_scene=generate.cpu_seconds + (0.0 if on_gpu else serial),
        cpu_view=(render.cpu_seconds - (0.0 if on_gpu else serial) + annotate.cpu_seconds) / views,
        scene_bytes=record.bytes.get("scene", 0),
        raw_bytes=round(record.bytes.get("rendered", 0) / views),
        kept_bytes=round(size if kept is None else kept),
        memory={stage: cost.peak_rss for stage, cost in record.costs.items()},
    )


def _failed_sample(record: Failed, asked: int) -> Sample:
    """A seed that was given up: what it took is paid, and brings no panorama."""
    costs = record.costs
    generate, render, annotate = (
        costs.get(stage, Cost()) for stage in ("generate", "render", "annotate")
    )
    on_gpu = render.gpu_seconds > 0
    return Sample(
        generator=record.generator,
        views=asked,
        good=0,
        asked=asked,
        generate=generate.seconds,
        parallel=0.0 if on_gpu else render.seconds / asked,
        gpu=render.gpu_seconds / asked if on_gpu else None,
        annotate=annotate.seconds / asked,
        cpu_scene=generate.cpu_seconds,
        cpu_view=(render.cpu_seconds + annotate.cpu_seconds) / asked,
        memory={stage: cost.peak_rss for stage, cost in costs.items()},
        last=record.stage,
    )


def _shard_bytes(run: RunFolder) -> float | None:
    """Bytes of a panorama in the run's shards; None where it is not packed."""
    manifest = run.shards / "manifest.json"
    if not storage.exists(manifest):
        return None
    shards = [one for one in read_json(manifest).values() if isinstance(one, dict)]
    rows = sum(int(one.get("panoramas", 0)) for one in shards)
    return sum(int(one.get("bytes", 0)) for one in shards) / rows if rows else None
