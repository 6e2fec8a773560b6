"""Checkpoints of others: loaded where it is certain what they are, else refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pipeline.digest import sha256_of
from pipeline.errors import UserError
from sap_model.model import checkpoints
from sap_model.model.build import build, read_config
from sap_model.model.checkpoints import SAM_2_0_LACKS, load, resolve_size
from sap_model.model.weights_file import read_weights
from tests.sap_model.model.weight_samples import PAYLOAD, REFUSED, TAKEN


@pytest.fixture(scope="module")
def state():
    return build("nano", 64, seed=3).state_dict()


@pytest.mark.parametrize("kind", TAKEN)
def test_taken_without_naming_a_size(tmp_path, state, kind):
    TAKEN[kind](state, tmp_path / "weights")
    model = load(None, tmp_path / "weights", image_size=64, device="cpu")
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(weight, state[name]) for name, weight in found.items())
    assert resolve_size(None, tmp_path / "weights", "large") == "nano"


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_line(tmp_path, state, kind, capfd):
    write, reason = REFUSED[kind]
    path = tmp_path / "weights.pt"
    write(state, path)
    with pytest.raises(UserError) as error:
        load(None, path, image_size=64)
    text = str(error.value)
    assert str(path) in text and reason in text and "\n" not in text
    assert not (tmp_path / PAYLOAD).exists()
    assert capfd.readouterr() == ("", "")


def test_sam_2_0_is_built_as_sam_2_0(tmp_path):
    config = read_config("tiny")
    official = OmegaConf.create(
        (Path(sys.modules["sam2"].__file__).parent / "configs/sam2/sam2_hiera_t.yaml").read_text()
    )
    official.model.image_size = 64
    weights = instantiate(official.model).state_dict()
    torch.save({"model": weights}, tmp_path / "sam2_hiera_tiny.pt")
    model = load(None, tmp_path / "sam2_hiera_tiny.pt", image_size=64, device="cpu")
    assert not model.add_tpos_enc_to_obj_ptrs and model.no_obj_embed_spatial is None
    for name, value in official.model.items():
        if not isinstance(value, str) and name in config.model and hasattr(model, name):
            plain = isinstance(value, bool | int | float)
            assert not plain or getattr(model, name) == value, name
    found = model.state_dict()
    assert all(torch.equal(weight, found[name]) for name, weight in weights.items())
    with pytest.raises(UserError, match=r"SAM 2\.0: take SAM 2\.1's"):
        checkpoints.fill(build("tiny", 64), weights, Path("sam2_hiera_tiny.pt"))
    assert set(build("tiny", 64).state_dict()) - set(weights) == SAM_2_0_LACKS


def test_the_size_that_is_named_wins_and_none_needs_no_file():
    assert resolve_size("tiny", "missing.pt", "large") == "tiny"
    assert resolve_size(None, None, "large") == resolve_size(None, "official", "large") == "large"
    assert resolve_size(None, "sap-nano", "large") == "nano"


def test_a_state_dict_of_no_known_size_is_refused(tmp_path, state):
    name = "image_encoder.trunk.stem.weight"
    torch.save({**state, name: torch.zeros(7, 3, 3, 3)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="fits none of the sizes nano, tiny"):
        load(None, tmp_path / "weights.pt")


@pytest.fixture
def hub_cache(tmp_path, monkeypatch, state):
    """A cache that holds user/name with one checkpoint, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--user--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    torch.save({"model": state}, snapshot / "weights.pt")
    return snapshot


@pytest.mark.parametrize("name", ["user/name", "user/name:weights.pt"])
def test_a_filled_cache_needs_no_network(hub_cache, name):
    assert checkpoints.find(name) == hub_cache / "weights.pt"
    assert resolve_size(None, name, "large") == "nano"


def test_official_weights_come_from_the_cache_too(hub_cache, monkeypatch):
    monkeypatch.setitem(checkpoints.OFFICIAL, "tiny", "user/name:weights.pt")
    digest = sha256_of(hub_cache / "weights.pt")
    monkeypatch.setitem(checkpoints.SHA256, "weights.pt", digest)
    assert checkpoints.find("official", "tiny") == hub_cache / "weights.pt"


def test_safetensors_count_where_a_repository_has_nothing_else(hub_cache):
    (hub_cache / "model.safetensors").touch()
    assert checkpoints.find("user/name") == hub_cache / "weights.pt"
    (hub_cache / "weights.pt").unlink()
    assert checkpoints.find("user/name") == hub_cache / "model.safetensors"


def test_an_empty_cache_is_one_line(hub_cache):
    for name in ("user/other", "user/other:weights.pt"):
        with pytest.raises(UserError, match="user/other") as error:
            checkpoints.find(name)
        assert "\n" not in str(error.value)


def test_a_name_that_no_file_can_have_is_one_line():
    for name in ("a" * 5000, "a\0b", "", "user/na me:x", "/no/such.pt", "~/no.pt"):
        with pytest.raises(UserError):
            checkpoints.find(name)


def test_weights_can_be_read_without_a_model(tmp_path, state):
    torch.save(state, tmp_path / "weights.pt")
    assert read_weights(tmp_path / "weights.pt").keys() == state.keys()
