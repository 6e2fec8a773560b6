"""Settings of a run are strict, and the command line takes no others."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import cli
from pipeline.errors import UserError
from pipeline.setting import options_of
from sap_model.config import Train
from sap_model.train import train as training
from sap_model.train.settings import SOURCES, TrainSettings, Watch, settings_hash, to_json

GOOD = TrainSettings(data=("shards",))
NAN, INFINITE = math.nan, math.inf


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"data": ()}, "DATA is not given"),
        ({"data": (), "mix": (("crops", 1.0),)}, "DATA is not given"),
        ({"mix": ()}, "MIX names no source"),
        ({"mix": (("crops", 1.0), ("crops", 1.0))}, "one twice"),
        ({"mix": (("pictures", 1.0),)}, "pictures; choose from panoramas, crops, sa1b, sav"),
        ({"mix": (("sa1b", 1.0),)}, "give SA1B"),
        ({"mix": (("sav", 1.0),)}, "give SAV"),
        *(({"mix": (("crops", w),)}, "of crops in MIX is") for w in (0.0, -1.0, NAN, INFINITE)),
        ({"mix": (("panoramas", 1.0), ("crops", 1e-10))}, "crops in MIX is too small"),
        (
            {"method": "scan"},
            "METHOD=scan is unknown; choose sap, erp, sap-no-overlap, sap-no-scan",
        ),
        *(({"clip_objects": n}, "choose from 1 to 8") for n in (0, 9)),
        *(({"image_size": n}, "multiple of 32") for n in (1000, 16)),
        ({"image_size": -64}, "IMAGE_SIZE=-64 is out of range"),
        *(
            ({field: 0}, f"{name}=0 is out of range")
            for field, name in (
                ("clip_frames", "FRAMES"),
                ("batch_size", "BATCH"),
                ("micro_batch_size", "MICRO_BATCH"),
                ("steps", "STEPS"),
                ("min_pixels", "MIN_PIXELS"),
                ("crop_frames", "CROP_FRAMES"),
            )
        ),
        *(
            ({name: value}, f"{name.upper()}={value:g} is out of range; choose from 0 to 1")
            for name in (
                "inference_prompt_fraction",
                "final_lr_fraction",
                "hold_fraction",
                "balanced_fraction",
                "teacher_forced_memory",
                "point_probability",
                "box_probability",
            )
            for value in (-0.1, 1.1, NAN)
        ),
        *(
            ({name: value}, f"{name.upper()}={value:g} is out of range; choose more than 0")
            for name in ("lr", "max_grad_norm")
            for value in (0.0, -1.0, NAN, INFINITE)
        ),
        ({"correction_clicks": -1}, "CORRECTION_CLICKS"),
        ({"warmup_steps": 10_001}, "WARMUP_STEPS"),
        ({"warmup_steps": -1}, "WARMUP_STEPS"),
        *(({"weight_decay": value}, "WEIGHT_DECAY") for value in (-0.1, NAN, INFINITE)),
        *(({"betas": (0.9, value)}, "BETAS") for value in (1.0, -0.1, NAN)),
        *(({"seed": value}, "choose from 0 to 2147483647") for value in (-1, 2**31)),
        ({"precision": "float16"}, "choose auto, bf16, float32"),
        ({"loss": "dice"}, "choose sam2, from-scratch"),
        ({"optimizer": "sgd"}, "OPTIMIZER=sgd"),
        (
            {"batch_size": 8, "micro_batch_size": 3},
            "MICRO_BATCH=3; change",
        ),
        *(({"crop_step": value}, "CROP_STEP") for value in (-1.0, 180.0, NAN)),
        *(({"crop_fov": v}, "CROP_FOV") for v in ((0.0, 90.0), (90.0, 80.0), (90.0, 180.0))),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_makes_no_sense_is_refused_with_one_line(wrong, said):
    with pytest.raises(UserError) as error:
        replace(GOOD, **wrong)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_edges_that_make_sense_are_taken():
    TrainSettings(mix=(("sa1b", 1.0), ("sav", 2.0)), sa1b="a", sav="b")
    for good in (
        {"clip_objects": 1}, {"clip_objects": 8}, {"image_size": 32},
        {"inference_prompt_fraction": 0.0}, {"inference_prompt_fraction": 1.0},
        {"warmup_steps": 10_000}, {"weight_decay": 0.0}, {"seed": 0}, {"seed": 2**31 - 1},
        {"correction_clicks": 0}, {"crop_fov": (90.0, 90.0)}, {"batch_size": 1},
        {"betas": (0.0, 0.999)},
    ):  # fmt: skip
        replace(GOOD, **good)


@given(
    st.dictionaries(st.sampled_from(SOURCES), st.floats(0.001, 1000), min_size=1),
    st.floats(0.01, 100),
)
def test_weights_are_kept_as_shares_of_one(weights, scale):
    def of(mix) -> TrainSettings:
        return replace(GOOD, mix=tuple(mix), sa1b="a", sav="b")

    settings = of(weights.items())
    total = sum(weights.values())
    assert [name for name, _ in settings.mix] == list(weights)
    assert [share for _, share in settings.mix] == pytest.approx(
        [weight / total for weight in weights.values()], abs=1e-8
    )
    assert sum(share for _, share in settings.mix) == pytest.approx(1)
    again = of((name, weight * scale) for name, weight in weights.items())
    for (_, one), (_, other) in zip(settings.mix, again.mix, strict=True):
        assert one == pytest.approx(other, abs=2e-9)


def test_a_step_is_divided_among_processes_or_not_at_all():
    settings = replace(GOOD, batch_size=24, micro_batch_size=2)
    assert [settings.chunks(world) for world in (1, 2, 3, 4, 6, 12)] == [12, 6, 4, 3, 2, 1]
    for world, multiple in ((5, 10), (8, 16), (24, 48)):
        with pytest.raises(UserError, match=f"choose a multiple of {multiple}") as error:
            settings.chunks(world)
        replace(GOOD, batch_size=5 * multiple, micro_batch_size=2).chunks(world)
        assert "\n" not in str(error.value)


def test_the_hash_stands_for_every_setting():
    other = {
        "data": ("other",), "sa1b": "a", "sav": "b", "mix": (("crops", 1.0),), "method": "erp",
        "size": "nano", "image_size": 512, "checkpoint": None, "precision": "bf16",
        "optimizer": "muon", "loss": "from-scratch", "betas": (0.9, 0.99),
        "crop_fov": (40.0, 90.0), "batch_size": 64, "prompted": "first", "warmup_steps": 7,
    }  # fmt: skip
    hashes = {settings_hash(GOOD)}
    for field in fields(TrainSettings):
        value = getattr(GOOD, field.name)
        if field.name not in other:
            if isinstance(value, bool):
                other[field.name] = not value
            else:
                other[field.name] = value + 1 if isinstance(value, int) else value / 2 + 0.01
        hashes.add(settings_hash(replace(GOOD, **{field.name: other[field.name]})))
    assert len(hashes) == len(fields(TrainSettings)) + 1
    assert all(len(text) == 12 and set(text) <= set("0123456789abcdef") for text in hashes)
    assert settings_hash(replace(GOOD, mix=(("panoramas", 7.0),))) == settings_hash(GOOD)


def test_settings_come_back_from_json():
    settings = replace(GOOD, mix=(("panoramas", 1.0), ("crops", 2.0)))

    def frozen(value):
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    again = {name: frozen(value) for name, value in to_json(settings).items()}
    assert TrainSettings(**again) == settings


# ---- the command line


@pytest.fixture
def called(monkeypatch):
    """Calls `python -m sap_model train` with a training that only notes what it was given."""
    given_to = []

    def fit(settings, out, watch):
        given_to.append((settings, out, watch))
        return out / "weights.pt"

    monkeypatch.setattr(training, "train", fit)

    def call(*arguments: str):
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", *arguments])
        return ended.value.code, given_to[-1] if given_to else None

    return call


def test_options_become_settings(called, capsys):
    code, (settings, out, watch) = called(
        "--data", "one", "--data", "the other", "--run", "here", "--mix", "panoramas:3, crops",
        "--size", "nano",
        "--image-size", "256", "--checkpointing", "0", "--lr", "1e-3", "--seed", "0",
        "--steps", "7", "--batch", "4", "--micro-batch", "2", "--min-pixels", "9",
        "--objects", "3",
        "--frames", "48", "--checkpoint", "x.pt", "--precision", "bf16", "--method", "erp",
        "--validate-every", "5", "--save-every", "6", "--workers", "0",
    )  # fmt: skip
    assert code == 0
    assert str(out) == "here"
    assert settings == TrainSettings(
        data=("one", "the other"), mix=(("panoramas", 0.75), ("crops", 0.25)), size="nano",
        image_size=256, checkpointing=False, lr=1e-3, seed=0, steps=7, batch_size=4,
        micro_batch_size=2, min_pixels=9, clip_objects=3, clip_frames=48, checkpoint="x.pt",
        precision="bf16", method="erp",
    )  # fmt: skip
    assert (watch.validate_every, watch.save_every, watch.workers) == (5, 6, 0)
    assert "weights: here/weights.pt" in capsys.readouterr().out


def test_what_is_not_said_stays_as_the_settings_have_it(called):
    code, (settings, out, watch) = called("--data", "shards")
    assert (code, settings, str(out)) == (0, TrainSettings(data=("shards",)), "out/train")
    assert watch == Watch()
    _, (settings, _, _) = called("--sa1b", "a", "--mix", "sa1b")
    assert settings.mix == (("sa1b", 1.0),)


def test_shards_and_the_run_lie_in_out_unless_they_are_given(called):
    _, (settings, out, _) = called("OUT=my run")
    assert (settings.data, str(out)) == (("my run/shards",), "my run/train")


def test_every_setting_of_a_run_can_be_given(called):
    """Those that the command line once did not have."""
    _, (settings, _, watch) = called(
        "DATA=x", "WARMUP_STEPS=5", "WEIGHT_DECAY=0.02", "MAX_GRAD_NORM=1", "BETAS=0.9,0.98",
        "FINAL_LR_FRACTION=0", "CORRECTION_CLICKS=2", "OPTIMIZER=muon", "LOSS=from-scratch",
        "CROP_FOV=30,70", "CHECKPOINT=none", "VALIDATION_CLIPS=3", "FREEZE_ENCODER=0",
    )  # fmt: skip
    assert settings == TrainSettings(
        data=("x",), warmup_steps=5, weight_decay=0.02, max_grad_norm=1.0, betas=(0.9, 0.98),
        final_lr_fraction=0.0, correction_clicks=2, optimizer="muon", loss="from-scratch",
        crop_fov=(30.0, 70.0), checkpoint=None, freeze_encoder=False,
    )  # fmt: skip
    assert watch == Watch(clips=3)
    given = {option.field for option in options_of(Train).values() if option.group == "settings"}
    assert given == {field.name for field in fields(TrainSettings)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data", ""), "DATA is empty"),
        (("--data", "x", "--mix", "panoramas:much"), "MIX=panoramas:much is not a"),
        (("--data", "x", "--mix", "paintings"), "MIX names paintings"),
        (("--data", "x", "--mix", "panoramas:0"), "of panoramas in MIX is"),
        (("--data", "x", "--mix", ""), "MIX is empty"),
        (("--data", "x", "--method", "scan"), "METHOD=scan is unknown"),
        (("--data", "x", "--steps", "many"), "STEPS=many is not an integer"),
        (("--data", "x", "--lr", "high"), "LR"),
        (("--data", "x", "--checkpointing", "yes"), "CHECKPOINTING=yes is not 0 or 1"),
        (("--data", "x", "--precision", "half"), "PRECISION=half"),
        (("--data", "x", "--validate-every", "0"), "VALIDATE_EVERY=0 is out of range"),
        (("--data", "x", "--save-every", "-3"), "SAVE_EVERY=-3 is out of range"),
        (("--data", "x", "--workers", "-1"), "WORKERS=-1 is out of range"),
        (("--data", "x", "--workers", "two"), "WORKERS=two is not an integer"),
        (("--data", "x", "--colour", "red"), "no setting COLOUR"),
    ],
)
def test_what_cannot_be_is_one_line(called, capsys, arguments, said):
    code, settings = called(*arguments)
    assert (code, settings) == (2, None)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_shards_that_are_not_there_are_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.main([
            "train", "--data", str(tmp_path / "none"), "--run", str(tmp_path / "run"),
            "--size", "nano",
        ])  # fmt: skip
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert str(tmp_path / "none") in error
    assert not (tmp_path / "run" / "settings.json").exists()
