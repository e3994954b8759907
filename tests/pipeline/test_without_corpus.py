"""A run without a corpus: the model has the skills already, as that of an earlier run has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import results as results_of
from runs import small_demo, student
from selfevo.checks.generation import skilled
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, RunError
from selfevo.inputs.splits import draw_splits
from selfevo.method.protocols import Generation
from selfevo.method.records import Turns
from selfevo.pipeline.run import build_d_meta, run_loop
from selfevo.pipeline.variants import applicable, settings
from selfevo.report.model_card import lineage
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.inspect import best_model, prompts_seen, verify
from selfevo.rundir.results import Results
from selfevo.trainers.scripted import ScriptedTrainer


@pytest.fixture
def config(finished: RunConfig, tmp_path: Path) -> RunConfig:
    """A run from the best model of a finished one, with another seed."""
    return without_corpus(finished, tmp_path / "further")


def without_corpus(finished: RunConfig, output: Path, **more: Any) -> RunConfig:
    kept = ("prompts", "evaluation", "skills", "trainer", "engine", "policy")
    old = finished.model_dump(mode="json")
    settings = {name: old[name] for name in kept}
    settings["evaluation"].pop("models")
    given = {"model": str(finished.output), "output": str(output), "seed": 1, "rounds": 2}
    return parse_config({**settings, **given, **more}, "test")


def able(config: RunConfig) -> Any:
    """Answers as the student of the earlier run would with the skills of its last round."""
    skill = student(config)

    def answer(model: Path, turns: Turns) -> str | Generation:
        return skill(model.with_name("round-3"), turns)

    return answer


def run(config: RunConfig) -> tuple[ScriptedTrainer, Results]:
    trainer = ScriptedTrainer()
    run_loop(config, Silent(), ScriptedEngine(able(config)), trainer)
    return trainer, results_of(config)


def test_it_starts_with_the_rounds_and_has_no_row_for_sft_or_meta(config: RunConfig, finished: RunConfig) -> None:
    trainer, results = run(config)
    assert [model.name for model in results.models] == ["base", "round-1", "round-2"]
    assert sorted(path.name for path in (config.output / "models").iterdir()) == ["round-1", "round-2"]
    assert {example.term for _, examples in trainer.calls for example in examples} == {"self"}
    assert trainer.calls[0][0] == best_model(finished.output)
    assert not (config.output / "data/d_meta.jsonl").exists()
    pairs = [(c.a, c.b, c.mode) for c in results.comparisons]
    assert pairs == [("round-2", "base", "direct"), ("round-2", "base", "refined")]
    assert [name for name, _, _ in lineage(config.output, "round-2")][-1] == "base"
    page = (config.output / "report.html").read_text()
    for word in ("“sft”", "“meta”", "D<sub>meta</sub>"):
        assert word not in page
    assert verify(config.output)[1] == []
    again = ScriptedTrainer()
    run_loop(config, Silent(), ScriptedEngine(able(config)), again)
    assert again.calls == []
    assert results_of(config) == results


@pytest.mark.parametrize("policy", ["restart", "continual-mixed", "continual-latest"])
def test_what_each_policy_trains(finished: RunConfig, tmp_path: Path, policy: str) -> None:
    config = without_corpus(finished, tmp_path / "further", policy=policy)
    trainer, results = run(config)
    kept = [each.rows.kept for each in results.rounds]
    starts = [path.name for path, _ in trainer.calls]
    assert starts == ["round-3", "round-3" if policy == "restart" else "round-1"]
    learnt = [len(examples) for _, examples in trainer.calls]
    assert learnt == [kept[0], kept[1] if policy == "continual-latest" else sum(kept)]


def test_no_problem_is_asked_that_the_model_had_learnt_from(config: RunConfig, finished: RunConfig) -> None:
    seen = prompts_seen(best_model(finished.output))
    splits = draw_splits(config)
    drawn = {problem.prompt.id for problem in splits.evaluation} | {prompt.id for prompt in splits.pool}
    assert len(seen) == 40
    assert not drawn & seen
    run(config)
    assert {row["id"] for row in read_rows(config.output / "data/seen.jsonl")} == seen
    assert prompts_seen(config.output / "models/round-2") == seen | {prompt.id for prompt in splits.pool}
    (finished.output / "data/labelled.jsonl").rename(finished.output / "data/labelled.away")  # the earlier run goes on
    try:
        assert draw_splits(config).everything() == splits.everything()
    finally:
        (finished.output / "data/labelled.away").rename(finished.output / "data/labelled.jsonl")


def test_a_gate_compares_with_the_model_that_it_started_from(finished: RunConfig, tmp_path: Path) -> None:
    gate = {"task": {"name": "demo"}, "count": 10, "patience": 2}
    config = without_corpus(finished, tmp_path / "further", gate=gate)
    skill = able(config)
    problems = {problem.prompt.prompt for problem in draw_splits(config).dev}

    def answer(model: Path, turns: Turns) -> str | Generation:
        return "wrong" if turns[0] in problems and len(turns) == 1 else skill(model, turns)

    run_loop(
        config, Silent(), ScriptedEngine(lambda m, t: "?" if t[0] in problems else answer(m, t)), ScriptedTrainer()
    )
    results = results_of(config)
    assert results.gate is not None
    assert [(each.a, each.b) for each in results.gate.rounds] == [("round-1", "base"), ("round-2", "base")]
    assert results.gate.best == "base"
    assert best_model(config.output) == best_model(finished.output)
    assert results.best is not None
    assert results.best.name == "base"
    moved = finished.output.with_name("moved")
    finished.output.rename(moved)
    try:
        with pytest.raises(RunError, match=r"no round of .* is better than the model that it started from"):
            best_model(config.output)
    finally:
        moved.rename(finished.output)


def test_what_needs_a_corpus_is_refused_in_one_line(config: RunConfig) -> None:
    given = config.model_dump(mode="json")
    assert given["evaluation"]["models"] == ["base", "rounds"]
    assert parse_config(given, "test") == config, "what a run writes into its config.yaml can be run"
    with pytest.raises(ConfigError, match=r"evaluation\.models names sft and meta, and a run without a corpus"):
        parse_config({**given, "evaluation": {**given["evaluation"], "models": ["sft", "meta", "rounds"]}}, "test")
    for change in ({"label_share": 0.5}, {"flipped_verdicts": 0.1}, {"verdict_only": True}, {"sft_labels": 900}):
        with pytest.raises(ConfigError, match=rf"ablation\.{next(iter(change))} is about the labels of a corpus"):
            parse_config({**given, "ablation": change}, "test")
    with pytest.raises(ConfigError, match="corpus is missing, so there is nothing to annotate"):
        build_d_meta(config, Silent())


def test_an_ablation_leaves_out_what_is_about_labels(config: RunConfig) -> None:
    names, refused = applicable(config)
    assert {"no-filter", "one-round", "consistency", "dpo"} <= set(names)
    assert any("no-language" in reason for reason in refused)
    with pytest.raises(ConfigError, match="the run has no corpus, so it has no labels"):
        settings(config, "labels-5", 0, config.output)
    evaluation = settings(config, "self", 0, config.output).evaluation
    assert evaluation is not None
    assert evaluation.models == ("base", "rounds")


@pytest.mark.parametrize(
    ("feedback", "status", "finding"),
    [
        ("Fine.\nVerdict: qualified", "pass", "of 16 answers the model ends 16, and gives 16 a verdict"),
        ("It looks good to me.", "fail", "gives 0 a verdict"),
    ],
)
def test_doctor_reads_the_verdicts_of_the_model(
    config: RunConfig, tmp_path: Path, feedback: str, status: str, finding: str
) -> None:
    engine = ScriptedEngine(lambda model, turns: feedback if len(turns) == 3 else "4")
    small = config.model_copy(update={"prompts": config.prompts.model_copy(update={"count": 16})})  # type: ignore[union-attr]
    check = skilled(small, tmp_path, draw_splits(small), engine)
    assert check.status == status
    assert finding in check.finding
    assert bool(check.remedy) == (status == "fail")
    cut = ScriptedEngine(lambda model, turns: Generation("and so on", "length", 3, 8))
    assert skilled(small, tmp_path, draw_splits(small), cut).status == "fail"


def test_a_small_demo_still_needs_its_corpus_for_sft(tmp_path: Path) -> None:
    small = small_demo(tmp_path, tmp_path / "run")
    assert small.first_model == "meta"
    assert small.evaluation is not None
    assert small.evaluation.models == ("base", "sft", "meta", "rounds")


def test_the_configuration_of_the_guide_can_be_read() -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/models.md").read_text()
    given = yaml.safe_load(guide.partition("```yaml\nmodel: runs/my-run")[2].partition("```")[0].partition("\n")[2])
    config = parse_config({"model": "runs/my-run", **given}, "models.md")
    assert (config.corpus, config.first_model, config.rounds) == (None, "base", 2)
