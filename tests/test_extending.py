"""docs/extending.md is true: the very lines of the page, in a folder outside this package, make a run."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from runs import results
from selfevo.checks.doctor import examine
from selfevo.checks.preview import preview_annotation
from selfevo.config.base import OwnPart
from selfevo.config.loading import load_config
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import MeasureConfig, OwnEngine
from selfevo.config.task import TaskConfig
from selfevo.errors import ConfigError, RunError
from selfevo.pipeline.evaluate_model import evaluate_model
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import hash_file, read_rows
from selfevo.trainers.scripted import ScriptedTrainer

PAGE = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", PAGE, re.M | re.S)
FILES = {"grading", "filters", "engines", "annotators", "objectives"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the page shows, written where it says, and the files that its configuration names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, content in BLOCKS:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    questions = [{"question": f"What is the name of number {i}?", "answer": f"number {i}"} for i in range(40)]
    (tmp_path / "trivia.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    seeds = [{"prompt": "Name it" + " again" * i} for i in range(10)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seeds))
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model/config.json").write_text("{}")
    (tmp_path / "my-model/model.safetensors").write_bytes(b"weights")
    yield tmp_path
    for module in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[module]


def run(*overrides: str, shared: tuple[Path, ...] = ()) -> RunConfig:
    config = load_config(Path("own-parts.yaml"), overrides)
    run_loop(config, Silent(), trainer=ScriptedTrainer(), shared=shared)
    return config


def test_each_kind_of_part_is_shown_in_few_lines() -> None:
    shown = dict(BLOCKS)
    assert shown.keys() == {f"my_package/{name}.py" for name in FILES} | {"own-parts.yaml"}
    for name in FILES:
        assert len(shown[f"my_package/{name}.py"].split("\n")) <= 25


def test_the_lines_of_the_page_make_a_run(folder: Path) -> None:
    config = run()
    names = {"grading:Trivia", "filters:Without", "engines:Echo", "annotators:Brief", "objectives:shortest"}
    kept = json.loads((config.output / "config.json").read_text())["parts"]
    assert kept == {
        f"my_package.{name}": hash_file(folder / f"my_package/{name.partition(':')[0]}.py") for name in names
    }
    # Each of them has done its part.
    d_meta = list(read_rows(config.output / "data/d_meta.jsonl"))
    assert {row["feedback"].split()[0] for row in d_meta} == {"It"}, "written by the annotator"
    assert max(len(row["refinement"].split()) for row in d_meta) == 6
    assert results(config).task == "my_package.grading:Trivia"
    rows = list(read_rows(config.output / "stages/round-1/filter.jsonl"))
    assert {row["response"] for row in rows} == {row["prompt"] for row in rows}, "the engine repeats what it is asked"
    learnt = list(read_rows(config.output / "models/round-1/examples.jsonl"))
    assert sum(row["term"] == "self" for row in learnt) == round(0.8 * sum(row["kept"] for row in rows))
    assert config.filter[0] == OwnPart(kind="my_package.filters:Without", options={"words": ["sorry", "unknown"]})


def test_the_filter_drops_with_its_own_reason(folder: Path) -> None:
    config = run("filter=[{kind: 'my_package.filters:Without', options: {words: ['number 3?']}}]")
    reasons = {row["reason"] for row in read_rows(config.output / "stages/round-1/filter.jsonl")}
    reasons |= {row["reason"] for row in read_rows(config.output / "stages/round-2/filter.jsonl")}
    assert reasons <= {None, "says number 3?"} and None in reasons


def test_a_run_whose_part_was_changed_is_not_resumed(folder: Path) -> None:
    config = run()
    before = sorted(config.output.rglob("*"))
    source = folder / "my_package/filters.py"
    original = source.read_text()
    source.write_text(original.replace("says", "holds the word"))
    with pytest.raises(RunError) as refused:
        run()
    assert str(refused.value) == (
        f"{config.output} was started with another my_package.filters:Without: {source} was changed since; restore it "
        "to resume, or give a new output directory"
    )
    assert sorted(config.output.rglob("*")) == before
    other = run("output=other", "filter=[{kind: 'my_package.filters:Without', options: {words: [number]}}]", "rounds=1")
    first = next(read_rows(other.output / "stages/round-1/filter.jsonl"))
    assert first["reason"] == "holds the word number", "a new run uses the file as it is now"
    source.write_text(original)
    run()


def test_nothing_is_taken_over_from_a_run_whose_part_was_another(folder: Path) -> None:
    first = run()
    source = folder / "my_package/engines.py"
    source.write_text(source.read_text().replace("Fine.", "Perfectly fine."))
    second = run("output=other", shared=(first.output,))
    feedback = {row["feedback"] for row in read_rows(second.output / "stages/round-1/critique.jsonl")}
    assert feedback == {"Perfectly fine.\nVerdict: qualified"}


def test_what_is_wrong_with_a_part_is_said_before_anything_runs(folder: Path) -> None:
    for override, said in (
        ("objective.kind=my_package.objectives:longest", "has no longest"),
        ("objective.options={shares: 0.5}", "my_package.objectives:shortest does not take these options"),
        ("engine.options={batch: 4}", "my_package.engines:Echo does not take these options"),
        (
            "filter=my_package.engines:Echo",
            "my_package.engines:Echo has no method start(sampler, rows); a filter needs",
        ),
        ("corpus.annotator.kind=my_package.filters:Without", "has no method key(draft); an annotator needs key(draft)"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            run(override)
        assert not list(Path("runs").rglob("stages")), override


def test_a_task_that_writes_d_meta_needs_more_than_one_that_measures(folder: Path) -> None:
    task = "{task: {name: 'my_package.grading:Trivia', options: {path: trivia.jsonl}}, labels: 4}"
    with pytest.raises(ConfigError, match=re.escape("my_package.grading:Trivia has no method solution(problem, resp")):
        run(f"corpus={task}")


def test_an_annotator_of_a_task_is_told_the_answers(folder: Path) -> None:
    (folder / "my_package/told.py").write_text(
        "from my_package.annotators import Brief\n"
        "from my_package.grading import Trivia\n"
        "class Taught(Trivia):\n"
        "    def solution(self, problem, response=''): return problem.answer\n"
        "    def explain(self, problem, response): return 'Look.\\nVerdict: not qualified'\n"
        "class Told(Brief):\n"
        "    def __init__(self, task, problems, words):\n"
        "        super().__init__(words)\n"
        "        open('told.txt', 'w').write(f'{task.name} {len(problems)}')\n"
    )
    task = "task: {name: 'my_package.told:Taught', options: {path: trivia.jsonl}}"
    run(f"corpus={{{task}, labels: 4, annotator: {{kind: 'my_package.told:Told', options: {{words: 3}}}}}}", "rounds=1")
    assert (folder / "told.txt").read_text() == "trivia 4"


def test_an_objective_may_bring_its_own_trainer(folder: Path) -> None:
    from selfevo.pipeline.build import build_trainer

    (folder / "my_package/trained.py").write_text(
        "from selfevo.method.training_examples import self_examples\n"
        "from selfevo.trainers.scripted import ScriptedTrainer\n"
        "class Mine:\n"
        "    def __call__(self, rows): return self_examples(rows)\n"
        "    def trainer(self, config):\n"
        "        self.rate = config.learning_rate\n"
        "        return ScriptedTrainer()\n"
    )
    config = load_config(Path("own-parts.yaml"), ["objective=my_package.trained:Mine"])
    assert isinstance(build_trainer(config, "round-1"), ScriptedTrainer)
    assert not isinstance(build_trainer(config, "meta"), ScriptedTrainer)


def test_the_checks_and_the_preview_know_what_they_cannot_know(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(Path("own-parts.yaml"), [f"model={tiny_model}"])
    [engine] = [check for check in examine(config) if check.name == "engine"]
    assert (engine.status, engine.finding) == ("pass", "my_package.engines:Echo is your own part and is not compared")
    preview_annotation(config, Console(width=200))
    shown = capsys.readouterr().out
    assert "10 prompts, at most 10 responses to annotate" in shown
    assert "annotator: my_package.annotators:Brief, your own part; its cost is not known here" in shown


def test_an_evaluation_takes_them_too_and_is_not_resumed_with_others(folder: Path) -> None:
    config = MeasureConfig(
        task=TaskConfig(name="my_package.grading:Trivia", options={"path": "trivia.jsonl"}),
        count=5,
        engine=OwnEngine(kind="my_package.engines:Echo"),
    )
    measured = evaluate_model("my-model", config, output=Path("measured"), progress=Silent())
    assert measured.task == "my_package.grading:Trivia"
    source = folder / "my_package/engines.py"
    source.write_text(source.read_text().replace("Fine.", "Perfectly fine."))
    with pytest.raises(RunError, match=r"another my_package\.engines:Echo: .*engines\.py was changed since"):
        evaluate_model("my-model", config, output=Path("measured"), progress=Silent())
