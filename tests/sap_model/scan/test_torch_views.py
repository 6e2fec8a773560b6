"""The torch twin gives what the NumPy side gives, within the tolerance it states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from sap_model.scan.torch_views import TorchViews
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import ErpWindowViews, PerspectiveViews, soft_masks
from tests.synthetic import disc

PAIRS = [
    (views, TorchViews(views))
    for views in (
        PerspectiveViews(Scan(), 96, 384),
        PerspectiveViews(Scan(90, 0.75), 75, 326),
        ErpWindowViews(Scan(), 96, 384),
        PerspectiveViews(Scan(), 48, 512),
    )
]
BOTH = pytest.mark.parametrize(
    ("views", "twin"), PAIRS, ids=["default", "uneven", "patches", "antialiased"]
)
DISCS = [(180, 10, 20), (0, 90, 25), (30, -60, 120), (50, 20, 3)]


@BOTH
def test_views(views, twin):
    generator = np.random.default_rng(0)
    panorama = generator.integers(0, 256, (views.height, views.width, 3), np.uint8)
    rendered = twin.render(torch.from_numpy(panorama).permute(2, 0, 1)).permute(0, 2, 3, 1)
    assert rendered.dtype == torch.float32
    difference = abs(np.floor(rendered.numpy() + 0.5) - views.render(panorama))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < (0.005 if views.maps.samples == 1 else 0.2)
    exact = views.render(panorama.astype(np.float32))
    np.testing.assert_allclose(rendered.numpy(), exact, rtol=0, atol=0.05)


@BOTH
def test_ids(views, twin):
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 1000, (2, views.height, views.width)).astype(np.int32)
    found = twin.render_ids(torch.from_numpy(ids))
    assert found.dtype == torch.int32
    for i in range(2):
        np.testing.assert_array_equal(found[i].numpy(), views.render_ids(ids[i]))


@BOTH
@pytest.mark.parametrize("fusion", ["max", "mean"])
@pytest.mark.parametrize("soft", [False, True])
def test_fusion_of_many_objects(views, twin, fusion, soft):
    masks = np.stack([views.render_ids(disc(*shape, views.width)) for shape in DISCS])
    if soft:
        noise = np.random.default_rng(0).normal(0, 3, masks.shape)
        masks = soft_masks(np.where(masks, 9, -9) + noise)
    found = twin.soft_panorama(torch.from_numpy(masks), fusion).numpy()
    hard = twin.to_panorama(torch.from_numpy(masks), fusion).numpy()
    for i in range(len(DISCS)):
        due = views.soft_panorama(masks[i], fusion)
        assert abs(found[i] - due).max() < (1e-4 if soft else 2.1e-3)
        differ = hard[i] != views.to_panorama(masks[i], fusion)
        assert (abs(due[differ] - 0.5) < 2.1e-3).all()
        assert fusion == "mean" or soft or not differ.any()


def test_what_does_not_fit_is_refused():
    _, twin = PAIRS[0]
    with pytest.raises(UserError, match="panorama of"):
        twin.render(torch.zeros(3, 10, 20))
    with pytest.raises(UserError, match="masks of shape"):
        twin.to_panorama(torch.zeros(24, 96, 96))
    with pytest.raises(UserError, match="fusion"):
        twin.to_panorama(torch.zeros(1, 24, 96, 96), "median")
