"""`selfevo eval` on a file of one's own: --set, the count, and the table of a judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Selfevo
from selfevo.engines.scripted import ScriptedEngine


@pytest.fixture
def base(selfevo: Selfevo, tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def write(name: str, *rows: dict[str, Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_columns_and_options_are_set_on_the_command_line(
    selfevo: Selfevo, scripted: ScriptedEngine, base: Path
) -> None:
    write("mine.jsonl", *({"q": f"{i}?", "gold": gold} for i, gold in enumerate(["four", 4, ["3", "x"], 5])))
    columns = ("--set", "columns.prompt=q", "--set", "columns.answer=gold")
    code, out, err = selfevo("eval", base, "--task", "exact", "--path", "mine.jsonl", *columns, "--output", "out")
    assert (code, err) == (0, "")
    assert "exact, seed 0" in out
    results = json.loads(Path("out/results.json").read_text())
    # The scripted model says 3, finds it wrong, and refines it to 4.
    assert sorted(results["models"][0]["answers"]["direct"]) == list("0001")
    assert sorted(results["models"][0]["answers"]["refined"]) == list("0001")
    code, _, err = selfevo("eval", base, "--task", "exact", "--path", "mine.jsonl", *columns, "--count", 5)
    assert code == 2
    assert "count: 5 problems are asked for, and mine.jsonl has 4, 4 of them not in use yet; ask for at most 4" in err
    code, _, err = selfevo("eval", base, "--task", "exact", "--path", "mine.jsonl", *columns, "--set", "options.case=1")
    assert code == 2
    assert "task exact: options: unknown key 'case'; known here: ignore_case" in err


def test_a_mistake_in_a_function_is_one_line(selfevo: Selfevo, scripted: ScriptedEngine, base: Path) -> None:
    write("mine.jsonl", {"prompt": "Which?", "answer": "3"})
    Path("grading_of_eval.py").write_text("def is_right(prompt, answer, response):\n    return response.find(answer)\n")
    code, out, err = selfevo("eval", base, "--task", "python:grading_of_eval:is_right", "--path", "mine.jsonl")
    assert (code, out) == (1, "")
    assert err == (
        "selfevo: grading_of_eval:is_right returned int 0 on the response '3' to 'Which?'; it must return True or "
        "False\n"
    )


def test_a_judge_has_a_table_of_its_own(selfevo: Selfevo, scripted: ScriptedEngine, base: Path) -> None:
    write("open.jsonl", {"prompt": "Which?", "answer": "3"}, {"prompt": "Why?", "answer": "because"})
    code, out, err = selfevo("eval", base, "--task", "judge", "--path", "open.jsonl")
    assert code == 0
    assert "base: the judge's choice could not be read in 1 of 2 comparisons of direct answers, which count as" in err
    assert "answers against open.jsonl, judged by base; a tie is half a win" in out
    direct = next(line for line in out.splitlines() if "│ direct" in line)
    # One equal answer, and one whose judge writes "3", which is no choice.
    assert [cell.strip() for cell in direct.split("│")[3:-1]] == ["50.0 %", "0", "1", "0", "1", "1", "–"]
