"""Evaluation and `Refiner` give the same answer to every draft, verdict and refinement, alone and in a vote."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import open_run
from selfevo.evaluation.evaluate import Outcome, measure
from selfevo.method.prompts import CRITIQUE, REFINE
from selfevo.method.protocols import Generation, Model, Request, Sampling
from selfevo.method.records import Turns
from selfevo.serving.refiner import Answer, Refiner
from selfevo.tasks.base import Problem
from selfevo.tasks.scripted import ScriptedTask

RIGHT, CUT, EMPTY, FAILED = "the answer is 42", "length", "empty", "failed"
DRAFTS = (RIGHT, "it is 7", CUT, EMPTY, FAILED)
VERDICTS = ("Verdict: qualified", "Verdict: not qualified", "I cannot say", CUT, EMPTY)
REFINEMENTS = (RIGHT, "it is 9", CUT, EMPTY, FAILED)
Sample = tuple[str, str, str]  # draft, feedback, refinement


class Contains(ScriptedTask):
    """A text is right where it holds the answer."""

    def is_correct(self, problem: Problem, response: str) -> bool:
        return problem.answer in response


TASK = Contains({"question": "42"})


class Script:
    """Responds with the samples in turn, and knows each sample again by its number, which its draft carries."""

    batch_size = 4

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples, self.drawn = samples, 0
        self.asked: list[tuple[Turns, int]] = []

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        return list(self._answers(requests, sampling))

    def release(self) -> None:
        """Holds nothing."""

    def _answers(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Generation]:
        for request in requests:
            self.asked.append((request.turns, sampling.max_new_tokens))
            if len(request.turns) == 1:
                number = self.drawn if sampling.temperature else 0
                self.drawn += sampling.temperature > 0
                yield written(number, self.samples[number][0])
                continue
            number = int(request.turns[1].partition(":")[0])
            if request.turns[-1] == REFINE:
                yield written(number, self.samples[number][2])
            elif request.turns[-1] == CRITIQUE:
                yield written(None, self.samples[number][1])


def written(number: int | None, what: str) -> Generation:
    text = what if number is None else f"{number}: {what}"
    match what:
        case "length":
            return Generation(f"{text} and RIGHT would have been the answer is 42", "length", 1, 8)
        case "empty":
            return Generation("", "empty", 1, 1)
        case "failed":
            return Generation("", "failed", 0, 0)
    return Generation(text, "stop", 1, 1)


def evaluated(root: Path, samples: Sequence[Sample]) -> Outcome:
    workspace = open_run(root, Script(samples))
    runner = workspace.runner("evaluate", Model("m", root, "w"))
    [outcome] = measure(runner, TASK, TASK.problems(1, 0, frozenset()), len(samples) if len(samples) > 1 else 1)
    return outcome


def answered(root: Path, samples: Sequence[Sample]) -> Answer:
    folder = root / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    [answer] = Refiner(folder, engine=Script(samples), consistency=len(samples)).answer(["question"])
    return answer


def is_right(text: str) -> bool:
    [problem] = TASK.problems(1, 0, frozenset())
    return bool(text) and TASK.is_correct(problem, text)


@pytest.mark.parametrize("sample", itertools.product(DRAFTS, VERDICTS, REFINEMENTS), ids=" | ".join)
def test_both_give_the_same_answer(sample: Sample, tmp_path: Path) -> None:
    outcome, answer = evaluated(tmp_path / "run", [sample]), answered(tmp_path, [sample])
    assert is_right(answer.text) == outcome.right_refined
    assert answer.text == (outcome.refined if answer.text else "")
    draft, feedback, refinement = sample
    came = draft not in (CUT, EMPTY, FAILED)
    replaced = came and feedback == "Verdict: not qualified" and refinement not in (CUT, EMPTY, FAILED)
    assert answer.text == (f"0: {refinement}" if replaced else f"0: {draft}" if came else "")


SAMPLES = st.tuples(st.sampled_from(DRAFTS), st.sampled_from(VERDICTS), st.sampled_from(REFINEMENTS))


@given(st.lists(SAMPLES, min_size=2, max_size=5))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_elect_the_same_answer(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> None:
    root = tmp_path_factory.mktemp("votes")
    outcome, answer = evaluated(root / "run", samples), answered(root, samples)
    assert is_right(answer.text) == outcome.right_both


def test_each_skill_has_its_own_limit_in_both(tmp_path: Path) -> None:
    sample = ("it is 7", "Verdict: not qualified", RIGHT)
    script = Script([sample])
    limits = {"respond": Sampling(11), "critique": Sampling(12), "refine": Sampling(13), "judge": Sampling(12)}
    workspace = open_run(tmp_path / "run", script)
    runner = workspace.runner("evaluate", Model("m", tmp_path, "w"), limits)
    measure(runner, TASK, TASK.problems(1, 0, frozenset()))
    assert [limit for _, limit in script.asked] == [11, 12, 13]
    run = tmp_path / "other"
    (run / "models" / "m").mkdir(parents=True)
    (run / "models" / "m" / "config.json").write_text("{}")
    (run / "manifest.json").write_text("{}")
    (run / "config.json").write_text(
        '{"skills": {"respond": {"max_new_tokens": 11}, "critique": {"max_new_tokens": 12}, '
        '"refine": {"max_new_tokens": 13}, "judge": {"max_new_tokens": 12}}}'
    )
    script = Script([sample])
    Refiner(run / "models" / "m", engine=script).answer(["question"])
    assert [limit for _, limit in script.asked] == [11, 12, 13, 12]
    script = Script([sample])
    Refiner(run / "models" / "m", engine=script, max_new_tokens=5).answer(["question"])
    assert {limit for _, limit in script.asked} == {5}
