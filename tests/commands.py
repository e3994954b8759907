"""What the tests of commands share: the command itself, with scripted parts, and a configuration that can be run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from selfevo.cli import app as cli
from selfevo.config.sections import MonitorsConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.prompts import REFINE
from selfevo.method.records import Turns
from selfevo.report.terminal import console
from selfevo.trainers.scripted import ScriptedTrainer

COMMANDS = typer.main.get_group(cli.app).commands
Selfevo = Callable[..., tuple[int, str, str]]
YES, NO = "Fine.\nVerdict: qualified", "Off by one.\nVerdict: not qualified"


@pytest.fixture
def selfevo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Selfevo:
    """Runs the command in an empty folder; returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "_width", 300)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfevo", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """Replaces the engine and the trainer that a configuration names."""

    def answer(model: Path, turns: Turns) -> str:
        if len(turns) == 3:
            return NO if turns[1] == "3" else YES
        return "4" if turns[-1] == REFINE else "3"

    engine = ScriptedEngine(answer)
    monkeypatch.setattr("selfevo.checks.doctor.checks_of", lambda config: [])  # it would want a real model
    monkeypatch.setattr("selfevo.engines.transformers.TransformersEngine", lambda **settings: engine)
    monkeypatch.setattr("selfevo.pipeline.run.build_trainer", lambda *settings: ScriptedTrainer())
    return engine


def configuration(folder: Path, model: Path | None = None, **more: Any) -> Path:
    """A configuration that can be run, and the files it names."""
    base = model or folder / "base"
    if model is None:
        base.mkdir(exist_ok=True)
        (base / "config.json").write_text("{}")
        (base / "model.safetensors").write_bytes(b"weights")
    (folder / "pool.jsonl").write_text("".join(json.dumps({"prompt": f"{i}+{i}"}) + "\n" for i in range(6)))
    row = {"prompt": "7+7", "response": "3", "feedback": NO, "refinement": "14"}
    (folder / "d_meta.jsonl").write_text(json.dumps(row) + "\n")
    settings: dict[str, Any] = {
        "model": str(base),
        "output": "out",
        "prompts": {"path": "pool.jsonl"},
        "corpus": {"path": "d_meta.jsonl"},
        "evaluation": {"task": {"name": "add-to-each"}, "count": 5},
        "rounds": 2,
        "monitors": dict.fromkeys(MonitorsConfig().bounds()),  # scripted answers are all the same
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**settings, **more}))
    return path


def one_line(err: str) -> str:
    assert err.endswith("\n")
    assert err.count("\n") == 1, f"an error is one line, not {err!r}"
    assert err.startswith("selfevo: ")
    assert "Traceback" not in err
    return err.strip()
