"""The files of examples/: right in themselves, quoted word for word by the tutorial, and a run from end to end."""

from __future__ import annotations

import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from selfevo.config.loading import load_config
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.answer_extraction import extract_answer
from selfevo.method.prompts import parse_verdict
from selfevo.method.records import Turns
from selfevo.method.verdicts import Verdict
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_marker
from selfevo.tasks.word_problems import check_equations
from selfevo.trainers.scripted import ScriptedTrainer

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
YES = "The calculation is right.\nVerdict: qualified"


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines()]


def test_the_trajectories_are_right() -> None:
    verdicts = Counter[Verdict]()
    for row in rows("d_meta.jsonl"):
        verdict, gold = parse_verdict(row["feedback"]), extract_answer(row["refinement"])
        verdicts[verdict] += 1
        assert check_equations(row["refinement"]) == (row["refinement"].count("="), ""), row
        assert gold is not None
        assert (extract_answer(row["response"]) == gold) == (verdict is Verdict.QUALIFIED), row
        assert (row["response"] == row["refinement"]) == (verdict is Verdict.QUALIFIED), row
    assert verdicts == {Verdict.QUALIFIED: 6, Verdict.NOT_QUALIFIED: 6}, "else the critic leans to one side"


def test_the_problems_are_right() -> None:
    problems = rows("eval.jsonl")
    assert len(problems) == 12
    for row in problems:
        steps = re.findall(r"<<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)", row["answer"])
        for left, operator, right, result, written in steps:
            a, b = Fraction(left), Fraction(right)
            assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operator] == int(result) == int(written), row
        assert row["answer"].endswith(f"\n#### {steps[-1][-1]}")


def test_the_tutorial_quotes_the_files() -> None:
    config = (EXAMPLES / "config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^```yaml\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL) == [config]
    lines = {line for path in EXAMPLES.glob("*.jsonl") for line in path.read_text(encoding="utf-8").splitlines()}
    quoted = [block.splitlines() for block in re.findall(r"^```json\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)]
    assert len(quoted) == 3
    assert {line for block in quoted for line in block} <= lines
    for name in ("prompts.jsonl", "d_meta.jsonl", "eval.jsonl"):
        assert f"examples/{name}" in TUTORIAL


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_the_configuration_runs_from_end_to_end(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gold = {row["question"]: row["answer"] for row in rows("eval.jsonl")}

    def reply(model: Path, turns: Turns) -> str:
        return gold.get(turns[0], "The answer is 1.") if len(turns) == 1 else YES

    monkeypatch.chdir(ROOT)
    config = load_config(Path("examples/config.yaml"), [f"model={base}", f"output={tmp_path / 'run'}"])
    run = run_loop(config, Silent(), ScriptedEngine(reply), ScriptedTrainer())
    results: dict[str, Any] = read_marker(run / "results.json")
    assert [each["rows"]["kept"] for each in results["rounds"]] == [12, 12]
    assert sorted(path.name for path in (run / "models").iterdir()) == ["meta", "round-1", "round-2", "sft"]
    assert len((run / "data" / "evaluation.jsonl").read_text(encoding="utf-8").splitlines()) == len(gold)
    assert not (run / "data" / "quarantined.jsonl").exists(), "every row of the examples can be used"
