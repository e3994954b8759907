"""Mathematical answers: equal forms are equal, others are not, and no answer costs more than it may."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.config.task import TaskConfig
from selfevo.errors import CheckerError, ConfigError, DataError, MissingExtraError
from selfevo.method.prompts import parse_verdict
from selfevo.method.records import Prompt
from selfevo.method.verdicts import Verdict
from selfevo.tasks import latex, load_task
from selfevo.tasks.base import Problem
from selfevo.tasks.equivalence import same_answer
from selfevo.tasks.latex import LatexProblems, final_answer
from selfevo.tasks.sandbox import Child

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


CASES = Path(__file__).parents[1] / "cases"
READ = [
    json.loads(line)
    for name in ("latex.jsonl", "mathematics.jsonl")
    for line in (CASES / name).read_text("utf-8").splitlines()
]
GOLDS = (CASES / "golds.txt").read_text("utf-8").splitlines()


def problem(gold: str) -> Problem:
    return Problem(Prompt.of("p"), gold, "math")


@pytest.mark.parametrize("case", READ, ids=range(len(READ)))
def test_answers_are_read_as_a_person_reads_them(task: LatexProblems, case: dict[str, Any]) -> None:
    assert task.is_correct(problem(case["gold"]), case["response"]) is case["correct"]


@pytest.mark.parametrize(
    "form",
    [
        "So the answer is \\boxed{%s}.",
        "<think>\\boxed{99}</think>\\boxed{ %s }",
        "The answer is $%s$.",
        "Hence the result is \\(%s\\).",
        "We are done.\n#### %s",
        "**Answer:** $%s$",
        "The answer is\n\\[\n%s\n\\]",
        "Final Answer: The final answer is $%s$. I hope it is correct.",
    ],
)
def test_no_gold_answer_contradicts_itself(task: LatexProblems, form: str) -> None:
    assert [gold for gold in GOLDS if not task.is_correct(problem(gold), form % gold)] == []


def test_every_gold_answer_differs_from_the_next(task: LatexProblems) -> None:
    assert len(set(GOLDS)) == len(GOLDS) >= 200
    equal = [(a, b) for a, b in pairwise(GOLDS) if task.is_correct(problem(a), f"\\boxed{{{b}}}")]
    assert equal == []


def test_reading_alone_takes_no_two_gold_answers_for_one() -> None:
    """But for those that are one: the computer algebra is not asked here."""
    written_twice = {("1, 2", "(1,2)"), ("1, 2", "\\{1, 2\\}"), ("0.5", "\\frac{1}{2}"), ("x = 5", "5 \\text{ cm}")}
    some = GOLDS[::3]
    equal = {(a, b) for a in some for b in some if a != b and same_answer(a, b, lambda a, b: False)}
    assert equal <= {pair for a, b in written_twice for pair in ((a, b), (b, a))}


@given(
    st.fractions(-(10**15), 10**15, max_denominator=1000),
    st.sampled_from(["\\frac{%d}{%d}", "%d/%d", "$\\dfrac{%d}{%d}$"]),
)
def test_a_fraction_is_read_exactly_however_it_is_written(value: Fraction, form: str) -> None:
    """Up to answer_extraction.MAX_NUMBER characters, beyond which a number is no answer."""
    written = form % (value.numerator, value.denominator)
    assert same_answer(str(value), written, lambda a, b: False)
    assert not same_answer(str(value + Fraction(1, 10**6)), written, lambda a, b: False)


@given(st.text(alphabet="\\{}()[],=^_ 0123456789abxfrctextpm$&%.<", max_size=60), st.text(max_size=30))
def test_no_text_breaks_the_comparison(one: str, other: str) -> None:
    assert same_answer(one, other, lambda a, b: False) in (True, False)
    assert same_answer(one, one, lambda a, b: False) is bool(one.strip())


@pytest.mark.parametrize(
    "text",
    [
        *["\\boxed{" * 3000, "{" * 20_000, "(" * 20_000 + "," * 99, "\\frac" * 4000, "1," * 10_000, "\\text{" * 4000],
        *["2^" * 9000 + "2", "=" * 20_000, "\\pm" * 5000, "$" * 20_000, "\\cup" * 4000, "&" * 20_000, "a " * 9000],
    ],
    ids=range(13),
)
def test_hostile_answers_take_bounded_time(task: LatexProblems, text: str) -> None:
    start = time.perf_counter()
    task.is_correct(problem("\\sqrt{2}"), text)
    task.is_correct(problem("\\sqrt{2}"), f"\\boxed{{{text}}}")
    assert time.perf_counter() - start < 4


def test_a_checker_that_cannot_start_is_no_wrong_answer(task: LatexProblems, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latex, "_CHILD", Child(imports="no_such_module"))
    with pytest.raises(CheckerError, match="cannot start"):
        task.is_correct(problem("2\\sqrt{3}"), "\\boxed{\\sqrt{12}}")
    assert task.is_correct(problem("2\\sqrt{3}"), "\\boxed{2\\sqrt3}")


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
