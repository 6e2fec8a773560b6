"""What scenes took: from the ledgers of earlier runs, or from the measurements that ship with this.

A plan draws from these. What was measured under other settings than the plan's is scaled, and said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from pipeline.errors import UserError
from pipeline.layout import STAGES
from pipeline.planning.simulate import SceneTimes
from pipeline.settings import PROFILES, RunSettings

ASSUMED_GPU_SPEED = 50.0
"""CPU cores that one GPU is taken to be worth at rendering; this project had none to measure."""

MIB = 2**20
FULL_4K = 4096


@dataclass(frozen=True)
class Sample:
    """One scene. Times are seconds, retries included; sizes are bytes.

    Attributes:
        views: Panoramas that were rendered; `good`, those of them that were kept.
        asked: PANOS of its run.
        generate: On one CPU.
        serial: Of its render on CPUs, once for the scene; `parallel`, CPU-seconds of each panorama.
        gpu: On a GPU, of each panorama; None where it was rendered on CPUs.
        annotate: Of each panorama, on one CPU.
        cpu_scene: CPU time of its processes, once for the scene; `cpu_view`, of each panorama.
        scene_bytes: Of its scene file; `raw_bytes`, of each render; `kept_bytes`, of each panorama.
        memory: By stage, the most that it used.
        last: The stage after which it ended; not `annotate` for a seed that was given up.
    """

    generator: str
    views: int
    good: int
    asked: int
    generate: float
    serial: float = 0.0
    parallel: float = 0.0
    gpu: float | None = None
    annotate: float = 0.0
    cpu_scene: float = 0.0
    cpu_view: float = 0.0
    scene_bytes: int = 0
    raw_bytes: int = 0
    kept_bytes: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    last: str = "annotate"

    def views_with(self, panos: int) -> int:
        """Panoramas of this scene when so many are asked for: a small room keeps its few."""
        full = self.views >= self.asked
        return panos if full else min(panos, self.views)

    def times(self, panos: int, gpu_speed: float | None) -> SceneTimes:
        """What it takes with so many panoramas; `gpu_speed` for renders that had no GPU."""
        views = self.views_with(panos)
        on_gpu = self.gpu * views if self.gpu is not None else 0.0
        if self.gpu is None and gpu_speed:
            on_gpu = self.serial + self.parallel * views / gpu_speed
        return SceneTimes(
            generate=self.generate,
            render_serial=self.serial,
            render_parallel=self.parallel * views,
            render_gpu=on_gpu,
            annotate=self.annotate * views,
            generator=self.generator,
            scene_bytes=self.scene_bytes,
            raw_bytes=self.raw_bytes * views,
            memory=self.memory,
            last=self.last,
        )

    def cpu_seconds(self, panos: int, on_gpu: bool) -> float:
        """CPU time of its processes; beside a GPU the parallel part of a render is the GPU's."""
        cpu_view = self.annotate if on_gpu and self.gpu is None else self.cpu_view
        return self.cpu_scene + cpu_view * self.views_with(panos)


@dataclass(frozen=True)
class Measured:
    """Samples, where they come from, and what was assumed on the way."""

    samples: tuple[Sample, ...]
    sources: tuple[str, ...]
    assumptions: tuple[str, ...] = ()
    ledger_bytes: int = 0  # of a scene's records and logs

    @property
    def has_gpu(self) -> bool:
        return any(sample.gpu is not None for sample in self.samples)


@cache
def reference() -> dict[str, Any]:
    """The measurements that ship with this, each with its source."""
    return json.loads(Path(__file__).with_name("reference.json").read_text("utf-8"))


def from_reference(settings: RunSettings) -> Measured:
    """The shipped measurements, scaled to a run's settings.

    Raises:
        UserError: A generator of the run was never measured.
    """
    data = reference()
    known = sorted({row["generator"] for row in data["scenes"]})
    for name, _ in settings.generators:
        if name not in known:
            raise UserError(
                f"GENERATOR={name} has no reference measurements (there are {', '.join(known)}); "
                f"make a few scenes with it and give their folder as LEDGER"
            )
    wanted = {name for name, _ in settings.generators}
    serial = float(data["render_serial"]["value"])
    rows = [row for row in data["scenes"] if row["generator"] in wanted]
    drafts = [_draft_sample(row, serial) for row in rows]
    made = replace(settings, profile="draft", width=1024, samples=PROFILES["draft"].samples)
    sources = [f"reference measurements: {data['scenes_source']}; {data['machine']}"]
    sources.append(f"a render's serial part: {data['render_serial']['source']}")
    samples, notes = scale(drafts, made, settings)
    notes.append("the CPUs are as fast as the reference's, and do nothing else")
    return Measured(tuple(samples), tuple(sources), tuple(notes), data["ledger_bytes"]["value"])


def _draft_sample(row: dict[str, Any], serial: float) -> Sample:
    data, views = reference(), row["panoramas"]
    parallel = (row["render"] - serial) / views
    return Sample(
        generator=row["generator"],
        views=views,
        good=views,
        asked=row["asked"],
        generate=row["generate"],
        serial=serial,
        parallel=parallel,
        annotate=row["annotate"] / views,
        cpu_scene=row["generate"] + serial,
        cpu_view=parallel + row["annotate"] / views,
        scene_bytes=data["scene_bytes"][row["generator"]],
        raw_bytes=data["raw_bytes"]["draft"],
        kept_bytes=data["panorama_bytes"]["draft"],
        memory=dict(zip(STAGES, (size * MIB for size in row["memory"]), strict=True)),
    )


def scale(
    samples: Sequence[Sample], made: RunSettings, wanted: RunSettings
) -> tuple[list[Sample], list[str]]:
    """Samples of one profile, width and number of samples as if they were made with others.

    Returns:
        The samples, and a line for each thing that was assumed.
    """
    if (made.profile, made.width, made.samples) == (wanted.profile, wanted.width, wanted.samples):
        return list(samples), []
    data, notes, scaled = reference(), [], []
    pixels = (wanted.width / made.width) ** 2
    light = 1.0
    for generator in sorted({sample.generator for sample in samples}):
        own = [sample for sample in samples if sample.generator == generator]
        work = pixels * wanted.samples / made.samples
        if made.profile == "draft" and wanted.profile != "draft":
            # to 4K with the samples of `cpu`, by what was measured; from there by counting
            at_4k = data["render_4k"].get(generator, {"factor": 4, "source": "by pixels alone"})
            draft = mean(sample.parallel for sample in own)
            factor = at_4k["factor"] if "factor" in at_4k else at_4k["value"] / draft
            cpu, small = PROFILES["cpu"], PROFILES["draft"]
            base = (cpu.width / small.width) ** 2 * cpu.samples / small.samples
            work *= factor / base
            notes.append(f"{generator} renders at 4K: {at_4k['source']}")
        if wanted.profile == "farm" and made.profile != "farm":
            light = data["full_light"]["factor"]
        for sample in own:
            raised = _kept_at(wanted.width) / _kept_at(made.width)
            parallel = sample.parallel * work * light
            annotate = sample.annotate * pixels
            memory = dict(sample.memory)
            if wanted.width >= FULL_4K > made.width:
                least = data["memory_4k"]["value"] * MIB
                memory["render"] = max(memory.get("render", 0), least)
            scaled.append(
                replace(
                    sample,
                    parallel=parallel,
                    annotate=annotate,
                    cpu_view=sample.cpu_view
                    + (parallel - sample.parallel)
                    + (annotate - sample.annotate),
                    raw_bytes=round(sample.raw_bytes * raised),
                    kept_bytes=round(sample.kept_bytes * raised),
                    memory=memory,
                )
            )
    if light != 1:
        notes.append(
            f"full light paths: {data['full_light']['source']}; no render with PROFILE=farm was "
            "measured"
        )
    notes.append(
        f"scaled from {made.profile} {made.width} pixels wide with {made.samples} samples to "
        f"{wanted.profile} {wanted.width} with {wanted.samples}: renders by pixels and samples, "
        "annotating by pixels"
    )
    return scaled, notes


def _kept_at(width: int) -> float:
    """Bytes of a panorama, from two measured widths in proportion to pixels."""
    sizes = reference()["panorama_bytes"]
    base, at = (sizes["4k"], FULL_4K) if width > 2048 else (sizes["draft"], 1024)
    return base * (width / at) ** 2
