"""The curve of a training: every step once, whatever happened to the process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfevo.rundir.atomic_files import CURVE
from trainings import EXAMPLES, Killing, train

SHORT = EXAMPLES * 2  # 6 steps of one sequence each


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "out" / CURVE).read_text().splitlines()]


def test_every_step_has_its_loss_learning_rate_and_gradient(tiny_model: Path, tmp_path: Path) -> None:
    figures = train(tiny_model, tmp_path, SHORT, per_device_train_batch_size=1)
    rows = curve(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row.keys() == {"step", "epoch", "loss", "learning_rate", "grad_norm"} for row in rows)
    assert round(rows[0]["loss"], 4) == figures["loss_first"]
    assert {row["learning_rate"] for row in rows} == {1e-2}
    assert rows[-1]["epoch"] == 1


@pytest.mark.parametrize("killed_at", [1, 2, 4, 6])
def test_a_kill_leaves_neither_gaps_nor_doubles(tiny_model: Path, tmp_path: Path, killed_at: int) -> None:
    settings: dict[str, Any] = {"per_device_train_batch_size": 1, "save_minutes": 1e-9}
    train(tiny_model, tmp_path / "whole", SHORT, **settings)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path / "killed", SHORT, progress=Killing(killed_at), **settings)
    train(tiny_model, tmp_path / "killed", SHORT, **settings)
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
