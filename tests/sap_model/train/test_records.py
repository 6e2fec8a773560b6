"""What a run says of itself."""

from __future__ import annotations

import time

from sap_model.train.records import Records
from sap_model.train.validation import Score


def test_the_line_tells_the_last_ious_and_the_time_left_with_validations(
    tmp_path, monkeypatch, capsys
):
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    records = Records(tmp_path, steps=30, done=10)
    for step in (11, 12):
        records.step(step, {"core_loss": 2.0}, lr=1e-3, norm=1.0, took=10.0, waited=5.0)
    clock += 20
    records.show()
    expected = "step 12 of 30: loss 2.0000, 10.00 s a step (50% waiting for data), 3 min left\n"
    assert capsys.readouterr().out == expected
    clock += 100  # which a validation took: two minutes for two steps in all
    records.validated(12, Score(0.75, 0.5, 1.0, (3, 3)))
    capsys.readouterr()
    records.show()
    said = capsys.readouterr().out
    assert "IoU 0.750 clicked, 0.500 from memory" in said and "18 min left" in said
    records.close()
