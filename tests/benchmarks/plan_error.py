"""A plan held against what a run really took.

python -m tests.benchmarks.plan_error OUT --cpus N [--gpus N] [--hours MEASURED]

Two plans of the run: by the reference measurements, and by the first half of its own scenes for the
second half. Measured hours are those between the first start and the last end of an attempt;
`--hours` says them where the run was stopped in between. The run must have had the CPUs for itself.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import Attempt, read_attempts
from pipeline.farm.records import Done, read_done
from pipeline.layout import RunFolder
from pipeline.planning.ledgers import read_samples, settings_of
from pipeline.planning.machines import Cluster
from pipeline.planning.measured import Measured, reference
from pipeline.planning.plan import Plan, Spread, plan
from pipeline.settings import RunSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--hours", type=float)
    options = parser.parse_args()
    settings, cluster = settings_of(options.out), Cluster(options.cpus, options.gpus)
    run = RunFolder(storage.open_path(options.out))
    names = sorted(name.removesuffix(".json") for name in storage.names(run.done_folder))
    records = sorted((read_done(run, name) for name in names), key=lambda one: one.seed)
    size = reference()["ledger_bytes"]["value"]

    print(f"\nThe whole run ({len(records)} scenes), planned by the reference\n")
    try:
        report(plan(len(records), settings, cluster), run, records, options.hours)
    except UserError as error:
        print(error)
    half = len(records) // 2
    early, later = records[:half], records[half:]
    kinds = {one.generator for one in early}
    later = [one for one in later if one.generator in kinds]  # others cannot be known
    found, about = read_samples(run, settings.panos, {one.scene_id for one in early})
    known = Measured(tuple(found), (f"{options.out}, first half",), (), size)
    print(f"\nThe later {len(later)} scenes, planned by the first {half} ({about})\n")
    report(later_plan(known, later, settings, cluster), run, later, None)


def later_plan(known: Measured, later: list[Done], settings: RunSettings, cluster: Cluster) -> Plan:
    """A plan of the later scenes; of their seeds where all generators are known."""
    kinds = sorted({one.generator for one in known.samples if one.good})
    if len(kinds) == len(settings.generators):
        settings = replace(settings, seed=later[0].seed)
    else:
        settings = replace(settings, generators=tuple((name, 1.0) for name in kinds))
    return plan(len(later), settings, cluster, measured=known)


def report(planned: Plan, run: RunFolder, records: list[Done], hours: float | None) -> None:
    tried: list[Attempt] = [
        one for record in records for one in read_attempts(run.scene(record.scene_id))
    ]
    if hours is None:
        ends = [one.ended for one in tried if one.ended is not None]
        hours = (max(ends) - min(one.started for one in tried)) / 3600
    cpu = sum(cost.cpu_seconds for one in records for cost in one.costs.values()) / 3600
    gpu = sum(cost.gpu_seconds for one in records for cost in one.costs.values()) / 3600
    kept = sum(one.bytes.get("panoramas", 0) for one in records)
    count = sum(len(one.panoramas) for one in records)
    print("| figure | planned | 90 % interval | measured | error |\n|---|---|---|---|---|")
    _row("panoramas", planned.panoramas, count)
    _row("hours", planned.hours, hours)
    _row("CPU-hours", planned.cpu_hours, cpu)
    if gpu:
        _row("GPU-hours", planned.gpu_hours, gpu)
    _row("MB of panoramas", planned.panorama_bytes.map(lambda size: size / 1e6), kept / 1e6)


def _row(name: str, planned: Spread, measured: float) -> None:
    error = f"{planned.value / measured - 1:+.0%}" if measured else ""
    print(
        f"| {name} | {planned.value:.2f} | {planned.low:.2f} to {planned.high:.2f} | "
        f"{measured:.2f} | {error} |"
    )


if __name__ == "__main__":
    main()
