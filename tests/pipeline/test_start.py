"""What a start says of the one before it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from runs import small_demo, student
from selfevo.config.cluster import ClusterConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.protocols import Generation, Request, Sampling
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.layout import Layout
from selfevo.trainers.scripted import ScriptedTrainer


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingEngine(ScriptedEngine):
    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        die()
        return []


@pytest.mark.parametrize(
    ("where", "stage", "lower"),
    [
        ("train", "train warm-up", "trainer.per_device_train_batch_size"),
        ("respond", "d_meta-1/respond", "engine.batch_size"),
    ],
)
def test_a_start_after_a_kill_says_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, stage: str, lower: str
) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    if (child := os.fork()) == 0:
        answer = student(config)
        engine = ScriptedEngine(answer) if where == "train" else DyingEngine(answer)
        run_loop(config, Silent(), engine, ScriptedTrainer(die if where == "train" else lambda *_: None))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    said = f"killed at: {stage}. If that happens again, memory is probably short: lower {lower}"
    assert said in capsys.readouterr().err
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    assert "killed" not in capsys.readouterr().err


def test_every_start_records_its_versions_and_says_when_they_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    for _ in range(2):
        run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    assert "was started with" not in capsys.readouterr().err
    layout = Layout(config.output)
    starts = [event["platform"] for event in read_rows(layout.events) if event["event"] == "start"]
    assert len(starts) == 2
    assert {"torch", "transformers", "trl", "peft", "python"} <= starts[0].keys()
    manifest = json.loads(layout.manifest.read_text())
    now = manifest["platform"]["transformers"]
    manifest["platform"]["transformers"] = "5.0.1"
    layout.manifest.write_text(json.dumps(manifest))
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    assert f"was started with transformers 5.0.1, now {now}; texts may differ" in capsys.readouterr().err


def test_the_engine_may_take_less_memory_on_a_resume(tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    smaller = config.model_copy(
        update={
            "engine": config.engine.model_copy(update={"batch_size": 3, "workers": 2}),
            "cluster": ClusterConfig(address="auto"),
        }
    )
    engine, trainer = ScriptedEngine(student(config)), ScriptedTrainer()
    run_loop(smaller, Silent(), engine, trainer)
    assert (engine.calls, trainer.calls) == ([], [])
