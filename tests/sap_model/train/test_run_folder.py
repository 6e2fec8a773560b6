"""Files of a run: whole or not there, read by plain SAM2, refused where they are another run's."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from sam2.build_sam import build_sam2_video_predictor

from pipeline.errors import UserError
from sap_model.model.build import build
from sap_model.model.checkpoints import load
from sap_model.train import run_folder
from sap_model.train.network import TRAIN
from sap_model.train.run_folder import RunLog
from sap_model.train.settings import TrainSettings
from sap_model.train.validation import ValidationScore

SETTINGS = TrainSettings(data=("shards",))


def save(folder, *steps: int) -> None:
    for step in steps:
        run_folder.save_state(folder, step, {"model": {"weight": torch.full((9,), float(step))}})


def test_the_last_states_are_kept_and_the_newest_is_read(tmp_path):
    assert run_folder.last_state(tmp_path) is None
    save(tmp_path, 5, 10, 200)
    assert [path.name for path in run_folder.states(tmp_path)] == ["00000010.pt", "00000200.pt"]
    state = run_folder.last_state(tmp_path)
    assert state is not None and state["step"] == 200
    assert torch.equal(state["model"]["weight"], torch.full((9,), 200.0))


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, capsys, damage):
    save(tmp_path, 1, 2)
    last = tmp_path / "state" / "00000002.pt"
    last.write_bytes(last.read_bytes()[:-500] if damage is None else damage)
    state = run_folder.last_state(tmp_path)
    assert state is not None and state["step"] == 1
    assert str(last) in capsys.readouterr().out
    (tmp_path / "state" / "00000001.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"no state in .* can be read"):
        run_folder.last_state(tmp_path)


def test_a_state_that_another_process_read_must_be_there(tmp_path):
    save(tmp_path, 7)
    assert run_folder.state_of(tmp_path, 7)["step"] == 7
    with pytest.raises(UserError, match="storage that all machines share"):
        run_folder.state_of(tmp_path, 8)


def test_a_lower_lr_starts_from_the_best_or_the_last_weights(tmp_path):
    assert run_folder.lower_lr(tmp_path).endswith("lower LR")
    save(tmp_path, 7, 8)
    assert run_folder.lower_lr(tmp_path).endswith(f"CHECKPOINT={tmp_path}/state/00000008.pt")
    (tmp_path / "best.pt").write_bytes(b"weights")
    assert run_folder.lower_lr(tmp_path).endswith(f"CHECKPOINT={tmp_path}/best.pt")


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "weights.pt"
    run_folder.save(path, 1)
    with pytest.raises(Exception, match="pickle"):
        run_folder.save(path, {"big": torch.zeros(10_000), "bad": lambda: None})
    assert torch.load(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_is_told_from_others(tmp_path):
    assert not run_folder.holds(tmp_path, SETTINGS)
    run_folder.open_run(tmp_path, SETTINGS)
    run_folder.open_run(tmp_path, SETTINGS)
    assert run_folder.holds(tmp_path, SETTINGS)
    other = dataclasses.replace(SETTINGS, lr=1.0, clip_frames=3)
    with pytest.raises(UserError, match=r"other settings \(CLIP_FRAMES, LR\)"):
        run_folder.open_run(tmp_path, other)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run_folder.open_run(tmp_path, SETTINGS)


def test_exported_weights_load_in_plain_sam2_and_in_ours(tmp_path):
    trained = build("tiny", 64, TRAIN, seed=3)
    image = torch.linspace(-1, 1, 64)[None, None, :, None].expand(1, 3, 64, 64)
    with torch.no_grad():
        expected = trained.forward_image(image)["backbone_fpn"]
    for precision, tolerance in ((torch.float32, 0.0), (torch.float16, 0.05)):
        path = tmp_path / f"{precision}.pt"
        run_folder.export(trained, path, precision)
        attention = "++model.memory_attention.layer"
        theirs = build_sam2_video_predictor(
            "configs/sam2.1/sam2.1_hiera_t.yaml",
            str(path),
            device="cpu",
            hydra_overrides_extra=[
                "++model.image_size=64",
                f"{attention}.self_attention.feat_sizes=[4,4]",
                f"{attention}.cross_attention.feat_sizes=[4,4]",
            ],
        )
        assert type(theirs).__module__ == "sam2.sam2_video_predictor"
        for model in (theirs, load(None, path, 64, "cpu")):
            for name, weight in model.state_dict().items():
                wanted = trained.state_dict()[name].to(precision).float()
                torch.testing.assert_close(weight, wanted, rtol=0, atol=0, msg=name)
            with torch.no_grad():
                features = model.forward_image(image)["backbone_fpn"]
            torch.testing.assert_close(features, expected, rtol=tolerance, atol=tolerance)
    sizes = [(tmp_path / f"{p}.pt").stat().st_size for p in (torch.float32, torch.float16)]
    assert sizes[0] / sizes[1] == pytest.approx(2, abs=0.05)


def test_progress_line_shows_last_iou_and_time_left(tmp_path, monkeypatch, capsys):
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    records = RunLog(tmp_path, steps=30, done=10)
    for step in (11, 12):
        records.step(step, {"core_loss": 2.0}, lr=1e-3, norm=1.0, took=10.0, waited=5.0)
    clock += 20
    records.show()
    expected = "step 12 of 30: loss 2.0000, 10.00 s a step (50% waiting for data), 3 min left\n"
    assert capsys.readouterr().out == expected
    clock += 100  # which a validation took: two minutes for two steps in all
    records.validated(12, ValidationScore(0.75, 0.5, 1.0, (3, 3)))
    capsys.readouterr()
    records.show()
    said = capsys.readouterr().out
    assert "IoU 0.750 clicked, 0.500 from memory" in said and "18 min left" in said
    records.close()
