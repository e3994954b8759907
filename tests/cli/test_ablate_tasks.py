"""`selfevo ablate` on problems from the user's own file, with each rule that says which answers are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Selfevo, configuration
from selfevo.engines.scripted import ScriptedEngine
from selfevo.rundir.ablation import load_ablation

GOLDS: dict[str, list[Any]] = {  # scripted answers are 3, and 4 when they are refined
    "exact": ["3", ["4", "four"]],
    "choice": ["A", "B"],
    "regex": ["^3$", "^4$"],
    "number": [3, 4.0],
    "python:grading:is_right": ["3", "4"],
    "judge": ["3", "4"],
}


@pytest.mark.parametrize("name", GOLDS)
def test_variants_are_compared_by_the_rule_of_the_task(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "grading.py").write_text("def is_right(prompt, answer, response):\n    return answer == response\n")
    rows = [
        {"question": f"Say {i}.", "answer": GOLDS[name][i % 2], **({"choices": ["3", "4"]} if name == "choice" else {})}
        for i in range(8)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": name, "path": "own.jsonl", "columns": {"prompt": "question"}}
    code, out, err = selfevo(
        "ablate", configuration(tmp_path, evaluation={"task": task}), "--only", "no-filter", "--seeds", "0,1"
    )
    assert code == 0, err
    assert "no-filter" in out and "table: " in out
    rows_found = {row.name: row for row in load_ablation(tmp_path / "out-ablation").rows}
    assert {"base", "sft", "meta", "self", "no-filter"} <= rows_found.keys()
    assert set(rows_found["no-filter"].answers["direct"]) == {0, 1}
    if name != "judge":  # 3 is right for every other problem
        assert {answers.count("1") for answers in rows_found["self"].answers["direct"].values()} == {4}
