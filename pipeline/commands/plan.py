"""The command that says what a run will take: plan."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from pipeline.errors import UserError
from pipeline.farm.child import GIB
from pipeline.planning.ledgers import settings_of
from pipeline.planning.machines import Cluster, Rates
from pipeline.planning.plan import plan as make_plan
from pipeline.planning.plan_text import plan_text
from pipeline.settings import make_settings, parse_mix


def plan(options: argparse.Namespace) -> None:
    """Hours, storage and price of a run, before it begins."""
    if options.cpus is None:
        raise UserError("CPUS is not given; say how many the machines have together: CPUS=64")
    ledgers = list(dict.fromkeys(name for name in options.ledger.split(",") if name))
    names = ("generator", "width", "samples", "seed", "panos")
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(options, name)) is not None
    }
    if ledgers and options.profile is None:  # as the ledger's, but for what is given
        if "generator" in given:
            given["generators"] = parse_mix(given.pop("generator"))
        settings = replace(settings_of(ledgers[0]), **given)
    else:
        profile = options.profile or ("farm" if options.gpus else "cpu")
        settings = make_settings(profile=profile, **given)
    memory = None if options.node_memory is None else options.node_memory * GIB
    disk = {} if options.waiting_gb is None else {"disk": options.waiting_gb * 10**9}
    result = make_plan(
        options.scenes,
        settings,
        Cluster(options.cpus, options.gpus, options.node_cpus, memory, **disk),
        ledgers=ledgers,
        gpu_speed=options.gpu_speed,
        rates=Rates(options.price_cpu_hour, options.price_gpu_hour, options.price_gb_month),
    )
    print(json.dumps(result.to_json(), indent=1) if options.json else plan_text(result))
