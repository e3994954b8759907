"""What several tests of run directories share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfevo.config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.progress import Silent
from selfevo.prompts import Turns
from selfevo.protocols import Engine, Generation, Model, Sampling
from selfevo.records import Judged, Prompt
from selfevo.run import Run
from selfevo.trainers.scripted import ScriptedTrainer


class KilledError(Exception):
    """Stands for whatever ends a process."""


def tree(root: Path) -> dict[str, bytes]:
    """Every file of stages/, data/ and models/, but for the markers of models, which hold a duration."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("stages", "data", "models")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and path.name != "selfevo.json"
    }


def results(config: RunConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((config.output / "results.json").read_text(encoding="utf-8"))
    return content


PROMPTS = [Prompt.of(f"question {i} " + "x" * (i % 7)) for i in range(20)]
MODEL = Model("base", Path("base"), "weights-0")


def reply(model: Path, turns: Turns) -> str | Generation:
    """Questions 5 and 10 are cut off; the text holds what JSON lines could trip over."""
    if " 5 " in turns[0] or " 10 " in turns[0]:
        return Generation("half an ans", "length", 3, 8)
    return f"answer to {turns[0]}\nline two \u2028 \x85 \r é"


def open_run(root: Path, engine: Engine, trainer: ScriptedTrainer | None = None, **sampling: float) -> Run:
    limits = {name: Sampling(8, **sampling) for name in ("respond", "critique", "refine", "judge")}
    return Run(root, engine, lambda name: trainer or ScriptedTrainer(), limits, 0, Silent())


def scripted() -> ScriptedEngine:
    return ScriptedEngine(reply, batch_size=4)


def asked(engine: ScriptedEngine) -> list[str]:
    return [request.turns[0] for _, request in engine.calls]


def judged(i: int, judgement: str) -> Judged:
    return Judged(str(i), f"p{i}", "r", "f", f"s{i}", judgement)
