"""A plan in words."""

from __future__ import annotations

from pipeline.planning.plan import PAPER_GPU_HOURS, PAPER_PANORAMAS, Plan, Spread

HOURS = ",.1f"
"""How hours are written; below ten with one digit more."""


def plan_text(plan: Plan) -> str:
    """Several lines: what the run takes, what that rests on, and the paper's size beside it.

    Args:
        plan: As `plan.plan` made it.
    """
    return "\n".join([*_head(plan), "", *_costs(plan), "", *_rest(plan), "", *_paper(plan)]) + "\n"


def _head(plan: Plan) -> list[str]:
    cluster = plan.cluster
    machines = f"{cluster.cpus:,} CPUs"
    if cluster.gpus:
        machines += f" and {cluster.gpus:,} GPUs"
    nodes = len(cluster.nodes())
    return [
        f"{plan.scenes:,} scenes of {plan.generator}, up to {plan.panos} panoramas each, "
        f"PROFILE={plan.profile} WIDTH={plan.width}",
        f"on {machines} in {nodes} node{'s' if nodes > 1 else ''}; "
        "in brackets 90 % intervals over the measured scenes",
    ]


def _costs(plan: Plan) -> list[str]:
    lines = [
        f"panoramas      {_span(plan.panoramas, ',.0f')}",
        f"hours          {_span(plan.hours, HOURS)}{_extrapolated(plan)}",
        f"CPU-hours      {_span(plan.cpu_hours, HOURS)}",
    ]
    if plan.cluster.gpus:
        lines.append(f"GPU-hours      {_span(plan.gpu_hours, HOURS)}")
    busy = [
        f"{name} {share:.0%}"
        for name, share in (("CPUs", plan.cpu_busy), ("GPUs", plan.gpu_busy))
        if share is not None
    ]
    if busy:
        lines.append(f"busy           {', '.join(busy)}, between filling and draining")
    if plan.failed >= 0.5:
        lines.append(f"seeds given up {plan.failed:,.0f}, paid for in the hours above")
    kept = plan.shard_bytes
    lines += [
        f"OUT keeps      {_sizes(kept)} of shards, "
        f"{_size(plan.panorama_bytes.value)} of panoramas beside the scenes, "
        f"{_size(plan.ledger_bytes)} of records and logs",
        f"while it runs  {_size(plan.scratch_bytes)} of scene files and raw renders at most; "
        f"{plan.waiting_scenes:,} scenes ahead of the renders, counted as "
        f"{_size(plan.waiting_bytes)} (limit {_size(plan.cluster.disk)})",
    ]
    if plan.price is not None:
        lines.append(
            f"price          {_span(plan.price, ',.2f')}, all machines for all hours, idle or not, "
            "and OUT for a month"
        )
    return lines


def _rest(plan: Plan) -> list[str]:
    lines = [f"from: {source}" for source in plan.sources]
    lines += [f"assumed: {one}" for one in plan.assumptions]
    if plan.cluster.node_memory is None:
        lines.append(
            "assumed: memory is enough for one attempt on each CPU; NODE_MEMORY_GIB= checks it"
        )
    lines.append("the intervals know nothing of what is assumed")
    lines.append("not counted: installing, packing shards and the preview, verifying, publishing")
    return lines + [f"warning: {one}" for one in plan.warnings]


def _paper(plan: Plan) -> list[str]:
    cpu, gpu = plan.cpu_seconds_each, plan.gpu_seconds_each
    ours = f"{cpu * PAPER_PANORAMAS / 3600:,.0f} CPU-hours ({cpu:,.0f} CPU-seconds each)"
    if plan.cluster.gpus:
        hours = gpu * PAPER_PANORAMAS / 3600
        ours += f" and {hours:,.0f} GPU-hours ({gpu:,.0f} GPU-seconds each)"
    paper = PAPER_GPU_HOURS * 3600 / PAPER_PANORAMAS
    lines = [
        f"the paper's {PAPER_PANORAMAS:,} panoramas would take {ours};",
        f"the paper spent {PAPER_GPU_HOURS:,} GPU-hours ({paper:,.0f} GPU-seconds each)",
    ]
    if plan.width < 4096:
        lines[-1] += f"; its panoramas are 4096 wide, this plan's {plan.width}"
    return lines


def _extrapolated(plan: Plan) -> str:
    if plan.simulated >= plan.scenes:
        return ", simulated"
    return f", {plan.simulated:,} scenes simulated, the rest at their pace"


def _span(spread: Spread, form: str) -> str:
    if form == HOURS and max(spread.value, spread.high) < 10:
        form = ",.2f"
    if spread.low == spread.high:
        return f"{spread.value:{form}}"
    return f"{spread.value:{form}} [{spread.low:{form}}, {spread.high:{form}}]"


def _sizes(spread: Spread) -> str:
    if spread.low == spread.high:
        return _size(spread.value)
    return f"{_size(spread.value)} [{_size(spread.low)}, {_size(spread.high)}]"


def _size(count: float) -> str:
    """Bytes in words.

    >>> _size(2_500_000), _size(0)
    ('2.5 MB', '0 bytes')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
