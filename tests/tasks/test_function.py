"""A function of one's own as a task: what it gets, and that a mistake in it never counts as a wrong answer."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from test_own_files import NONE, load

from selfevo.config.own_parts import part_files
from selfevo.config.task import TaskConfig
from selfevo.errors import CheckerError, ConfigError, DataError
from selfevo.tasks.base import AnnotatedTask, Problem

HEAD = "def is_right(prompt, answer, response):\n    "
number = iter(range(1000))


def function(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str, *rows: dict[str, Any], **options: Any) -> Any:
    """The task of a function in a module of its own, and its first problem."""
    module = f"grading_{next(number)}"
    (folder / f"{module}.py").write_text(body)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    rows = rows or ({"prompt": "Which?", "answer": "Paris"},)
    return load(folder, f"python:{module}:is_right", *rows, options=options)


def first(task: AnnotatedTask) -> tuple[AnnotatedTask, Problem]:
    return task, task.problems(1, 0, NONE)[0]


def test_it_gets_the_row_as_it_stands_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        "def is_right(response, answer, prompt):\n    return prompt == 'Add.' and str(sum(answer['of'])) in response\n"
    )
    task, problem = first(function(tmp_path, monkeypatch, body, {"prompt": "Add.", "answer": {"of": [1, 2]}}))
    assert [task.is_correct(problem, response) for response in ("it is 3", "it is 4")] == [True, False]
    assert problem.answer == '{"of": [1, 2]}'


def test_rows_may_have_no_answer_but_then_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = HEAD + "return answer is None and len(response) < 9\n"
    task, problem = first(function(tmp_path, monkeypatch, body, {"prompt": "Be brief."}))
    assert [task.is_correct(problem, response) for response in ("yes", "yes, of course")] == [True, False]
    with pytest.raises(DataError, match=r"1 of 2 rows have no answer in column 'answer'"):
        first(function(tmp_path, monkeypatch, body, {"prompt": "a"}, {"prompt": "b", "answer": "x"}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (HEAD + "return 1", "returned int 1 on the response 'Paris' to 'Which?'; it must return True or False"),
        (HEAD + "pass", "returned NoneType None"),
        (HEAD + "return answer in", "grading_"),
        (HEAD + "raise KeyError('x')", "raised KeyError: 'x' on the response 'Paris' to 'Which?'; correct it"),
        (HEAD + "return undefined", "raised NameError"),
        ("import missing_module\n" + HEAD + "return True", "No module named 'missing_module'"),
        ("def other(): pass", "has no is_right"),
        ("is_right = 5", "is int; name a function"),
        ("def is_right(prompt, gold, response):\n    return True", "takes (prompt, gold, response); a function that "),
        ("def is_right(answer, response):\n    return True", "takes prompt, answer and response, by these names"),
        ("async def is_right(prompt, answer, response):\n    return True", "is async"),
        (HEAD + "yield True", "returned generator"),
        (HEAD + "raise ValueError('two\\nlines')", "raised ValueError: two lines"),
        (HEAD + "import sys; sys.exit(3)", "raised RuntimeError: sys.exit(3)"),
        (HEAD + "import os; os._exit(1)", "gives no answer on the response 'Paris' to 'Which?' (the child process"),
        (HEAD + "return len('x' * 10**11) > 0", "(MemoryError: ); correct it, or raise options.seconds or"),
    ],
)
def test_a_mistake_in_it_is_one_line_and_no_wrong_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    with pytest.raises((CheckerError, ConfigError)) as caught:
        first(function(tmp_path, monkeypatch, body + "\n"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body", ["while response == 'slow': pass", "if response == 'slow': import os; os._exit(1)"], ids=["slow", "dead"]
)
def test_a_call_without_end_costs_one_answer_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    task, problem = first(function(tmp_path, monkeypatch, f"{HEAD}{body}\n    return True\n", seconds=0.2))
    with caplog.at_level(logging.WARNING):
        assert not task.is_correct(problem, "slow")
    assert "gave no answer on the response 'slow'" in caplog.text
    assert task.is_correct(problem, "fine")


def test_its_source_belongs_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function(tmp_path, monkeypatch, HEAD + "return True\n")
    [file] = sorted(tmp_path.glob("grading_*.py"))
    name = f"{file.stem}:is_right"
    assert part_files(TaskConfig(name=f"python:{name}", path=Path("x"))) == {name: file}


def test_a_solution_must_pass_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, problem = first(function(tmp_path, monkeypatch, HEAD + "return answer in response\n"))
    assert task.solution(problem) == "Paris"
    task, problem = first(function(tmp_path, monkeypatch, HEAD + "return response.startswith('I say')\n"))
    with pytest.raises(DataError, match="neither the solution nor the answer is a right response"):
        task.solution(problem)
