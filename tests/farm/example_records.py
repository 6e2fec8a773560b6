"""Invented records for tests, and the sums that they must give."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import strategies as st

from pipeline.farm.attempt import Attempt
from pipeline.farm.records import Done, Failed, costs_of, hosts_of, lost_in, to_json
from pipeline.farm.status import RunStatus
from pipeline.layout import STAGES, RunFolder

REASONS = ("ok", "crashed", "memory", "timeout", "node", "interrupted")


def name(seed: int) -> str:
    return f"spheres-{seed:010d}"


@st.composite
def example_runs(draw: st.DrawFn) -> list[tuple[str, list[Attempt]]]:
    """Scenes, each finished or failed, with all their attempts."""
    number = st.floats(0, 1e6, allow_nan=False)
    attempt = st.builds(
        lambda stage, reason, host, **numbers: Attempt(
            stage, 1, host, 1, 0.0, 0.0, ended=1.0, reason=reason, **numbers
        ),
        stage=st.sampled_from(STAGES),
        reason=st.sampled_from(REASONS),
        host=st.sampled_from(("host-a", "host-b", "host-c")),
        seconds=number,
        cpu_seconds=number,
        peak_rss=st.integers(0, 2**36),
        gpus=st.integers(0, 2),
        bytes=st.integers(0, 2**36),
    )
    scene = st.tuples(st.sampled_from(("done", "failed")), st.lists(attempt, max_size=6))
    return draw(st.lists(scene, max_size=8))


def random_runs(count: int) -> list[tuple[str, list[Attempt]]]:
    """Many scenes, a tenth of them failed."""
    draw = random.Random(0)
    return [
        (
            "failed" if draw.random() < 0.1 else "done",
            [
                Attempt(
                    *(
                        draw.choice(STAGES),
                        1,
                        draw.choice("abc"),
                        1,
                        0.0,
                        0.0,
                        1.0,
                        draw.choice(REASONS),
                    ),
                    seconds=draw.uniform(0, 1000),
                    cpu_seconds=draw.uniform(0, 1000),
                    peak_rss=draw.randrange(2**36),
                    gpus=draw.randrange(2),
                    bytes=draw.randrange(2**30),
                )
                for _ in range(draw.randrange(8))
            ],
        )
        for _ in range(count)
    ]


def write_record(
    run: RunFolder, seed: int, kind: str, tried: list[Attempt], when: float = 100.0
) -> None:
    """What the farm leaves of a scene: panorama 0 is unfit, 1 and 2 are good."""
    common = {
        "scene_id": name(seed),
        "seed": seed,
        "generator": "spheres",
        "costs": costs_of(tried),
        "reasons": dict(Counter(str(one.reason) for one in tried)),
        "nodes": hosts_of(tried),
    }
    if kind == "done":
        taken = {stage: sum(one.bytes for one in tried if one.stage == stage) for stage in STAGES}
        what = dict(zip(("scene", "rendered", "panoramas"), taken.values(), strict=True))
        record: Done | Failed = Done(
            **common,
            panoramas=(1, 2),
            unfit={"0": ["black"]},
            bytes=what,
            finished=when,
            lost=lost_in(tried),
        )
    else:
        end = tried[-1] if tried else Attempt("generate", 1, "", 0, 0.0, 0.0, reason="crashed")
        record = Failed(
            **common,
            stage=end.stage,
            reason=str(end.reason),
            detail="boom",
            log=f"attempts/{end.stage}-1.log",
            log_tail="boom",
            run_again="make render",
            when=when,
        )
    folder = run.done_folder if kind == "done" else run.failed_folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name(seed)}.json").write_text(json.dumps(to_json(record)))


def check_against_attempts(status: RunStatus, scenes: list[tuple[str, list[Attempt]]]) -> None:
    """Compare all sums with naive ones."""
    totals = status.totals
    done = [tried for kind, tried in scenes if kind == "done"]
    failed = [tried for kind, tried in scenes if kind == "failed"]
    assert (status.done, status.failed) == (len(done), len(failed))
    assert (totals.good, totals.unfit) == (2 * len(done), len(done))
    for costs, some in ((totals.costs, done + failed), (totals.failed_costs, failed)):
        for stage in STAGES:
            tried = [one for scene in some for one in scene if one.stage == stage]
            cost = costs[stage]
            assert cost.attempts == len(tried)
            assert cost.seconds == pytest.approx(sum(one.seconds for one in tried))
            assert cost.cpu_seconds == pytest.approx(sum(one.cpu_seconds for one in tried))
            held = sum(one.seconds * one.gpus for one in tried)
            assert cost.gpu_seconds == pytest.approx(held)
            assert cost.peak_rss == max((one.peak_rss for one in tried), default=0)
    every = [one for scene in done + failed for one in scene]
    assert status.cost.attempts == len(every)
    nothing = [one for scene in failed for one in scene]
    nothing += [one for scene in done for one in scene if one.reason != "ok"]
    assert totals.lost.attempts == len(nothing)
    assert totals.lost.seconds == pytest.approx(sum(one.seconds for one in nothing))
    assert totals.reasons == Counter(one.reason for one in every)
    assert sum(totals.kinds.values()) == len(failed)
    stored = sum(one.bytes for scene in done for one in scene if one.stage == "annotate")
    assert totals.bytes["panoramas"] == stored
    for host in {one.host for one in every}:
        took_part = [sum(host in {one.host for one in t} for t in some) for some in (done, failed)]
        assert totals.nodes[host] == tuple(took_part)
    seconds = sorted((sum(one.seconds for one in tried) for tried in done + failed), reverse=True)
    assert [slow.seconds for slow in totals.slowest] == pytest.approx(seconds[:5])
