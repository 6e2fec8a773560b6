"""Clips and batches: images, masks and clicks of each object survive packing and gathering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data._utils.pin_memory import pin_memory

from sap_model.model.tracker import DEVIATION, MEAN
from sap_model.train.clip import MAX_OBJECTS, Clip, bits_of, collate

SIDE = 4


def random_clip(seed: int, frames: int, images: int, objects: int, prompted: bool = False):
    """A clip, and its masks (K, V, S, S)."""
    rng = np.random.default_rng(seed)
    masks = rng.random((objects, images, SIDE, SIDE)) < 0.4
    prompts = None
    if prompted:
        prompts = [
            {
                int(frame): ((float(rng.uniform(0, SIDE)), float(rng.uniform(0, SIDE)), 1),)
                for frame in rng.permutation(frames)[: 1 + k % 3]
            }
            for k in range(objects)
        ]
    pictures = rng.integers(0, 256, (images, SIDE, SIDE, 3), np.uint8)
    views = rng.integers(0, images, (frames, objects))
    return Clip(pictures, bits_of(masks), views, prompts, str(seed)), masks


@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, MAX_OBJECTS)), min_size=1, max_size=3),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_every_object_of_a_batch_keeps_its_images_masks_and_clicks(seed, frames, clips, prompted):
    made = [random_clip(seed + i, frames, v, k, prompted) for i, (v, k) in enumerate(clips)]
    batch = collate([clip for clip, _ in made])
    masks, column = batch.masks, 0
    assert masks.dtype == torch.bool
    assert masks.shape == (frames, sum(k for _, k in clips), SIDE, SIDE)
    for clip, due in made:
        for k in range(clip.views.shape[1]):
            for t in range(frames):
                np.testing.assert_array_equal(masks[t, column], due[k, clip.views[t, k]])
                image = batch.images[batch.views[t, column]].permute(1, 2, 0)
                np.testing.assert_array_equal(image, clip.images[clip.views[t, k]])
            assert not prompted or batch.prompts[column] == clip.prompts[k]
            column += 1
    assert column == len(batch.bits)
    assert (batch.prompts is None) == (not prompted)


def test_clips_of_different_shapes_are_no_batch():
    first = random_clip(0, 3, 2, 2, prompted=True)[0]
    for other in (
        random_clip(0, 4, 2, 2, prompted=True)[0],  # more frames
        random_clip(0, 3, 2, 2)[0],  # no prompts
    ):
        assert other.shape != first.shape
        with pytest.raises(ValueError, match="different shapes"):
            collate([first, other])


def test_more_than_eight_objects_are_refused():
    masks = np.ones((MAX_OBJECTS, 1, 1), bool)
    assert bits_of(masks) == 255
    with pytest.raises(ValueError, match="9 objects"):
        bits_of(np.concatenate([masks, masks[:1]]))


def test_batches_on_a_device_are_normalised():
    clip, masks = random_clip(5, 3, 2, 2, prompted=True)
    batch = collate([clip]).to(torch.device("cpu"))
    due = (clip.images / 255 - np.array(MEAN)) / np.array(DEVIATION)
    np.testing.assert_allclose(batch.images.permute(0, 2, 3, 1), due, atol=1e-6)
    np.testing.assert_array_equal(batch.masks[2, 1], masks[1, clip.views[2, 1]])


def test_truth_stays_a_byte_per_pixel_until_it_is_masks(monkeypatch):
    batch = collate([random_clip(1, 3, 2, 8)[0]])
    kinds = []
    real = torch.Tensor.__and__
    monkeypatch.setattr(
        torch.Tensor, "__and__", lambda a, b: kinds.append(real(a, b).dtype) or real(a, b)
    )
    assert batch.masks.any()
    assert kinds == [torch.uint8]


def test_the_loader_pins_every_tensor_of_a_batch(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda part: pinned.append(part) or part)
    parts = [collate([random_clip(k, 2, 2, 2, prompted=k == 1)[0]]) for k in range(2)]
    again = pin_memory(parts)
    assert len(pinned) == 4 + 4
    assert torch.equal(again[1].masks, parts[1].masks)
    assert again[1].prompts == parts[1].prompts
