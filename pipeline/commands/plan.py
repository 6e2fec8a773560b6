"""The command that says what a run will take: plan."""

from __future__ import annotations

import json
from dataclasses import replace

from pipeline.config import Plan
from pipeline.farm.child import GIB
from pipeline.planning.ledgers import settings_of
from pipeline.planning.machines import Cluster, Rates
from pipeline.planning.plan import plan as make_plan
from pipeline.planning.plan_text import plan_text


def plan(options: Plan) -> None:
    """Hours, storage and price of a run, before it begins."""
    ledgers = list(dict.fromkeys(options.ledger))
    if ledgers and "profile" not in options.run.values:
        settings = replace(settings_of(ledgers[0]), **options.run.values)
    else:
        profile = options.run.values.get("profile", "farm" if options.gpus else "cpu")
        settings = options.run.build(profile=profile)
    memory = None if options.node_memory_gib is None else round(options.node_memory_gib * GIB)
    disk = round(options.waiting_gib * GIB)
    result = make_plan(
        options.scenes,
        settings,
        Cluster(options.cpus, options.gpus, options.node_cpus, memory, disk),
        ledgers=ledgers,
        gpu_speed=options.gpu_speed,
        rates=Rates(options.price_cpu_hour, options.price_gpu_hour, options.price_gib_month),
    )
    print(json.dumps(result.to_json(), indent=1) if options.json else plan_text(result))
