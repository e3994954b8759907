"""Workings the model finds itself: right ones alone, each once, the greedy one first, and none asked for twice."""

from __future__ import annotations

from pathlib import Path

from own_workings import own_workings

from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.protocols import Generation, Model, Sampling
from selfevo.method.records import Prompt, Turns
from selfevo.report.progress import Silent
from selfevo.rundir.workspace import Workspace
from selfevo.tasks.base import Problem
from selfevo.tasks.word_problems import WordProblems
from selfevo.trainers.scripted import ScriptedTrainer

PROMPTS = [Prompt.of("What is 3 + 3?"), Prompt.of("What is 2 + 2?"), Prompt.of("What is 9 + 9?")]
PROBLEMS = {p.id: Problem(p, answer, "sum") for p, answer in zip(PROMPTS, ("6", "4", "18"), strict=True)}
SAID = [
    {"What is 3 + 3?": "It is 6.", "What is 2 + 2?": "It is 5.", "What is 9 + 9?": "It is 17."},
    {"What is 3 + 3?": "Six: 6", "What is 2 + 2?": "It is 4.", "What is 9 + 9?": "cut: 18"},
    {"What is 3 + 3?": "It is 6.", "What is 2 + 2?": "It is 5.", "What is 9 + 9?": "It is 17."},
]


def test_right_answers_at_length_are_workings_each_once_and_asked_for_once(tmp_path: Path) -> None:
    limits: list[Sampling] = []

    def answer(model: Path, turns: Turns) -> str | Generation:
        text = SAID[len(engine.calls) // 3 - 1][turns[0]]
        return Generation(text, "length", 1, 1) if text.startswith("cut") else text

    class Engine(ScriptedEngine):
        def generate(self, model, requests, sampling):  # type: ignore[no-untyped-def]
            limits.append(sampling)
            return super().generate(model, requests, sampling)

    engine = Engine(answer)
    run = Workspace(tmp_path, engine, lambda name: ScriptedTrainer(), {"respond": Sampling(80)}, 0, Silent())
    task = WordProblems("gsm8k", tmp_path / "not read")
    for _ in range(2):
        found = own_workings(run, Model("base", tmp_path, "id"), PROMPTS, PROBLEMS, task, Sampling(450, 0.6), 2)
        assert list(found.values()) == [["It is 6.", "Six: 6"], ["It is 4."], []]
    assert limits == [Sampling(450, 0.0), Sampling(450, 0.6), Sampling(450, 0.6)]
