"""Tasks on a file of one's own: exact, regex and number, and what a row must be."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.config.loading import parse
from selfevo.config.task import OWN_FILE, TaskConfig
from selfevo.errors import ConfigError, DataError
from selfevo.method.prompts import ENGLISH
from selfevo.method.verdicts import Verdict
from selfevo.tasks import load_checked_task, load_task
from selfevo.tasks.base import AnnotatedTask, FiniteTask, Problem
from selfevo.tasks.golds import normal
from selfevo.tasks.sampling import draw

NONE: frozenset[str] = frozenset()


def load(folder: Path, name: str, *rows: dict[str, Any], **settings: Any) -> AnnotatedTask:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task(parse(TaskConfig, {"name": name, "path": path, **settings}, "task"))


def one(folder: Path, name: str, answer: Any, **settings: Any) -> tuple[AnnotatedTask, Problem]:
    task = load(folder, name, {"prompt": "Which?", "answer": answer}, **settings)
    [problem] = task.problems(1, 0, NONE)
    return task, problem


@pytest.mark.parametrize(
    ("answer", "response", "right"),
    [
        ("Paris", "Paris", True),
        ("Paris", "  Paris.\n", True),
        ("Paris", "**Paris**", True),
        ("Paris", '"Paris."', True),
        ("Paris", "The answer is Paris.", True),
        ("Paris", "It lies on the Seine.\nAnswer: **Paris**", True),
        ("Paris", "So \\boxed{\\text{Paris}}.", True),
        ("Paris", "<think>London? No.</think>Paris", True),
        ("Paris", "The answer is Paris. It lies on the Seine.", True),
        ("Paris", "The answer is Paris, not London", False),
        ("Paris", "Paris is the answer", False),
        ("Paris", "paris", False),
        ("Paris", "Not Paris", False),
        ("Paris", "The answer is Paris. No, the answer is London.", False),
        ("St. Louis", "The answer is St. Louis", True),
        ("don't", "don’t", True),
        ("Zürich", "Zu\u0308rich", True),
        ("東京", "東京。", True),
        (42, "42", True),
        (42.0, "42", True),
        ("042", "42", False),
        (True, "true", True),
        (["NYC", "New York"], "New York", True),
        (["NYC", "New York"], "NYC, New York", False),
        ("a.b.", "a.b.", True),
        ("yes", "The final answer is $yes$.", True),
        ("x" * 30_000, "x" * 30_000, True),
        ("...", "...", True),
        (".", ".", True),
    ],
)
def test_exact(tmp_path: Path, answer: Any, response: str, right: bool) -> None:
    task, problem = one(tmp_path, "exact", answer)
    assert task.is_correct(problem, response) is right


def test_exact_may_ignore_case(tmp_path: Path) -> None:
    task, problem = one(tmp_path, "exact", "Straße", options={"ignore_case": True})
    assert task.is_correct(problem, "STRASSE")


@given(st.text())
def test_a_normal_form_is_stable_and_keeps_what_can_be_seen(text: str) -> None:
    assert normal(normal(text)) == normal(text)
    assert bool(normal(text)) or not any(character.isalnum() for character in text)


@pytest.mark.parametrize(
    ("answer", "response", "right"),
    [
        (42, "6 times 7 is 42.", True),
        ("1,234", "The answer is 1234.", True),
        (0.1, "It is 1/10", True),
        ("#### 5", "5", True),
        ("42 apples", "42", True),
        ([3, 4], "The answer is 4", True),
        (42, "43", False),
        (42, "none", False),
        (-3, "-3", True),
    ],
)
def test_number(tmp_path: Path, answer: Any, response: str, right: bool) -> None:
    task, problem = one(tmp_path, "number", answer)
    assert task.is_correct(problem, response) is right


@pytest.mark.parametrize(
    ("options", "answer", "response", "right"),
    [
        ({}, r"^yes\b", "yes, it is", True),
        ({}, r"^yes\b", "oh yes", False),
        ({}, r"\b15\b", "150", False),
        ({}, ["cat", "dog"], "a dog", True),
        ({}, 42, "it is 42", True),
        ({"ignore_case": True}, "YES", "yes", True),
        ({"pattern": r"Label: (\w+)"}, "spam", "Label: ham\nLabel: spam", True),
        ({"pattern": r"Label: (\w+)"}, "spam", "Label: spam\nLabel: ham", False),
        ({"pattern": r"Label: (\w+)"}, "spam", "spam", False),
        ({"pattern": r"Label: (\w+)", "ignore_case": True}, "Spam", "label: SPAM", True),
        ({"pattern": r"[0-9]{4}-[0-9]{2}"}, "2024-05", "on 2024-05-01", True),
        ({"pattern": r"(?:A: (\w+)|B: (\w+))"}, "y", "B: y", True),
    ],
)
def test_regex(tmp_path: Path, options: dict[str, Any], answer: Any, response: str, right: bool) -> None:
    task, problem = one(tmp_path, "regex", answer, options=options)
    assert task.is_correct(problem, response) is right


def test_a_pattern_that_takes_too_long_costs_one_answer_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("selfevo.tasks.rules.REGEX_SECONDS", 0.05)
    task, problem = one(tmp_path, "regex", r"(x+x+)+y")
    with caplog.at_level(logging.WARNING):
        assert not task.is_correct(problem, "x" * 3000)
    assert "took longer" in caplog.text


@pytest.mark.parametrize(
    ("name", "options", "answer", "message"),
    [
        ("exact", {}, None, "line 1: there is no answer in column 'answer'; the row has 'prompt', 'answer'"),
        ("exact", {}, "  ", "line 1: the answer is empty"),
        ("exact", {}, [], "the list of answers is empty"),
        ("exact", {}, ["a", None], "there is no answer"),
        ("exact", {}, {"a": 1}, "the answer holds dict; give text, a number, or a list of these"),
        ("exact", {}, [["a"]], "the answer holds list"),
        ("exact", {}, "a\0b", "the answer holds a NUL character"),
        ("exact", {}, ["a", "\ud800"], "the answer holds half a surrogate pair"),
        ("number", {}, "many", "the answer 'many' is not one number"),
        ("number", {}, "between 3 and 5", "is not one number"),
        ("regex", {}, "(", "'(' is no regular expression (missing ) at position 1)"),
        ("regex", {}, "a*", "the pattern 'a*' matches the empty text"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, options: dict[str, Any], answer: Any, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        one(tmp_path, name, answer, options=options)
    assert message in str(caught.value)
    assert "mine.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "exact", "options": {"case": True}}, "task exact: options: unknown key 'case'"),
        ({"name": "regex", "options": {"pattern": "("}}, "no regular expression"),
        ({"name": "number", "options": {"x": 1}}, "unknown key 'x'"),
        ({"name": "math", "options": {"x": 1}}, "task math has no options, and x is given"),
        (
            {"name": "gsm8k", "columns": {"answer": "gold"}},
            "columns are only for exact, choice, .*; use number or math",
        ),
        ({"name": "demo", "columns": {"answer": "gold"}}, "columns are only for exact"),
        ({"name": "demo", "path": "x.jsonl"}, "task demo makes its own problems, and path is x.jsonl; remove path"),
        ({"name": "demo", "path": None, "options": {"a": 1}}, "task demo has no options"),
        ({"name": "exact", "path": None}, "task exact reads its problems from a file; give task.path"),
        ({"name": "exact", "columns": {"promt": "q"}}, "unknown key 'columns.promt'; did you mean 'prompt'"),
        ({"name": "python:grading"}, "names no function; give python:MODULE:FUNCTION"),
        ({"name": "exakt"}, "did you mean 'exact'"),
    ],
)
def test_a_setting_that_a_task_does_not_read_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_task(parse(TaskConfig, {"path": "mine.jsonl", **settings}, "task"))


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = [{"q": f"{i}?", "gold": i, "topic": "odd" if i % 2 else "even", "level": i} for i in range(4)]
    columns = {"prompt": "q", "answer": "gold", "kind": "topic", "difficulty": "level"}
    drawn = load(tmp_path, "exact", *rows, columns=columns).problems(4, 0, NONE)
    found = {p.prompt.prompt: (p.answer, p.kind, p.difficulty) for p in drawn}
    assert found["3?"] == ("3", "odd", "3")
    for name in ("solution", "kind"):
        with pytest.raises(DataError, match=rf"has no column 'typo'; it has .*correct task.columns.{name}"):
            load(tmp_path, "exact", *rows, columns={**columns, name: "typo"}).problems(1, 0, NONE)
    with pytest.raises(DataError, match=r"no answer in column 'answer'; the row has 'q', 'gold'"):
        load(tmp_path, "exact", *rows, columns={"prompt": "q"}).problems(1, 0, NONE)
    with pytest.raises(DataError, match=r"column 'prompt' is missing; .* name it with task.columns.prompt"):
        load(tmp_path, "exact", *rows, columns={"answer": "gold"}).problems(1, 0, NONE)


def test_a_question_that_is_asked_twice_is_one_problem_or_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": "a?", "answer": "1"}, {"prompt": "a?", "answer": "1"}, {"prompt": "b?", "answer": "2"}]
    with caplog.at_level(logging.WARNING):
        assert len(load(tmp_path, "exact", *rows).problems(2, 0, NONE)) == 2
    assert "asks 1 questions more than once" in caplog.text
    rows[1]["answer"] = "3"
    with pytest.raises(DataError, match=r"line 2 asks the same as .*line 1 and has another answer"):
        load(tmp_path, "exact", *rows).problems(2, 0, NONE)


def test_what_is_not_asked_of_a_problem_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "b?"}]
    rows: list[dict[str, Any]] = [
        {"turns": ["a?", "and c?"], "answer": "1"},
        {"prompt": "b?", "messages": talk, "answer": "2"},
    ]
    with caplog.at_level(logging.WARNING):
        assert len(load(tmp_path, "exact", *rows).problems(2, 0, NONE)) == 2
    assert "not asked: the turns after the first of 1 of 2 problems" in caplog.text
    assert "not asked: column 'messages' (it differs from 'prompt') of 1 of 2 problems" in caplog.text


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        load(tmp_path, "exact").problems(1, 0, NONE)


@pytest.mark.parametrize("name", ["exact", "choice", "number"])
def test_feedback_of_the_rule_agrees_with_it_and_leads_to_its_solution(tmp_path: Path, name: str) -> None:
    gold = {"exact": "Paris", "choice": "B", "number": 42}[name]
    task, problem = one(tmp_path, name, gold)
    solution = task.solution(problem)
    assert task.is_correct(problem, solution)
    assert ENGLISH.parse(task.explain(problem, solution)) is Verdict.QUALIFIED
    for wrong in ("", "Rome", "C", "The answer is 43."):
        feedback = task.explain(problem, wrong)
        assert ENGLISH.parse(feedback) is Verdict.NOT_QUALIFIED
        assert f"It should be {solution}" in feedback


def test_a_column_of_solutions_is_learnt_from_and_ends_in_the_answer(tmp_path: Path) -> None:
    task = load(tmp_path, "number", {"prompt": "6*7?", "answer": 42, "solution": "Six times seven."})
    [problem] = task.problems(1, 0, NONE)
    assert task.solution(problem) == "Six times seven.\nThe answer is 42."
    task = load(tmp_path, "regex", {"prompt": "Say yes.", "answer": r"^yes\b", "solution": "yes, gladly"})
    [problem] = task.problems(1, 0, NONE)
    assert task.solution(problem) == "yes, gladly"


def test_a_pattern_is_no_response_to_learn_from(tmp_path: Path) -> None:
    task, problem = one(tmp_path, "regex", r"^yes\b")
    with pytest.raises(
        DataError, match=r"line 1: neither the solution nor the answer is a right response .*'solution'"
    ):
        task.solution(problem)


def test_by_default_all_of_a_file_is_asked_and_300_of_what_is_generated(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "answer": i} for i in range(7)]
    task = load(tmp_path, "exact", *rows)
    assert isinstance(task, FiniteTask)
    assert len(draw(task, None, 0, NONE, "count")) == 7
    assert len(draw(task, None, 0, NONE, "gate.count", 200, 5)) == 5
    taken = frozenset(p.prompt.id for p in draw(task, 4, 0, NONE, "count"))
    assert len(draw(task, None, 0, taken, "count")) == 3
    assert len(draw(load_checked_task(TaskConfig(name="demo")), None, 0, NONE, "count")) == 300
    with pytest.raises(DataError, match=r"^count: 8 problems .* has 7, 7 of them not in use yet; ask for at most 7"):
        draw(task, 8, 0, NONE, "count")
    with pytest.raises(DataError, match=r"^count: 4 problems .* has 7, 3 of them not in use yet; ask for at most 3"):
        draw(task, 4, 0, taken, "count")
    everything = frozenset(p.prompt.id for p in draw(task, 7, 0, NONE, "count"))
    with pytest.raises(DataError, match="has 7, 0 of them not in use yet; give another file, or set"):
        draw(task, None, 0, everything, "count")


def test_math_reads_rows_of_prompt_and_answer_and_other_columns(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    task, problem = one(tmp_path, "math", "\\frac{1}{2}")
    assert task.is_correct(problem, "The answer is $0.5$.")
    task = load(tmp_path, "math", {"q": "Half?", "gold": 0.5}, columns={"prompt": "q", "answer": "gold"})
    [problem] = task.problems(1, 0, NONE)
    assert task.is_correct(problem, "$\\frac12$")


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "evaluation.md"


def test_every_row_of_the_guide_is_one_of_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path, str(tmp_path)])
    text = GUIDE.read_text()
    [code] = re.findall(r"```python\n# (?:grading\.py)\n(.*?)```", text, re.DOTALL)
    (tmp_path / "grading_of_the_guide.py").write_text(code.replace("answer.casefold()", "str(answer).casefold()"))
    rows = re.findall(r"^\| `([\w:]+)` \| .* \| `(\{.*\})` \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == [*OWN_FILE[:5], "python:MODULE:FUNCTION", "judge"]
    for name, row in rows:
        if name == "math":
            pytest.importorskip("math_verify")
        task = load(tmp_path, name.replace("MODULE:FUNCTION", "grading_of_the_guide:is_right"), json.loads(row))
        assert len(task.problems(1, 0, NONE)) == 1


def test_a_prompt_may_be_a_conversation_that_ends_in_the_answer(tmp_path: Path) -> None:
    chat = [
        {"from": "system", "value": "One word."},
        {"from": "human", "value": "Capital of Italy?"},
        {"from": "gpt", "value": "Rome"},
        {"from": "human", "value": "And of France?"},
        {"from": "gpt", "value": "Paris"},
    ]
    task = load(tmp_path, "exact", {"conversations": chat}, {"conversations": chat[1:]})
    problems = task.problems(2, 0, NONE)  # two that differ in the system prompt alone
    assert {problem.prompt.system for problem in problems} == {"One word.", ""}
    for problem in problems:
        assert problem.prompt.history == ("Capital of Italy?", "Rome")
        assert problem.answer == "Paris"
        for asked in (problem, problem.under("Be brief.")):
            assert task.is_correct(asked, "Paris")
            assert task.solution(asked) == "Paris"
    task = load(tmp_path, "exact", {"messages": [{"role": "user", "content": "Capital of France?"}], "answer": "Paris"})
    assert [problem.answer for problem in task.problems(1, 0, NONE)] == ["Paris"]
    with pytest.raises(DataError, match=r"line 1: message 1 has the role 'nobody'"):
        load(tmp_path, "exact", {"messages": [{"role": "nobody", "content": "x"}], "answer": 1}).problems(1, 0, NONE)
