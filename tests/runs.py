"""What several tests of run directories share."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfevo.cli.demo import SMOKE, demo_config
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.inputs.splits import draw_splits
from selfevo.method.protocols import Engine, Generation, Model, Sampling
from selfevo.method.records import Judged, Prompt, Turns
from selfevo.report.progress import Silent
from selfevo.rundir.results import Results, load_results
from selfevo.rundir.workspace import Workspace
from selfevo.tasks import load_task
from selfevo.tasks.base import Problem
from selfevo.trainers.scripted import ScriptedTrainer


class KilledError(Exception):
    """Stands for whatever ends a process."""


def tree(root: Path) -> dict[str, bytes]:
    """Every file of stages/, data/ and models/, but for the markers and cards of models, which hold a duration."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("stages", "data", "models")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and path.name not in ("selfevo.json", "README.md")
    }


def small_demo(folder: Path, output: Path, seed: int = 0) -> RunConfig:
    """The demo with few rows, and a base model in `folder` that only scripted engines can read."""
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    settings = demo_config(base, output, seed, SMOKE).model_dump(mode="json")
    settings["corpus"]["labels"] = 16
    settings["prompts"]["count"] = settings["evaluation"]["count"] = 24
    return parse_config(settings, "test")


def results(config: RunConfig) -> Results:
    return load_results(config.output)


def timeless(found: Results) -> Results:
    """Without what the clock says, which is another thing in every run."""
    models = tuple(model.model_copy(update={"seconds": 0}) for model in found.models)
    return found.model_copy(update={"models": models, "seconds": 0})


SKILL = {"base": 0.1, "warm-up": 0.5, "sft": 0.5, "meta": 0.6, "round-1": 0.7, "round-2": 0.8, "round-3": 0.9}


def everything(config: RunConfig) -> dict[str, Problem]:
    splits = draw_splits(config)
    known = [*splits.labelled, *splits.evaluation, *splits.audit, *splits.pool_answers.values()]
    return {p.prompt.prompt: p for p in known}


def student(config: RunConfig) -> Callable[[Path, Turns], str | Generation]:
    """Answers better from model to model, criticises well, and sometimes not at all."""
    assert config.evaluation is not None
    task, problems = load_task(config.evaluation.task), everything(config)

    def answer(model: Path, turns: Turns) -> str | Generation:
        problem, dice = problems[turns[0]], random.Random(f"{turns} {model.name}")
        if dice.random() < 0.05:
            return Generation("and so on and so", "length", 9, 32)
        if len(turns) == 3:
            return task.explain(problem, turns[1]) if dice.random() < 0.9 else "I cannot say."
        return task.solution(problem) if dice.random() < SKILL[model.name] else f"wrong {dice.random()}"

    return answer


PROMPTS = [Prompt.of(f"question {i} " + "x" * (i % 7)) for i in range(20)]
MODEL = Model("base", Path("base"), "weights-0")


def reply(model: Path, turns: Turns) -> str | Generation:
    """Questions 5 and 10 are cut off; the text holds what JSON lines could trip over."""
    if " 5 " in turns[0] or " 10 " in turns[0]:
        return Generation("half an ans", "length", 3, 8)
    return f"answer to {turns[0]}\nline two \u2028 \x85 \r é"


def open_run(root: Path, engine: Engine, trainer: ScriptedTrainer | None = None, **sampling: Any) -> Workspace:
    root.mkdir(exist_ok=True)
    limits = {name: Sampling(8, **sampling) for name in ("respond", "critique", "refine", "judge")}
    return Workspace(root, engine, lambda name: trainer or ScriptedTrainer(), limits, 0, Silent())


def scripted() -> ScriptedEngine:
    return ScriptedEngine(reply, batch_size=4)


def asked(engine: ScriptedEngine) -> list[str]:
    return [request.turns[0] for _, request in engine.calls]


def judged(i: int, judgement: str) -> Judged:
    return Judged(str(i), f"p{i}", "r", "f", f"s{i}", judgement)
