"""Sizes, checkpoints and what does not fit."""

from __future__ import annotations

import pickle
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pipeline.digest import sha256_of
from pipeline.errors import UserError
from sap_model.model import checkpoints
from sap_model.model.build import SIZES, build, default_image_size, read_config, signature
from sap_model.model.checkpoints import find, load, sap_weights, size_of
from sap_model.model.tracker import ScanTracker

TRAINING = "training.model.sam2.SAM2Train"


@pytest.fixture
def nano_file(tmp_path: Path) -> Path:
    """A checkpoint laid out like the official ones."""
    path = tmp_path / "nano.pt"
    torch.save({"model": build("nano", 64, seed=3).state_dict()}, path)
    return path


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_tiny_is_sam2s_and_nano_fits_a_cpu():
    tiny = build("tiny", 512)
    assert isinstance(tiny, ScanTracker)
    assert not tiny.training
    assert tiny.image_size == 512
    assert parameters(tiny) / 1e6 == pytest.approx(38.9, abs=0.1), "what SAM2's README says"
    assert parameters(build("nano", 128)) < 8e6, "16 MB in 16 bits"


def test_every_official_size_is_read_from_sam2():
    widths = {size: signature(size) for size in SIZES}
    assert len(set(widths.values())) == len(SIZES)
    # the table of SAM2's paper (Hiera-T, S, B+, L)
    assert widths["small"] == (96, 16)
    assert widths["base_plus"] == (112, 24)
    assert widths["large"] == (144, 48)


def test_seeds_decide_and_leave_the_global_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (build("nano", 64, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_models_for_training_and_prediction_hold_the_same_weights():
    predictor = build("nano", 64)
    trainer = build("nano", 128, target=TRAINING, freeze_image_encoder=True)
    trainer.load_state_dict(predictor.state_dict(), strict=True)
    assert not any(p.requires_grad for p in trainer.image_encoder.parameters())
    assert predictor.sam_mask_decoder.transformer.num_heads == 2


@pytest.mark.parametrize("side", [0, 100, 1000])
def test_input_sizes_that_the_encoder_cannot_take_are_refused(side):
    with pytest.raises(UserError, match=f"image_size {side}: choose a multiple of 32"):
        build("nano", side)


def test_a_size_may_be_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("other: 1\n")
    with pytest.raises(UserError, match="no `model:`"):
        read_config(str(path))
    with pytest.raises(UserError, match="'huge': choose one of nano, tiny"):
        build("huge")
    from omegaconf import OmegaConf

    OmegaConf.save(read_config("nano"), path)
    assert build(str(path), 64).image_size == 64


@pytest.mark.parametrize("size", ["nano", None])
def test_a_checkpoint_comes_back_as_it_was(nano_file, size):
    model = load(size, nano_file, image_size=64, device="cpu")
    expected = build("nano", 64, seed=3).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_what_does_not_fit_is_listed(tmp_path, nano_file):
    state = torch.load(nano_file)["model"]
    state["no_mem_embed"] = torch.zeros(1, 1, 7)
    del state["no_obj_ptr"]
    state["extra.weight"] = torch.zeros(2)
    torch.save({"model": state}, nano_file)
    with pytest.raises(UserError) as error:
        load("nano", nano_file, 64)
    message = str(error.value)
    assert "1 missing: no_obj_ptr;" in message
    assert "1 unexpected: extra.weight;" in message
    assert "no_mem_embed is (1, 1, 7) instead of (1, 1, 128)" in message
    assert "\n" not in message
    assert "it is for size" not in message


def test_a_checkpoint_of_another_size_says_which(nano_file):
    with pytest.raises(UserError, match="does not fit size tiny; it is for size nano: "):
        load("tiny", nano_file, 64)


def test_the_size_of_weights_is_their_encoders():
    for size in SIZES[:2]:
        assert size_of(build(size, 64).state_dict()) == size
    assert size_of({}) is None


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "ran"
    for save in (torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))):
        path = tmp_path / "evil.pt"
        save({"model": Payload(trace)}, path)
        with pytest.raises(UserError, match="refused: it holds more than weights"):
            load("nano", path, 64)
        assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"no checkpoint", "refused"),
        ({"state": {}}, "is no SAM2 checkpoint"),
        ({"model": [1]}, "is no SAM2 checkpoint"),
        (torch.zeros(3), "is no SAM2 checkpoint"),
    ],
)
def test_files_that_are_no_checkpoints_say_so(tmp_path, content, reason):
    path = tmp_path / "some.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=reason):
        load("nano", path, 64)


def test_a_truncated_checkpoint_says_so(nano_file):
    nano_file.write_bytes(nano_file.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        load("nano", nano_file, 64)


def test_files_and_hub_ids_are_told_apart(tmp_path, monkeypatch, nano_file):
    fetched = []
    monkeypatch.setattr(checkpoints, "fetch", lambda *args: fetched.append(args[:2]) or nano_file)
    monkeypatch.setattr(checkpoints, "hub_files", lambda *args: ["README.md", "only.pt"])
    monkeypatch.chdir(tmp_path)
    assert find("nano.pt") == Path("nano.pt")
    for missing in ("other.pt", "folder/other.pt", "/no/such/file", "a/b/c"):
        with pytest.raises(UserError, match="no checkpoint"):
            find(missing)
    find("user/name")
    find("user/name:deep/file.pt")
    load("nano", "user/name", 64)
    assert fetched == [("user/name", name) for name in ("only.pt", "deep/file.pt", "only.pt")]


def test_official_weights_are_fetched_under_their_published_names(monkeypatch, nano_file):
    import huggingface_hub
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda *args, **_: asked.append(args) or str(nano_file),
    )
    digest = sha256_of(nano_file)
    monkeypatch.setattr(checkpoints, "SHA256", dict.fromkeys(checkpoints.SHA256, digest))
    published_sizes = [size for size in SIZES if size != "nano"]
    assert sorted(checkpoints.OFFICIAL) == sorted(SIZES)
    for size in published_sizes:
        assert find("official", size) == nano_file
        repo, name = asked[-1]
        config, published = HF_MODEL_ID_TO_FILENAMES[repo]
        assert published == name
        assert config == read_config_name(size)
    with pytest.raises(UserError, match=r"no official weights of size mine\.yaml"):
        load("mine.yaml", "official")


def read_config_name(size: str) -> str:
    from sap_model.model.build import CONFIGS

    return CONFIGS[size][1]


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """An empty folder in place of the one that weights come with."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(checkpoints, "WEIGHTS", folder)
    return folder


def test_shipped_weights_are_loaded_by_name_at_their_own_image_size(shipped):
    torch.save({"model": build("nano", seed=1).state_dict()}, shipped / "sap_nano.pt")
    expected = build("nano", seed=1).state_dict()
    for name in ("official", "sap-nano", "sam2-nano"):
        model = load("nano", name, device="cpu")
        assert model.image_size == 256
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert load(None, "sap-nano", device="cpu").image_size == 256
    assert find("sam2-nano") == find("official", "nano")
    with pytest.raises(UserError, match="does not fit size tiny; it is for size nano"):
        load("tiny", "sap-nano", 64)


def test_an_existing_file_wins_over_a_shipped_name(shipped, monkeypatch, tmp_path):
    (shipped / "sap_nano.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert find("sap-nano") == shipped / "sap_nano.pt"
    (tmp_path / "sap-nano").touch()
    assert find("sap-nano") == Path("sap-nano")


@pytest.mark.parametrize("name", ["official", "sap-nano", "sam2-nano"])
def test_shipped_weights_that_are_missing_are_one_line(shipped, name):
    with pytest.raises(UserError, match=rf"{shipped}/\w+\.pt is missing: get the package") as error:
        load("nano", name)
    assert "\n" not in str(error.value)


def test_sizes_have_an_image_size_and_perhaps_weights_of_their_own():
    assert [default_image_size(size) for size in (*SIZES, "mine.yaml")] == [256] + [1024] * 5
    assert [sap_weights(size) for size in (*SIZES, "mine.yaml")] == ["sap-nano"] + [None] * 5
    assert build("nano").image_size == 256


def test_shipped_weights_go_into_the_package():
    root = Path(__file__).parents[3]
    declared = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = declared["tool"]["setuptools"]["package-data"]["sap_model.model"]
    for name in checkpoints.SHIPPED.values():
        path = checkpoints.WEIGHTS / name
        inside = path.relative_to(root / "sap_model" / "model")
        assert any(inside.match(pattern) for pattern in patterns)
        ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=root)
        assert ignored.returncode != 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["README.md"], "holds 0 checkpoints"),
        (["a.pt", "b.pt"], "name one of a.pt, b.pt"),
    ],
)
def test_a_repository_must_hold_one_checkpoint(monkeypatch, names, message):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *args, **_: names)
    with pytest.raises(UserError, match=message):
        find("user/name")


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"user/name:some\.pt cannot be fetched from the Hub"
    ) as error:
        find("user/name:some.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["model", "image_encoder"])
def test_a_configuration_that_calls_something_else_is_refused(tmp_path, place):
    evil = {"_target_": "os.system", "command": f"touch {tmp_path / 'called'}"}
    config = OmegaConf.to_container(read_config("nano"))
    if place == "model":
        config["model"] |= evil
    else:
        config["model"]["image_encoder"] = evil
    path = tmp_path / "size.yaml"
    path.write_text(OmegaConf.to_yaml(config))
    with pytest.raises(UserError, match=r"names os\.system, which is no part of a model"):
        build(str(path), 64)
    assert not (tmp_path / "called").exists()


def test_a_file_that_is_no_yaml_is_one_line(tmp_path):
    path = tmp_path / "size.yaml"
    path.write_text("model: [")
    with pytest.raises(UserError, match="is no YAML file") as caught:
        build(str(path), 64)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    state = build("nano", 64).state_dict()
    state["no_mem_embed"] = state["no_mem_embed"] * float("nan")
    torch.save({"model": state}, tmp_path / "nan.pt")
    with pytest.raises(UserError, match=r"no numbers \(NaN\): no_mem_embed"):
        checkpoints.load("nano", tmp_path / "nan.pt", 64)
