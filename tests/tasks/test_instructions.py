"""Checkable instructions: a text that fulfils one passes, every broken demand is named, and the verdict agrees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.config import TaskConfig
from selfevo.errors import ConfigError, DataError
from selfevo.prompts import Verdict, parse_verdict
from selfevo.protocols import Problem
from selfevo.records import Prompt
from selfevo.tasks import load_task
from selfevo.tasks.instructions import KINDS, InstructionsTask, demands, fulfil

TASK = InstructionsTask("instructions", tuple(KINDS))
PROBLEMS = TASK.problems(40, 3, frozenset())


@given(st.integers(0, 10_000))
def test_every_instruction_can_be_fulfilled(seed: int) -> None:
    for problem in TASK.problems(len(KINDS), seed, frozenset()):
        assert TASK.is_correct(problem, TASK.solution(problem))
        assert len(demands(problem.prompt.prompt)) >= 2
        assert fulfil(problem.prompt.prompt) == problem.answer


@given(st.sampled_from(PROBLEMS), st.text())
def test_the_annotators_verdict_is_that_of_the_checker(problem: Problem, response: str) -> None:
    for text in (response, problem.answer, problem.answer + response):
        verdict = parse_verdict(TASK.explain(problem, text))
        assert verdict is (Verdict.QUALIFIED if TASK.is_correct(problem, text) else Verdict.NOT_QUALIFIED)


SENTENCE = (
    "Write one sentence about rain. Use the words: lamp, door. End with: once in a while. Write in capital letters."
)
ORDERED = "List 3 fruits, one on each line. Begin each line with a dash. Go from A to Z. Write in capital letters."
LIST = "List 3 fruits, one on each line. Begin each line with a dash."


@pytest.mark.parametrize(
    ("question", "response", "faults"),
    [
        (SENTENCE, "RAIN ON A LAMP AND A DOOR ONCE IN A WHILE!", {}),
        (SENTENCE, "RAIN ON A LAMP ONCE IN A WHILE.", {"Word door": "missing"}),
        (SENTENCE, "RAIN ON LAMPS, A LAMP AND A DOOR.", {"Ends with once in a while": "ends with LAMP AND A DOOR"}),
        (SENTENCE, "RAIN. LAMP. DOOR ONCE IN A WHILE", {"One sentence": "has 3"}),
        (SENTENCE, "RAIN, lamp, DOOR ONCE IN A WHILE", {"Capitals": "not lamp,"}),
        (LIST, "- apple\n- pear\n\n- fig\n", {}),
        (LIST, "- apple\n- pear", {"3 lines": "has 2"}),
        (LIST, "- apple\n* pear\n- fig", {"Each begins with -": "not * pear"}),
        (LIST, "- apple\n-\n- fig", {"Each begins with -": "not -"}),
        (ORDERED, "- APPLE\n- FIG\n- PEAR", {}),
        (ORDERED, "- APPLE\n- PEAR\n- FIG", {"A to Z": "pear before fig"}),
    ],
)
def test_a_broken_demand_is_named(question: str, response: str, faults: dict[str, str]) -> None:
    assert {d.label: d.fault(response) for d in demands(question) if d.fault(response)} == faults
    lines = TASK.explain(Problem(Prompt.of(question), "", "x"), response).split("\n")
    assert [line for line in lines[:-1] if ": yes" not in line] == [
        f"{label}: {fault}, {number} wrong" for number, (label, fault) in enumerate(faults.items(), start=1)
    ]
    assert lines[-2].endswith(f"{len(faults)} wrong")


def test_an_empty_response_breaks_something() -> None:
    assert not any(TASK.is_correct(problem, "") for problem in PROBLEMS)


def test_there_are_more_of_every_kind_than_the_demo_needs() -> None:
    assert len(TASK.problems(2000, 0, frozenset())) == 2000


def test_the_same_seed_gives_the_same_problems_and_none_that_are_in_use() -> None:
    assert TASK.problems(40, 3, frozenset()) == PROBLEMS
    taken = frozenset(problem.prompt.id for problem in PROBLEMS)
    assert not taken & {problem.prompt.id for problem in TASK.problems(40, 3, taken)}
    with pytest.raises(DataError, match="has no 100000 problems"):
        InstructionsTask("lists", ("list",)).problems(100_000, 0, frozenset())


@pytest.mark.parametrize("name", ["instructions", *(f"instructions:{kind}" for kind in KINDS)])
def test_it_is_a_task_by_name(name: str) -> None:
    assert load_task(TaskConfig(name=name)).problems(2, 0, frozenset())


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown kind of instruction 'poem'; there are words"):
        load_task(TaskConfig(name="instructions:poem"))
