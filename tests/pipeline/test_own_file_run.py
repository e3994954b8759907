"""A whole run on files of one's own: every section that takes a task takes each rule."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from runs import SKILL, small_demo
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import DataError
from selfevo.inputs.splits import draw_splits
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.results import load_results
from selfevo.trainers.scripted import ScriptedTrainer

FUNCTION = "def is_right(prompt, answer, response):\n    return response.strip() == answer\n"
ANSWERS: dict[str, Any] = {
    "exact": lambda i: f"word {i}",
    "choice": lambda i: "ABCD"[i % 4],
    "regex": lambda i: f"word {i}",
    "number": lambda i: i,
    "python:grading_of_a_run:is_right": lambda i: f"word {i}",
}


def configured(folder: Path, name: str, **counts: int) -> RunConfig:
    def task(part: str, rows: int) -> dict[str, Any]:
        path = folder / f"{part}.jsonl"
        lines = [{"q": f"{part} {i}?", "gold": ANSWERS[name](i)} for i in range(rows)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"task": {"name": name, "path": str(path), "columns": {"prompt": "q", "answer": "gold"}}}

    config = small_demo(folder, folder / "run").model_dump(mode="json")
    config["corpus"] |= {"labels": 12, **task("train", 12)}
    config["prompts"] = task("pool", 12)
    config["evaluation"] |= {"count": None, **task("test", 14)}
    config["gate"] = {**task("dev", 10), "patience": 9}
    config["audit"] = task("probe", 6)
    for section, count in counts.items():
        config[section]["count"] = count
    return parse_config(config, "test")


@pytest.mark.parametrize("name", list(ANSWERS))
def test_every_section_takes_every_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "grading_of_a_run.py").write_text(FUNCTION)
    config = configured(tmp_path, name)
    splits = draw_splits(config)
    assert [len(each) for each in (splits.evaluation, splits.labelled, splits.pool, splits.dev, splits.audit)] == [
        14, 12, 12, 10, 6,
    ]  # fmt: skip

    def reply(model: Path, turns: tuple[str, ...]) -> str:
        number, skill = int(turns[0].split()[1].rstrip("?")), SKILL[model.name]
        right = str(ANSWERS[name](number))
        if len(turns) == 3:
            return f"Seen.\nVerdict: {'qualified' if turns[1] == right else 'not qualified'}"
        return right if number % 10 < 10 * skill else "wrong"

    run_loop(config, Silent(), ScriptedEngine(reply), ScriptedTrainer())
    results = load_results(config.output)
    assert results.task == name
    assert {model.direct.n for model in results.models} == {14}
    accuracies = [model.direct.accuracy or 0 for model in results.models]
    assert max(accuracies) > accuracies[0]
    assert all(each.audit is not None and each.audit.judged <= 6 for each in results.rounds)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "evaluation",
            "evaluation.count: 99 problems .*test.jsonl has 14, 14 of them .* at most 14",
        ),
        ("gate", "gate.count: 99 problems are asked for, and .*dev.jsonl has 10"),
        ("audit", "audit.count: 99 problems are asked for"),
        ("prompts", "prompts.count: 99 problems are asked for, and .*pool.jsonl has 12"),
    ],
)
def test_more_than_there_are_is_an_error_that_names_the_setting(tmp_path: Path, section: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_splits(configured(tmp_path, "exact", **{section: 99}))


def test_more_prompts_than_a_file_has_is_an_error(tmp_path: Path) -> None:
    config = configured(tmp_path, "exact").model_dump(mode="json")
    (tmp_path / "texts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n')
    config |= {"prompts": {"path": str(tmp_path / "texts.jsonl"), "count": 4}, "rounds": 1}
    with pytest.raises(DataError, match=r"prompts.count is 4, and .*texts.jsonl has 3 prompts; lower it"):
        draw_splits(parse_config(config, "test"))
