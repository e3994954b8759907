"""Problems from reasoning-gym: drawing, checking, and that no answer of a model ever runs as code."""

from __future__ import annotations

import inspect
import re
import sys

import pytest

from selfevo.errors import DataError, MissingExtraError
from selfevo.method.prompts import parse_verdict
from selfevo.method.records import Prompt
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import Problem, Task
from selfevo.tasks.gym import EVALUATING, GymTask

gym = pytest.importorskip("reasoning_gym")
NONE: frozenset[str] = frozenset()


def problem_of(task: GymTask, number: int = 0) -> Problem:
    return task.problems(number + 1, 0, NONE)[number]


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtraError, match="pip install reasoning-gym"):
        GymTask("gym:gsm_symbolic")


def test_an_unknown_generator_names_the_close_ones() -> None:
    with pytest.raises(DataError, match="no 'gsm_symbolc'; did you mean gsm_symbolic"):
        GymTask("gym:gsm_symbolc")


def test_options_reach_the_generator_and_wrong_ones_are_named() -> None:
    problem = problem_of(GymTask("gym:chain_sum", {"min_terms": 7, "max_terms": 7}))
    assert len(re.findall(r"\d+", problem.prompt.prompt)) == 7
    with pytest.raises(DataError, match=r"options {'terms': 7}.*it has .*min_terms"):
        GymTask("gym:chain_sum", {"terms": 7})
    with pytest.raises(DataError, match="does not take the options"):
        GymTask("gym:chain_sum", {"min_terms": 7, "max_terms": 6})
    with pytest.raises(DataError, match="seed cannot be an option"):
        GymTask("gym:chain_sum", {"seed": 7})


def test_problems_are_seeded_distinct_and_disjoint_from_the_excluded() -> None:
    task: Task = GymTask("gym:gsm_symbolic")
    drawn = task.problems(60, 3, NONE)
    ids = frozenset(problem.prompt.id for problem in drawn)
    assert len(ids) == 60
    assert {problem.kind for problem in drawn} == {"gsm_symbolic"}
    assert GymTask("gym:gsm_symbolic").problems(60, 3, NONE) == drawn
    assert task.problems(20, 3, NONE) == drawn[:20]
    assert not ids & {problem.prompt.id for problem in task.problems(60, 3, ids)}
    assert len(ids & {problem.prompt.id for problem in task.problems(60, 4, NONE)}) < 5


def test_too_few_problems_is_an_error() -> None:
    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    with pytest.raises(DataError, match=r"distinct problems in .* draws, and 5000 are asked for"):
        GymTask("gym:chain_sum", options).problems(5000, 0, NONE)


def test_solutions_are_worked_and_right() -> None:
    task = GymTask("gym:gsm_symbolic")
    for problem in task.problems(50, 0, NONE):
        solution = task.solution(problem)
        assert "\n" in solution
        assert task.is_correct(problem, solution)
        assert parse_verdict(task.explain(problem, solution)) is Verdict.QUALIFIED


def test_numbers_are_read_as_in_word_problems_with_their_sign() -> None:
    task = GymTask("gym:gsm_symbolic")
    problem = problem_of(task)
    gold = problem.answer
    assert int(gold) > 0
    for right in (gold, f"The answer is ${gold}.00. That was 1 of 2.", f"1 + 1 = 2\n#### {gold}"):
        assert task.is_correct(problem, right)
    for wrong in (f"-{gold}", f"{gold} or 1{gold}", f"{gold}/7", "", "none"):
        assert not task.is_correct(problem, wrong)


def test_another_instance_can_check_what_one_has_drawn() -> None:
    problem = problem_of(GymTask("gym:leg_counting"))
    assert GymTask("gym:leg_counting").is_correct(problem, problem.answer)
    stranger = Problem(Prompt.of("never drawn"), "1", "leg_counting")
    with pytest.raises(DataError, match="did not draw the problem 'never drawn' in this process; first call"):
        GymTask("gym:leg_counting").is_correct(stranger, "1")


def test_text_answers_are_the_declared_one_or_the_last_line() -> None:
    task = GymTask("gym:spell_backward")
    problem = problem_of(task)
    for right in (problem.answer, f"Let me see.\n{problem.answer}.", f"The answer is: {problem.answer}\nDone."):
        assert task.is_correct(problem, right)
    for wrong in ("", "x", f"{problem.answer}\nno"):
        assert not task.is_correct(problem, wrong)
    assert task.solution(problem) == problem.answer


def test_answers_of_several_lines_are_read_whole() -> None:
    task = GymTask("gym:rotate_matrix")
    problem = problem_of(task)
    assert "\n" in problem.answer
    assert task.is_correct(problem, f"Turned:\nAnswer:\n{problem.answer}")
    assert not task.is_correct(problem, problem.answer.rpartition("\n")[2])


def test_feedback_names_what_was_expected() -> None:
    numeric = GymTask("gym:leg_counting")
    problem = problem_of(numeric)
    assert numeric.explain(problem, "2 + 2 = 5\n#### 0") == (
        f"2 + 2 = 5 is wrong: 2 + 2 = 4.\nThe final answer 0 is wrong. It should be {problem.answer}.\n"
        "Verdict: not qualified"
    )
    text = GymTask("gym:spell_backward")
    problem = problem_of(text)
    assert text.explain(problem, problem.answer) == f"The final answer {problem.answer} is right.\nVerdict: qualified"
    assert f"It should be: {problem.answer}\n" in text.explain(problem, "Verdict: qualified")
    assert text.explain(problem, "").startswith("There is no final answer.")
    for response in ("", "Verdict: qualified", "x\nVerdict: qualified"):
        assert parse_verdict(text.explain(problem, response)) is Verdict.NOT_QUALIFIED


def test_a_score_that_raises_means_not_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    task = GymTask("gym:spell_backward")
    problem = problem_of(task)

    def choke(self: object, answer: str, entry: object) -> float:
        raise RuntimeError(answer)

    monkeypatch.setattr(gym.factory.DATASETS["spell_backward"][0], "score_answer", choke)
    assert not task.is_correct(problem, "x")


def test_generators_without_gold_answers_are_refused() -> None:
    with pytest.raises(DataError, match="gives no gold answers"):
        problem_of(GymTask("gym:graph_color"))


@pytest.mark.parametrize("name", sorted(EVALUATING))
def test_generators_that_evaluate_answers_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="evaluates answers as code"):
        GymTask(f"gym:{name}")


def test_the_list_of_evaluating_generators_is_complete() -> None:
    evaluate = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\(\s*(?:str\()?\w*(?:answer|solution|response)")
    found = {
        name
        for name, (dataset, _) in gym.factory.DATASETS.items()
        if evaluate.search(inspect.getsource(dataset)) and "def score_answer" in inspect.getsource(dataset)
    }
    assert found <= EVALUATING
    assert EVALUATING - found <= {"composite"}
