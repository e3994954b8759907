"""Mathematical answers: equal forms are equal, others are not, and no answer costs more than it may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.config.sections import TaskConfig
from selfevo.errors import ConfigError, DataError, MissingExtraError
from selfevo.method.prompts import Verdict, parse_verdict
from selfevo.tasks import latex, load_task
from selfevo.tasks.latex import LatexProblems, final_answer

ROWS = [
    {"problem": "Half?", "answer": "\\frac{1}{2}", "subject": "Algebra"},
    {"problem": "Pair?", "solution": "So it is $\\boxed{(3, \\frac{\\pi}{2})}$.", "level": 2},
    {"question": "Whole?", "answer": "42"},
    {"problem": "Root?", "answer": "2\\sqrt{3}"},
]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> LatexProblems:
    path = tmp_path_factory.mktemp("latex") / "math.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return LatexProblems("math", path)


def test_subject_and_level_are_how_results_are_split(task: LatexProblems) -> None:
    found = {p.prompt.prompt: (p.kind, p.difficulty) for p in task.problems(4, 0, frozenset())}
    assert (found["Half?"], found["Pair?"]) == (("Algebra", ""), ("math", "2"))


@pytest.mark.parametrize(
    ("question", "response", "right"),
    [
        ("Half?", "It is \\boxed{\\frac{1}{2}}.", True),
        ("Half?", "It is \\boxed{0.5}.", True),
        ("Half?", "The answer is $\\frac{2}{4}$", True),
        ("Half?", "\\boxed{\\frac{1}{3}}", False),
        ("Half?", "", False),
        ("Half?", "\\boxed{", False),
        ("Pair?", "\\boxed{(3, \\pi/2)}", True),
        ("Pair?", "\\boxed{(\\pi/2, 3)}", False),
        ("Whole?", "We get 40 + 2.\n#### 42", True),
        ("Whole?", "#### 42.0", True),
        ("Whole?", "#### 43", False),
        ("Root?", "\\boxed{\\sqrt{12}}", True),
        ("Root?", "\\boxed{\\sqrt{13}}", False),
        ("Whole?", "\\boxed{9**9**9}", False),
        ("Root?", "\\boxed{9^{9^{9}}}", False),
        ("Root?", "\\boxed{7^{99999999}}", False),
    ],
)
def test_equal_forms_are_equal(task: LatexProblems, question: str, response: str, right: bool) -> None:
    problem = next(p for p in task.problems(4, 0, frozenset()) if p.prompt.prompt == question)
    assert task.is_correct(problem, response) is right
    verdict = parse_verdict(task.explain(problem, response))
    assert verdict is (Verdict.QUALIFIED if right else Verdict.NOT_QUALIFIED)


def test_gold_solutions_are_right(task: LatexProblems) -> None:
    problems = task.problems(4, 0, frozenset())
    assert all(task.is_correct(problem, task.solution(problem)) for problem in problems)
    assert {problem.kind for problem in problems} == {"Algebra", "math"}


def test_what_the_guard_does_not_see_is_killed(task: LatexProblems, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = next(p for p in task.problems(4, 0, frozenset()) if p.prompt.prompt == "Root?")
    assert latex._CHILD.seconds == 0.5
    monkeypatch.setattr(latex, "_verify", _forever)
    assert task.is_correct(problem, "\\boxed{\\sqrt{12}}") is False
    monkeypatch.undo()
    assert task.is_correct(problem, "\\boxed{\\sqrt{13}}") is False


def _forever(gold: str, given: str) -> bool:
    while True:
        pass


@given(st.text())
def test_any_text_has_a_final_answer_or_none(text: str) -> None:
    assert isinstance(final_answer(text), str)


@pytest.mark.parametrize("row", [{"problem": "p"}, {"answer": "3"}, {"problem": "p", "solution": "no box"}])
def test_a_row_without_problem_or_answer_is_named(tmp_path: Path, row: dict[str, str]) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"m\.jsonl line 1 has no (problem|answer)"):
        LatexProblems("math", tmp_path / "m.jsonl").problems(1, 0, frozenset())


def test_it_is_a_task_by_name_and_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"task math reads its problems from a file; give task\.path"):
        load_task(TaskConfig(name="math"))
    monkeypatch.setattr(latex, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'selfevo\[math\]'"):
        load_task(TaskConfig(name="math", path=tmp_path / "m.jsonl"))
