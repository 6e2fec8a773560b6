"""The error of `make plan` against a real run.

python -m tests.benchmarks.plan_error OUT --cpus N [--gpus N] [--hours MEASURED]

Two estimates: of the complete run by the reference measurements, and of its second half by its
first half. Measured hours run from the first start to the last end of an attempt; `--hours` gives
them for a run that was interrupted. The run must have had the CPUs for itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import Attempt, read_attempts
from pipeline.farm.plan_estimate import Cluster, Estimate, Interval, estimate, read_costs
from pipeline.farm.records import Done, names_of, read_all_done
from pipeline.layout import RunFolder
from pipeline.run_settings import read_run_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--hours", type=float)
    options = parser.parse_args()
    settings, _ = read_run_settings(storage.open_path(options.out))
    cluster = Cluster(options.cpus, options.gpus)
    run = RunFolder(storage.open_path(options.out))
    names = sorted(names_of(run.done_folder))
    records = sorted(read_all_done(run, names), key=lambda record: record.seed)

    print(f"\nThe complete run ({len(records)} scenes), estimated by the reference\n")
    try:
        report(estimate(len(records), settings, cluster), run, records, options.hours)
    except UserError as error:
        print(error)
    early, later = records[: len(records) // 2], records[len(records) // 2 :]
    generators = {record.generator for record in early}
    later = [record for record in later if record.generator in generators]
    shares = [record.generator for record in later]
    mix = tuple((name, shares.count(name) / len(later)) for name in sorted(set(shares)))
    costs = read_costs(run, settings.panos, {record.scene_id for record in early})
    print(f"\nThe later {len(later)} scenes, estimated by the first {len(early)}\n")
    settings = replace(settings, generators=mix)
    report(estimate(len(later), settings, cluster, costs=costs), run, later, None)


def report(
    estimated: Estimate, run: RunFolder, records: Sequence[Done], hours: float | None
) -> None:
    attempts: list[Attempt] = [
        one for record in records for one in read_attempts(run.scene(record.scene_id))
    ]
    if hours is None:
        ends = [one.ended for one in attempts if one.ended is not None]
        hours = (max(ends) - min(one.started for one in attempts)) / 3600
    costs = [cost for record in records for cost in record.costs.values()]
    print("| figure | estimated | 90 % interval | measured | error |\n|---|---|---|---|---|")
    _row("panoramas", estimated.panoramas, sum(len(record.panoramas) for record in records))
    _row("hours", estimated.hours, hours)
    _row("CPU-hours", estimated.cpu_hours, sum(cost.cpu_seconds for cost in costs) / 3600)
    if gpu := sum(cost.gpu_seconds for cost in costs) / 3600:
        _row("GPU-hours", estimated.gpu_hours, gpu)
    kept = sum(record.bytes.get("panoramas", 0) for record in records)
    _row("MiB of panoramas", estimated.shard_bytes.scaled(2**-20), kept / 2**20)


def _row(name: str, estimated: Interval, measured: float) -> None:
    error = f"{estimated.value / measured - 1:+.0%}" if measured else ""
    print(
        f"| {name} | {estimated.value:.2f} | {estimated.low:.2f} to {estimated.high:.2f} | "
        f"{measured:.2f} | {error} |"
    )


if __name__ == "__main__":
    main()
