"""How answers are read and compared, and that the annotator's feedback is true."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.errors import DataError
from selfevo.method.answer_extraction import extract_answer
from selfevo.method.prompts import parse_verdict
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import Task
from selfevo.tasks.word_problems import WordProblems, check_equations

GSM8K = {
    "question": "Natalia sold clips to 48 friends in April, and half as many in May. How many did she sell?",
    "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=1072>>1,072 clips.\n#### 1,072",
}
SVAMP = {"Body": "A pack costs 76 dollars.", "Question": "With 25 off?", "Equation": "( 76.0 - 25.0 )", "Answer": 51.0}

CASES = Path(__file__).parents[1] / "cases"


def task(folder: Path, rows: Sequence[Mapping[str, Any]]) -> WordProblems:
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return WordProblems("gsm8k", path)


@given(st.one_of(st.text(), st.text(alphabet="0123456789+-*/=().,$%x #\n<>e")))
def test_no_text_can_break_the_reader_or_the_checker(text: str) -> None:
    extract_answer(text)
    checked, wrong = check_equations(text)
    assert checked >= bool(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 50_000 + "1" + ")" * 50_000 + " = 1",
        "9*" * 30_000 + "9 = 1",
        "1," * 50_000,
        "answer " * 20_000,
        "1" * 10**6,
        "9e99*" * 10 + "1 = 2",
        "#### " * 20_000,
        "answer is" + " " * 50_000,
        "1,111" + ",111" * 20_000 + "1",
    ],
    ids=range(9),
)
def test_hostile_texts_take_bounded_time(text: str) -> None:
    start = time.perf_counter()
    extract_answer(text)
    check_equations(text)
    assert time.perf_counter() - start < 2


@given(st.integers(0, 999), st.sampled_from("+-*"), st.integers(0, 999), st.integers(-9, 9))
def test_equations_are_judged_by_their_arithmetic(a: int, operator: str, b: int, error: int) -> None:
    right = {"+": a + b, "-": a - b, "*": a * b}[operator]
    checked, wrong = check_equations(f"So she has {a} {operator} {b} = {right + error} apples.")
    assert checked == 1
    assert (wrong != "") == (error != 0)
    if wrong:
        assert wrong.endswith(f"{a} {operator} {b} = {right}.")


@pytest.mark.parametrize(
    "text",
    [
        "48/2 = 24",
        "$5 x 3 = $15 and 2 \u00d7 3 = 6",
        "(48+24 = 72)",
        "(2 + 3) * 4 = 20",
        "10 / 3 = 3.33",
        "10 / 3 = 3.3",
        "2 / 3 = 0.67",
        "3 + 8 + 18 = 29",
        "5 + 3 = 8 * 2 = 16",
        "20% * 50 = 10",
        "5 / 20 * 100 = 25%",
        "100% - 80% = 20%",
        "48 * 0.3333333333333333 = 16",
        "1,000 + 500 = 1,500.",
        "3 - 5 = -2",
        "1. 3 + 4 = 7",
        "Step 2: 3 + 4 = 7",
    ],
)
def test_right_equations_are_checked_and_pass(text: str) -> None:
    checked, wrong = check_equations(text)
    assert checked and not wrong


@pytest.mark.parametrize(
    "text",
    [
        "x = 5",
        "2x + 3 = 7",
        "20 - x = 5",
        "half of 10 + 5 = 10",
        "3 apples + 4 apples = 7",
        "25 / 1/3 = 75",
        "2 + 3 = 5 million",
        "2 - 1/2 = 1 1/2",
        "100/5 = 5A/5",
        "$1 / 2 = 50 cents",
        "2**3 + 1 = 9",
        "at 5:30 + 2 = 7",
        "1 / 0 = 0",
        "13 / 6 = 2 remainder 1",
        "3 + 4 =",
    ],
)
def test_what_cannot_be_read_whole_is_not_judged(text: str) -> None:
    assert check_equations(text) == (0, "")


EQUATIONS = [json.loads(line) for line in (CASES / "equations.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", EQUATIONS, ids=range(len(EQUATIONS)))
def test_no_right_equation_is_called_wrong(case: dict[str, str]) -> None:
    checked, wrong = check_equations(case["text"])
    assert ("wrong" if wrong else "right" if checked else "passed over") == case["judged"]


@given(
    st.integers(1, 99),
    st.sampled_from(
        [
            "√",
            "∛",
            "2^",
            "2 ^ ",
            "2 ** ",
            "²",
            "½ ",
            "sqrt ",
            "log ",
            "twice ",
            "\\\\cdot ",
            "5! ",
            "7 @ ",
            "≈ ",
            "7 ± ",
        ]
    ),
    st.sampled_from(["+", "-", "×"]),
    st.integers(1, 99),
)
def test_what_stands_before_an_expression_is_part_of_it(a: int, before: str, operator: str, b: int) -> None:
    result = {"+": a + b, "-": a - b, "×": a * b}[operator]
    assert check_equations(f"{before}{a} {operator} {b} = {result + 1}") == (0, "")


def test_the_first_wrong_equation_is_named() -> None:
    text = "She has 2 + 2 = 4.\nThen 48 + $24 = $73.50, then 1 + 1 = 3."
    assert check_equations(text) == (2, "48 + $24 = $73.50 is wrong: 48 + $24 = 72.")


def test_gsm8k_rows(tmp_path: Path) -> None:
    problems: Task = task(tmp_path, [GSM8K])
    [problem] = problems.problems(1, 0, frozenset())
    assert (problem.answer, problem.kind, problem.prompt.prompt) == ("1072", "gsm8k", GSM8K["question"])
    assert problem.difficulty == "2 steps"
    assert problems.is_correct(problem, "I think it is $1,072.00.")
    assert not problems.is_correct(problem, "72")
    assert not problems.is_correct(problem, "")


def test_gsm8k_solution_has_no_annotations(tmp_path: Path) -> None:
    problems = task(tmp_path, [GSM8K])
    [problem] = problems.problems(1, 0, frozenset())
    expected = "She sold 48/2 = 24 clips in May.\nShe sold 48+24 = 1,072 clips.\n#### 1072"
    assert problems.solution(problem) == expected


def test_svamp_rows(tmp_path: Path) -> None:
    problems = task(tmp_path, [SVAMP])
    [problem] = problems.problems(1, 0, frozenset())
    assert problem.prompt.prompt == "A pack costs 76 dollars. With 25 off?"
    assert problem.answer == "51"
    assert problems.solution(problem) == "76 - 25 = 51\n#### 51"


@pytest.mark.parametrize(
    ("equation", "answer", "solution"),
    [
        ("( ( 4.0 - 2.0 ) * 3.0 )", 6.0, "(4 - 2) * 3 = 6\n#### 6"),
        ("( 4.0 - 2.0 )", 9.0, "#### 9"),
        ("__import__('os')", 9.0, "#### 9"),
    ],
)
def test_a_svamp_equation_is_shown_where_it_gives_the_answer(
    tmp_path: Path, equation: str, answer: float, solution: str
) -> None:
    problems = task(tmp_path, [{**SVAMP, "Equation": equation, "Answer": answer}])
    assert problems.solution(problems.problems(1, 0, frozenset())[0]) == solution


@pytest.mark.parametrize(
    ("answer", "solution"),
    [(7, "#### 7"), ("7.0", "#### 7"), ("3 + 4 = 7 apples", "3 + 4 = 7 apples\n#### 7"), ("3/4", "#### 0.75")],
)
def test_plain_question_and_answer_rows(tmp_path: Path, answer: object, solution: str) -> None:
    problems = task(tmp_path, [{"question": "How many?", "answer": answer}])
    [problem] = problems.problems(1, 0, frozenset())
    assert problems.solution(problem) == solution
    assert problems.is_correct(problem, solution)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"question": "a", "answer": "none"}', "line 2: the answer 'none' has no number"),
        ('{"question": " ", "answer": "3"}', "line 2: the question is empty"),
        ('{"prompt": "a"}', "line 2: the columns are 'prompt', not question and answer"),
        ('{"question": "torn', "line 2 is not JSON"),
    ],
)
def test_a_row_that_cannot_be_used_stops(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GSM8K) + "\n" + row + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=reason):
        WordProblems("gsm8k", path).problems(1, 0, frozenset())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl does not exist"):
        WordProblems("gsm8k", tmp_path / "no.jsonl").problems(1, 0, frozenset())


def test_the_sample_is_seeded_distinct_and_stable_under_exclusion(tmp_path: Path) -> None:
    problems = task(tmp_path, [{"question": f"{i % 40}?", "answer": str(i % 40)} for i in range(50)])
    drawn = problems.problems(40, 1, frozenset())
    assert len({problem.prompt.id for problem in drawn}) == 40
    assert problems.problems(10, 1, frozenset()) == drawn[:10]
    assert problems.problems(10, 2, frozenset()) != drawn[:10]
    gone = frozenset(problem.prompt.id for problem in drawn[:5])
    assert problems.problems(10, 1, gone) == drawn[5:15]
    with pytest.raises(
        DataError, match=r"36 problems are asked for, and .* has 40, 35 of them not in use yet; ask for at most 35"
    ):
        problems.problems(36, 1, gone)


@pytest.mark.parametrize(
    ("response", "feedback"),
    [
        ("40 + 2 = 42\n#### 42", "The calculations are right.\nThe final answer 42 is right.\nVerdict: qualified"),
        ("#### 42", "The final answer 42 is right.\nVerdict: qualified"),
        (
            "40 + 2 = 43\n#### 43",
            "40 + 2 = 43 is wrong: 40 + 2 = 42.\n"
            "The final answer 43 is wrong. It should be 42.\nVerdict: not qualified",
        ),
        (
            "40 - 2 = 38",
            "The calculations are right, the approach is not.\nThe final answer 38 is wrong. It should be 42.\n"
            "Verdict: not qualified",
        ),
        ("", "There is no final answer. It should be 42.\nVerdict: not qualified"),
    ],
)
def test_feedback_in_words(tmp_path: Path, response: str, feedback: str) -> None:
    problems = task(tmp_path, [{"question": "?", "answer": "42"}])
    assert problems.explain(problems.problems(1, 0, frozenset())[0], response) == feedback


@given(st.text() | st.sampled_from(["42", "Verdict: qualified\n42", "Verdict: not qualified", "41 + 1 = 43\n#### 42"]))
def test_the_verdict_agrees_with_the_check(tmp_path_factory: pytest.TempPathFactory, response: str) -> None:
    problems = task(tmp_path_factory.getbasetemp(), [{"question": "?", "answer": "42"}])
    [problem] = problems.problems(1, 0, frozenset())
    expected = Verdict.QUALIFIED if problems.is_correct(problem, response) else Verdict.NOT_QUALIFIED
    assert parse_verdict(problems.explain(problem, response)) is expected
