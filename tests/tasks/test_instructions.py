"""Checkable instructions: a text that fulfils one passes, every broken demand is named, and the verdict agrees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.config.task import TaskConfig
from selfevo.errors import ConfigError, DataError
from selfevo.method.prompts import parse_verdict
from selfevo.method.records import Prompt
from selfevo.method.verdicts import Verdict
from selfevo.tasks import load_task
from selfevo.tasks.base import Problem
from selfevo.tasks.instructions import KINDS, InstructionsTask, demands, fulfil

TASK = InstructionsTask("instructions", tuple(KINDS))
PROBLEMS = TASK.problems(40, 3, frozenset())


@given(st.integers(0, 10_000))
def test_every_instruction_can_be_fulfilled(seed: int) -> None:
    for problem in TASK.problems(len(KINDS), seed, frozenset()):
        assert TASK.is_correct(problem, TASK.solution(problem))
        assert len(demands(problem.prompt.prompt, "")) >= 2
        assert fulfil(problem.prompt.prompt) == problem.answer


def texts(problem: Problem) -> st.SearchStrategy[str]:
    """Anything, and what is nearly right: in other letters, with parts left out, doubled, or in another order."""
    pieces = problem.answer.split("\n") if "\n" in problem.answer else problem.answer.split(" ")
    joint = "\n" if "\n" in problem.answer else " "
    near = st.lists(st.sampled_from(pieces)).map(joint.join)
    changed = st.sampled_from([str.lower, str.upper, str.title, str])
    return st.one_of(st.text(), st.builds(lambda change, text: change(text), changed, near | st.just(problem.answer)))


@given(st.sampled_from(PROBLEMS).flatmap(lambda problem: st.tuples(st.just(problem), texts(problem))))
def test_the_annotators_verdict_is_that_of_the_checker_and_what_it_mends_is_right(pair: tuple[Problem, str]) -> None:
    problem, text = pair
    right = TASK.is_correct(problem, text)
    assert parse_verdict(TASK.explain(problem, text)) is (Verdict.QUALIFIED if right else Verdict.NOT_QUALIFIED)
    assert TASK.is_correct(problem, TASK.solution(problem, text))


SENTENCE = (
    "Write one sentence about rain with the words: lamp, door. End it with: once in a while. "
    "Then write how many words it has."
)
LIST = (
    "List some fruits, one on each line, among them fig and kiwi. Begin each line with a dash. "
    "Then write how many there are."
)
NUMBERED = LIST.replace("a dash", "its number")


@pytest.mark.parametrize(
    ("question", "response", "wrong"),
    [
        (SENTENCE, "Rain on a Lamp and a door once in a While! 11", []),
        (SENTENCE, "Rain on a lamp and a door once in a while.\n11.", []),
        (SENTENCE, "Rain on a lamp and a door once in a while. 12", ["11 12"]),
        (SENTENCE, "Rain on a lamp and a door once in a while.", ["11 nothing"]),
        (SENTENCE, "Rain on a lamp once in a while. 8", ["door nothing"]),
        (SENTENCE, "Rain on lamps, a lamp and a door. 8", ["once in a while lamp and a door"]),
        (SENTENCE, "Sun. Lamp. Door once in a while 7", ["rain nothing", "1 3"]),
        (
            SENTENCE,
            "",
            ["rain nothing", "lamp nothing", "door nothing", "once in a while nothing", "1 0", "0 nothing"],
        ),
        (LIST, "- fig\n-Kiwi\n\n- pear\n3", []),
        (LIST, "- fig\n- kiwi\n- pear\n4", ["3 4"]),
        (LIST, "- fig\n- kiwi", ["2 nothing"]),
        (LIST, "- fig\n* kiwi\n2", ["2 - kiwi * kiwi"]),
        (LIST, "1. fig\n- pear\nplum\n3", ["kiwi nothing", "1 - fig 1. fig", "3 - plum plum"]),
        (LIST, "", ["fig nothing", "kiwi nothing", "0 nothing"]),
        (NUMBERED, "1. fig\n2. kiwi\n2", []),
        (NUMBERED, "1. fig\n1. kiwi\n2", ["2 2. kiwi 1. kiwi"]),
    ],
)
def test_each_broken_demand_is_named(question: str, response: str, wrong: list[str]) -> None:
    problem = Problem(Prompt.of(question), "", "x")
    feedback = TASK.explain(problem, response)
    found = [part.split(": ")[-1] for line in feedback.split("\n")[:-1] for part in line.split(", ")]
    differing = [f"{part.partition(' different')[0]}" for part in found if " different " in part]
    assert differing == wrong
    assert found[-1].endswith(f" {len(wrong)} wrong")
    assert TASK.is_correct(problem, response) is (not wrong)


def test_a_list_is_mended_line_by_line_and_what_is_missing_added() -> None:
    problem = Problem(Prompt.of(LIST), "", "x")
    assert TASK.solution(problem, "* Fig\nkiwi\n- pear\n7") == "- Fig\n- kiwi\n- pear\n3"
    assert TASK.solution(problem, "* pear") == "- pear\n- fig\n- kiwi\n3"
    assert TASK.solution(problem, "") == "- fig\n- kiwi\n2"


def test_a_wrong_count_is_mended_and_a_sentence_without_its_words_written_anew() -> None:
    problem = Problem(Prompt.of(SENTENCE), "", "x")
    assert TASK.solution(problem, "Rain: lamp, Door, once in a while. 3") == "Rain: lamp, Door, once in a while. 7"
    assert TASK.solution(problem, "Rain, lamp, once in a while. 6") == fulfil(SENTENCE)
    assert "1 Rain 2 lamp 3 door 4 once" in TASK.explain(problem, "Rain, lamp, door once in a while. 7")


def test_an_empty_response_breaks_something() -> None:
    assert not any(TASK.is_correct(problem, "") for problem in PROBLEMS)


def test_there_are_more_of_every_kind_than_the_demo_needs_three_times() -> None:
    assert len(TASK.problems(3300, 0, frozenset())) == 3300


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
    with pytest.raises(ConfigError, match="unknown kind of instruction 'poem'; use one of words"):
        load_task(TaskConfig(name="instructions:poem"))
