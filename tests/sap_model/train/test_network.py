"""SAM2's training network over shared views, held to SAM2Train and to the tracker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training.loss_fns import CORE_LOSS_KEY
from training.utils.data_utils import BatchedVideoDatapoint, BatchedVideoMetaData

from sap_model.model.build import build
from sap_model.model.tracker import Features, Points, ScanTracker
from sap_model.model.tracker import PromptBatch as Followed
from sap_model.train.clip import ClipBatch, Tracked
from sap_model.train.loss import FromScratchLoss, Sam2Loss
from sap_model.train.network import PROMPTS, TRAIN, SapTrain
from tests.sap_model.models import NONE, responsive
from tests.sap_model.train.clips import SIDE, discs, ready

BOTH = PROMPTS | {"num_correction_pt_per_frame": 2}
CLICKS = BOTH | {"prob_to_use_pt_input_for_train": 1.0, "prob_to_use_box_input_for_train": 0.0}
MASKS = BOTH | {"prob_to_use_pt_input_for_train": 0.0}

UNUSED = ("no_mem_pos_enc",)
"""SAM2 adds `no_mem_embed` to the image instead."""

ONE_MASK = ("sam_mask_decoder.output_hypernetworks_mlps",)
"""Of four only the first has work in nano, which gives one mask where SAM2 gives candidates."""


def network(presence: float = 2.0, training: bool = True, **options: Any) -> SapTrain:
    """Nano with weights whose answers vary."""
    made = build("nano", SIDE, TRAIN, **(CLICKS | options))
    made.load_state_dict(responsive(image_size=SIDE, presence=presence).state_dict())
    assert isinstance(made, SapTrain)
    return made.train(training)


def backward(
    model: SapTrain, batch: ClipBatch, seed: int = 0, loss: nn.Module | None = None
) -> Tensor:
    """The loss of a batch, after its gradients were added up."""
    model.seed(seed)
    value = (loss or Sam2Loss())(model(batch), batch.masks)[CORE_LOSS_KEY]
    value.backward()
    return value.detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def touched(model: nn.Module) -> set[str]:
    return {name for name, grad in gradients(model).items() if grad.abs().sum() > 0}


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_gradients_reach_what_is_trained_and_nothing_else(freeze_encoder):
    model = network(freeze_encoder=freeze_encoder, prob_to_use_box_input_for_train=0.5)
    batch, before = ready(discs()), {n: p.clone() for n, p in model.state_dict().items()}
    hidden = (batch.views[1, 0] != torch.arange(5))[:, None, None]
    some_gone = ClipBatch(batch.images, batch.truth * hidden, batch.views, batch.bits, None)
    for probability in (0.0, 1.0):  # masks, then clicks and boxes
        model.prob_to_use_pt_input_for_train = probability
        for seed in range(2):
            backward(model, some_gone, seed)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(NONE)
    backward(model, batch)  # an object that is judged absent leaves its own pointer
    expected = {
        name
        for name, _ in model.named_parameters()
        if name not in UNUSED
        and not (freeze_encoder and name.startswith("image_encoder."))
        and not (name.startswith(ONE_MASK) and not name.startswith(f"{ONE_MASK[0]}.0."))
    }
    assert touched(model) == expected
    model.load_state_dict(before)
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3).step()
    same = {name for name, after in model.state_dict().items() if torch.equal(after, before[name])}
    encoder = {name for name in before if name.startswith("image_encoder.")}
    assert (encoder <= same) if freeze_encoder else not (encoder & same)
    assert not same & expected


def plain(batch: ClipBatch) -> BatchedVideoDatapoint:
    """Every object's window as a separate video, as SAM2's loader would have it."""
    frames, objects = batch.views.shape
    about = torch.zeros(frames, objects, 3, dtype=torch.long)
    videos = torch.arange(objects).expand(frames, -1)
    times = torch.arange(frames)[:, None].expand(-1, objects)
    return BatchedVideoDatapoint(
        img_batch=batch.images[batch.views],
        obj_to_frame_idx=torch.stack([times, videos], dim=-1).int(),
        masks=batch.masks,
        metadata=BatchedVideoMetaData(about, about[..., :2], batch_size=[frames]),
        dict_key="all",
        batch_size=[frames],
    )


@pytest.mark.parametrize("prompts", [CLICKS, MASKS])
def test_loss_and_gradients_of_shared_views_equal_sam2s(prompts):
    ours = network(freeze_encoder=False, encode_batch=2, **prompts)
    theirs = build("nano", SIDE, "training.model.sam2.SAM2Train", **prompts)
    theirs.load_state_dict(ours.state_dict())
    theirs.train()
    batch = ready(discs(objects=1))
    for seed in range(2):
        loss = backward(ours, batch, seed)
        SapTrain.seed(theirs, seed)
        outputs = [Tracked(torch.tensor([0]), theirs(plain(batch)))]
        expected = Sam2Loss()(outputs, batch.masks)[CORE_LOSS_KEY]
        expected.backward()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=0)
    wanted = gradients(theirs)
    assert gradients(ours).keys() == wanted.keys()
    # biases of keys have no gradient but rounding: attention does not depend on them
    least = 1e-6 * max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in gradients(ours).items():
        limit = 1e-4 * float(wanted[name].abs().max()) + least
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=limit, msg=name)


def on_frames_of_its_own(batch: ClipBatch) -> ClipBatch:
    """The same batch, but each object is clicked on other frames."""
    ((first, second, third), frames) = batch.prompts, ((0, 2), (0,), (0, 2))
    kept = [
        {t: each[t] for t in wanted}
        for each, wanted in zip((first, second, third), frames, strict=True)
    ]
    return replace(batch, prompts=tuple(kept))


def test_each_object_keeps_its_own_prompts():
    """Frames that did not show all objects of a batch lost their prompts: SAM2 has one list."""
    batch = on_frames_of_its_own(ready(discs(frames=5, prompted=(0, 2))))
    model = network(training=False)
    with torch.no_grad():
        tracked = model(batch)
        assert sorted(group.objects.tolist() for group in tracked) == [[0, 2], [1]]
        for objects, outputs in tracked:
            for k, number in enumerate(objects.tolist()):
                alone = replace(
                    batch,
                    views=batch.views[:, [number]],
                    bits=batch.bits[[number]],
                    prompts=(batch.prompts[number],),
                )
                ((_, expected),) = model(alone)
                for output, other in zip(outputs, expected, strict=True):
                    torch.testing.assert_close(
                        output["pred_masks"][k], other["pred_masks"][0], rtol=1e-4, atol=1e-4
                    )


def test_drawn_prompts_are_on_all_kinds_of_frames_that_show_the_object():
    """Two conditioning frames are as likely for an object that others hide as for any."""
    batch = ready(discs(frames=5, objects=3))
    hidden = replace(batch, truth=batch.truth.clone())
    for t in (1, 3):  # the second object is gone on two of its frames, the others are not
        hidden.truth[hidden.views[t, 1]] &= ~torch.tensor(2, dtype=torch.uint8)
    shown = hidden.masks.flatten(2).any(2)
    model = network(prob_to_use_box_input_for_train=0.5)
    model.seed(0)
    counts = torch.zeros(3)
    for _ in range(120):
        groups = list(model._prompt_groups(None, hidden.masks))
        for objects, prompts in groups:
            frames = prompts["init_cond_frames"]
            assert 0 in frames
            assert shown[frames][:, objects].all()
            assert shown[prompts["frames_to_add_correction_pt"]][:, objects].all()
            counts[objects] += len(frames) > 1
    # SAM2 draws one or two conditioning frames, equally often, for every object
    assert (counts / 120 - 0.5).abs().max() < 0.16


def test_given_clicks_give_the_trackers_masks(monkeypatch):
    batch = ready(discs(frames=5, prompted=(0, 2)))
    model, tracker = network(training=False), responsive(image_size=SIDE)
    encode = SapTrain._encode_new_memory

    def as_predictors_keep_it(self, *args, **kwargs):
        memory, positions = encode(self, *args, **kwargs)
        return memory.bfloat16().float(), positions

    monkeypatch.setattr(SapTrain, "_encode_new_memory", as_predictors_keep_it)
    with torch.no_grad():
        ((_, outputs),) = model(batch)
        encoded = tracker.forward_image(batch.images)
    clicks = {}
    for frame in batch.prompts[0]:
        table = np.array([each[frame] for each in batch.prompts], np.float32)
        clicks[frame] = Points(table[..., :2], table[..., 2].astype(np.int32))
    features = Features(
        encoded["backbone_fpn"], [position[:1] for position in encoded["vision_pos_enc"]]
    )
    visits = list(tracker.follow(features, Followed(batch.views.T.numpy(), clicks)))
    assert len(outputs) == len(visits) == 5
    for output, visit in zip(outputs, visits, strict=True):
        logits = output["pred_masks"][:, 0]
        assert logits.std() > 0.5
        torch.testing.assert_close(logits, visit.logits, rtol=1e-4, atol=1e-4)
        scores = output["multistep_object_score_logits"][-1][:, 0]
        torch.testing.assert_close(scores, visit.presence, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("teacher_forced_presence", [False, True])
@pytest.mark.parametrize("prompted", [(), (0, 1)])
def test_checkpointing_changes_neither_loss_nor_gradients(prompted, teacher_forced_presence):
    results = []
    for checkpointing in (False, True):
        model = network(
            freeze_encoder=False,
            checkpointing=checkpointing,
            teacher_forced_presence=teacher_forced_presence,
            teacher_forced_memory=0.5,
        )
        batch = ready(discs(prompted=prompted))
        results.append((backward(model, batch, seed=1), gradients(model)))
    (loss, grads), (again, grads_again) = results
    torch.testing.assert_close(again, loss, rtol=0, atol=0)
    torch.testing.assert_close(grads_again, grads, rtol=1e-6, atol=1e-9)


def test_teacher_forced_presence_passes_gradients_to_gated_masks():
    mask = "sam_mask_decoder.output_hypernetworks_mlps.0.layers.2.weight"
    batch = ready(discs(prompted=(0,)))
    for teacher_forced_presence in (False, True):
        model = network(presence=NONE, teacher_forced_presence=teacher_forced_presence)
        backward(model, batch, loss=FromScratchLoss())
        assert (mask in touched(model)) is teacher_forced_presence


def test_teacher_forced_presence_hides_absent_objects():
    batch = discs(prompted=(0,))
    gone = batch.views[2]  # what the objects see on frame 2 shows none of them
    batch.truth[gone] = 0
    model = network(teacher_forced_presence=True, num_correction_pt_per_frame=0)
    with torch.no_grad():
        ((_, outputs),) = model(ready(batch))
    for frame, output in enumerate(outputs):
        present = batch.masks[frame].flatten(1).any(1)
        hidden = (output["pred_masks"] == -1024).flatten(1).all(1)
        assert torch.equal(hidden, ~present)
    model.eval()
    with torch.no_grad():  # nobody tells the truth at inference
        ((_, outputs),) = model(ready(batch))
    assert not any((output["pred_masks"] == -1024).any() for output in outputs)


def test_teacher_forced_memories_are_made_of_true_masks():
    batch = ready(discs(prompted=(0,)))
    remembered = []
    for bias in (2.0, 5.0):  # the predicted masks hang on the weights, true memories do not
        model = network(teacher_forced_memory=1.0, presence=bias)
        model.sam_mask_decoder.output_hypernetworks_mlps[0].layers[-1].bias.data[0] -= bias
        model.seed(0)
        with torch.no_grad():
            remembered.append(model(batch)[0].outputs[0]["maskmem_features"])
    torch.testing.assert_close(*remembered)


@pytest.mark.parametrize("prompted", [(), (0, 1)])
def test_corrections_are_as_many_as_asked_for(prompted):
    counts = []
    for corrections in (0, 3):
        model = network(num_correction_pt_per_frame=corrections)
        model.prob_to_correct_given = 1.0
        tracked = model(ready(discs(prompted=prompted)))
        counts.append(len(tracked[0].outputs[0]["multistep_pred_ious"]))
    assert counts == [1, 4]


def test_the_same_seed_draws_the_same_and_weights_fit_the_tracker():
    model, batch = network(), ready(discs())
    first, other, again = (backward(model, batch, seed) for seed in (3, 4, 3))
    assert torch.equal(first, again) and not torch.equal(first, other)
    for target in ("sap_model.model.tracker.ScanTracker", "sam2.modeling.sam2_base.SAM2Base"):
        build("nano", SIDE, target).load_state_dict(model.state_dict(), strict=True)
    assert isinstance(build("nano", SIDE), ScanTracker)
