"""Ctrl-C and SIGTERM in training: a checkpoint is left, and the same command goes on from it to the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_checkpoints import SHORT

from selfevo.trainers.stopping import Stopping
from trainings import Killing, state, train

SLOW: dict[str, Any] = {"per_device_train_batch_size": 1, "lr_scheduler_type": "linear"}


class Signalling(Killing):
    """Progress that is sent a signal after `steps` optimizer steps."""

    def advance(self, amount: int, detail: str = "") -> None:
        self.steps -= amount
        if self.steps == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_a_training_that_is_stopped_goes_on_to_the_same_weights(
    steps: int, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny_model, tmp_path / "whole", SHORT, **SLOW)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path / "stopped", SHORT, progress=Signalling(steps), **SLOW)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping when this step is done" in capfd.readouterr().err
    assert not any((tmp_path / "stopped/out").iterdir())
    second = Killing(100)
    train(tiny_model, tmp_path / "stopped", SHORT, progress=second, **SLOW)
    assert second.begun == [(steps, 6)]
    whole, stopped = state(tmp_path / "whole/out"), state(tmp_path / "stopped/out")
    assert all(torch.equal(stopped[name], whole[name]) for name in whole)


def test_the_second_signal_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Stopping():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_signals_that_are_ignored_or_come_to_another_thread_are_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
        assert stopping.number is None
    finally:
        signal.signal(signal.SIGINT, before)

    def enter() -> None:
        with Stopping():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[Any] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_in_training_goes_on_from_its_checkpoint(
    number: signal.Signals, tiny_model: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"Sort: {i} 2", "response": f"{i} 2", "feedback": "No.\nVerdict: not qualified", "refinement": "2"}
        for i in range(60)
    ]
    (tmp_path / "d_meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps({"prompt": f"Order: {i}"}) + "\n" for i in range(4)))
    settings = {
        "model": str(tiny_model),
        "output": "out",
        "prompts": {"path": "pool.jsonl"},
        "corpus": {"path": "d_meta.jsonl", "max_one_verdict": 1.0},
        "rounds": 1,
        "skills": {name: {"max_new_tokens": 8} for name in ("respond", "critique", "refine", "judge")},
        "trainer": {"num_train_epochs": 40, "round_epochs": 0.1, "per_device_train_batch_size": 1, "device": "cpu"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "selfevo", "run", "run.yaml", "--no-check", "--set", "monitors.max_unparsed=null"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )

    process = start()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("train meta: "):
            break
    time.sleep(2)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "stopped after " in out
    assert err.endswith("selfevo: stopped; run the same command again to resume\n")
    [checkpoint] = (tmp_path / "out/models/.meta.work").glob("checkpoint-*")
    process = start()
    out, err = process.communicate(timeout=600)
    assert process.returncode in (0, 7), err
    assert f"({checkpoint.name.partition('-')[2]} of them done before)" in out
    assert (tmp_path / "out/models/round-1/model.safetensors").is_file()
