"""Resource requests, estimated from earlier attempts."""

from __future__ import annotations

from dataclasses import replace

from pipeline.farm.attempt import SceneState
from pipeline.farm.resource_requests import FIRST_MEMORY, UsageHistory, queue_of
from pipeline.units import GIB

STATE = SceneState("render", scene_bytes=7)


def need(seen: UsageHistory, state: SceneState, gpu: bool = False, cpus: int = 16):
    return seen.request("rooms", "render", state, gpu=gpu, max_cpus=cpus)


def test_memory_estimate_is_the_last_peak_and_a_margin():
    seen = UsageHistory()
    assert need(seen, STATE).memory == FIRST_MEMORY["render"]
    for used in (5 * GIB, 10 * GIB):
        seen.add("rooms", "render", used)
    assert need(seen, STATE).memory == 12 * GIB
    assert seen.memory_of("indoors", "render") == FIRST_MEMORY["render"]


def test_memory_doubles_after_running_out():
    seen = UsageHistory()
    seen.add("rooms", "render", 5 * GIB)
    failed = replace(STATE, memory_failures={"render": 1}, memory_peaks={"render": 20 * GIB})
    assert need(seen, failed).memory == 40 * GIB
    assert need(seen, failed).large
    unknown = replace(STATE, memory_failures={"render": 2})  # Ray ended it
    assert need(seen, unknown).memory == 4 * 6 * GIB


def test_render_too_large_for_gpus_takes_cpus():
    seen = UsageHistory()
    for failures, gpus, cpus, large in ((0, 1, 1, False), (1, 1, 1, False), (2, 0, 8, True)):
        found = need(seen, replace(STATE, gpu_failures=failures), gpu=True)
        assert (found.gpus, found.cpus, found.large) == (gpus, cpus, large)


def test_nodes_are_avoided_after_failures_other_than_memory():
    seen = UsageHistory()
    failed = replace(STATE, failed_on={"render": frozenset({"a"})})
    assert need(seen, failed).avoid == {"a"}
    assert need(seen, failed).queue == queue_of("render", failed) == ("render", False, True)
    starved = replace(failed, memory_failures={"render": 1})
    assert need(seen, starved).avoid == frozenset()
    assert need(seen, starved).queue == queue_of("render", starved) == ("render", True, False)
    assert queue_of("generate", failed) == ("generate", False, False)
