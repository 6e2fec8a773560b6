"""The check as a whole: machine, comparisons, measurements → check-gpu.json and check-gpu.md."""

from __future__ import annotations

import time
import traceback
from typing import Any

import torch

from pipeline import __version__
from pipeline.layout import write_json
from pipeline.storage import write_atomic
from sap_model.check_gpu import machine
from sap_model.check_gpu.compare import CHECKS, Comparison
from sap_model.check_gpu.measure import Measurement, Plan, measurements
from sap_model.config import CheckGpu

NO_GPU = (
    "**No GPU was seen.** All of this ran on the CPU: two ways on the CPU are compared, and "
    "seconds say nothing about a GPU."
)


def check(options: CheckGpu) -> tuple[str, bool]:
    """Run everything that there is time for, and write both files.

    Returns:
        The table as Markdown, and whether all comparisons passed.
    """
    started = time.monotonic()

    def has_time() -> bool:
        return time.monotonic() - started < 60 * options.minutes

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = machine.describe()
    compared: list[Comparison] = []
    failures: dict[str, str] = {}
    for name, compare in CHECKS.items():
        try:
            compared += compare(device)
        except Exception as error:  # the other checks still say something
            failures[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(options.sizes, options.image_size, options.objects, options.frames, device)
    measured: list[Measurement] = []
    try:
        for one in measurements(plan, has_time):
            measured.append(one)
            print(_line(one), flush=True)
    except Exception as error:
        failures["measurements"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    rendered: dict[str, Any] = {"skipped": "RENDER=0"}
    if options.render:
        rendered = machine.render(str(options.out / "check-gpu.png"))
    content = {
        "version": __version__,
        "machine": facts,
        "comparisons": [{**one._asdict(), "passed": one.passed} for one in compared],
        "failures": failures,
        "measurements": [one.json() for one in measured],
        "render": rendered,
        "minutes": round((time.monotonic() - started) / 60, 2),
    }
    write_json(options.out / "check-gpu.json", content)
    text = report(facts, compared, failures, measured, rendered)
    write_atomic(options.out / "check-gpu.md", text.encode())
    return text, not failures and all(one.passed for one in compared)


def report(
    facts: dict[str, Any],
    compared: list[Comparison],
    failures: dict[str, str],
    measured: list[Measurement],
    rendered: dict[str, Any],
) -> str:
    """All of it as Markdown."""
    lines = ["# check-gpu", ""]
    if facts["gpu"] is None:
        lines += [NO_GPU, ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += [f"- render: {rendered}", ""]
    lines += ["| compared with the CPU | in | difference | allowed | |", "|---|---|---|---|---|"]
    for one in compared:
        verdict = "equal" if one.passed else "**DIFFERENT**"
        lines.append(
            f"| {one.name} | {one.precision} | {one.difference:.3g} {one.unit} | {one.tolerance:g} "
            f"| {verdict} |"
        )
    lines += [f"| {name} | | | | **FAILED**: {error} |" for name, error in failures.items()]
    lines += [
        "",
        "| work | model | in | objects | frames | checkpointing | seconds | expected | peak GiB "
        "| TFLOP/s | flash attention |",
        "|---" * 11 + "|",
        *(_line(one) for one in measured),
    ]
    return "\n".join(lines) + "\n"


def _line(one: Measurement) -> str:
    seconds = one.note if one.seconds is None else f"{one.seconds:.4f}"
    checkpointing = {None: "", True: "on", False: "off"}[one.checkpointing]
    flash = {None: "", True: "used", False: "not used"}[one.flash]
    cells = [one.work, one.size, one.precision, one.objects or "", one.frames or "", checkpointing]
    numbers = [
        "" if value is None else f"{value:.{digits}f}"
        for value, digits in ((one.expected, 4), (one.memory_gib, 1), (one.teraflops, 1))
    ]
    return "| " + " | ".join(map(str, [*cells, seconds, *numbers, flash])) + " |"
