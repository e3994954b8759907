"""A whole run, as a user starts it, with a scripted engine and trainer: files, figures, resume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runs import KilledError, everything, results, small_demo, student, timeless, tree
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import MeasureConfig
from selfevo.config.task import TaskConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import RunError
from selfevo.inputs.splits import draw_splits
from selfevo.method.protocols import Generation, Request, Sampling
from selfevo.method.records import Example, Turns
from selfevo.pipeline.evaluate_model import evaluate_model
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.inspect import prompts_seen
from selfevo.rundir.results import Results, load_results
from selfevo.tasks import load_task
from selfevo.tasks.base import Problem
from selfevo.trainers.scripted import ScriptedTrainer

SKILLS = ("respond", "critique", "refine", "judge")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return small_demo(tmp_path, tmp_path / "run")


@dataclass
class Mortal(ScriptedEngine):
    """Dies when model `model` is asked for its batch number `batch`."""

    model: str = ""
    batch: int = 0
    seen: int = field(default=0)

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        self.seen += model.name == self.model
        if self.seen == self.batch:
            raise KilledError
        return ScriptedEngine.generate(self, model, requests, sampling)


def run(
    config: RunConfig, engine: ScriptedEngine | None = None, trainer: ScriptedTrainer | None = None
) -> ScriptedEngine:
    engine = engine or ScriptedEngine(student(config))
    assert run_loop(config, Silent(), engine, trainer or ScriptedTrainer()) == config.output
    return engine


def elsewhere(config: RunConfig, folder: Path) -> RunConfig:
    return config.model_copy(update={"output": folder})


def test_results_say_what_was_measured(config: RunConfig) -> None:
    run(config)
    content = results(config)
    assert (content.version, content.task, content.seed, content.policy) == (1, "demo", 0, "continual-mixed")
    assert [model.name for model in content.models] == ["base", "sft", "meta", "round-1", "round-2", "round-3"]
    assert [each.name for each in content.rounds] == ["round-1", "round-2", "round-3"]
    problems = draw_splits(config).evaluation
    assert content.groups == {
        "kind": {
            kind: "".join("01"[problem.kind == kind] for problem in problems)
            for kind in ("add-to-each", "running-totals")
        }
    }
    for model in content.models:
        assert model.direct.n == model.refined.n == 24
        by_kind = content.rates("kind", model, "direct")
        assert sum(rate.correct for rate in by_kind.values()) == model.direct.correct
    pairs = [(c.a, c.b, c.mode) for c in content.comparisons]
    assert pairs == [("round-3", b, mode) for b in ("sft", "meta") for mode in ("direct", "refined")]
    correct = {model.name: model.direct.correct for model in content.models}
    assert content.comparisons[0].difference == pytest.approx((correct["round-3"] - correct["sft"]) / 24)
    assert correct["round-3"] > correct["base"], "the scripted student improves"


def test_every_row_that_goes_into_a_round_is_kept_rejected_or_quarantined(config: RunConfig) -> None:
    run(config)
    seen = {"kept": 0, "rejected": 0, "quarantined": 0}
    for each in results(config).rounds:
        rows = each.rows
        assert rows.entered == 8 == rows.kept + rows.rejected + rows.quarantined
        folder = config.output / "stages" / each.name
        going = rows.entered
        for skill in SKILLS:
            marker = json.loads((folder / f"{skill}.done.json").read_text())["rows"]
            assert marker["in"] == going, "what one skill hands on is what the next one gets"
            assert marker["in"] == marker["out"] + marker["quarantined"]
            going = marker["out"]
        lines = list(read_rows(folder / "filter.jsonl"))
        assert len(lines) == going
        assert all(line["reason"] for line in lines if not line["kept"])
        marker = json.loads((config.output / "models" / each.name / "selfevo.json").read_text())
        assert marker["examples"]["self"] == seen["kept"] + rows.kept, "the kept rows of this round and those before"
        assert each.audit is not None
        assert (each.audit.judged, each.audit.kept) == (going, rows.kept)
        seen = {name: seen[name] + getattr(rows, name) for name in seen}
    assert all(seen.values()), "the scripted student must meet every fate, else this shows little"


def test_rejected_rows_are_not_in_any_training_file(config: RunConfig) -> None:
    run(config)
    kept: list[tuple[str, ...]] = []
    for name in ("round-1", "round-2", "round-3"):
        lines = list(read_rows(config.output / f"stages/{name}/filter.jsonl"))
        kept += [(line["prompt"], line["refinement"]) for line in lines if line["kept"]]
        rows = read_rows(config.output / f"models/{name}/examples.jsonl")
        assert [tuple(row["turns"]) for row in rows if row["term"] == "self"] == kept


def test_a_run_directory_holds_what_is_promised(config: RunConfig) -> None:
    run(config)
    root = config.output
    names = ["warm-up", "sft", "meta", "round-1", "round-2", "round-3"]
    assert sorted(p.name for p in (root / "models").iterdir()) == sorted(names)
    for name in names:
        assert (root / "models" / name / "model.safetensors").is_file()
        assert json.loads((root / "models" / name / "selfevo.json").read_text())["name"] == name
    for file in ("config.yaml", "config.json", "manifest.json", "events.jsonl", "results.json", "report.html"):
        assert (root / file).stat().st_size > 0
    assert {p.name for p in (root / "data").glob("*.jsonl")} == {
        "pool.jsonl",
        "labelled.jsonl",
        "evaluation.jsonl",
        "d_meta.jsonl",
    }
    assert not [p for p in root.rglob("*") if p.name.endswith((".tmp", ".partial.jsonl", ".work"))]


def test_evaluation_labels_and_pool_share_no_prompt(config: RunConfig) -> None:
    run(config)

    def prompts(name: str) -> set[str]:
        """Problems hold their prompt as a record, prompts and trajectories as text."""
        held = [row["prompt"] for row in read_rows(config.output / f"data/{name}.jsonl")]
        return {prompt["prompt"] if isinstance(prompt, dict) else prompt for prompt in held}

    sets = [prompts(name) for name in ("evaluation", "labelled", "pool")]
    assert [len(s) for s in sets] == [24, 16, 24]
    assert len(set.union(*sets)) == 64
    assert prompts("d_meta") == sets[1], "every label is spent, and no other"
    rounds = [{row["id"] for row in read_rows(config.output / f"stages/round-{t}/respond.jsonl")} for t in (1, 2, 3)]
    assert sum(map(len, rounds)) == len(set.union(*rounds)) == 24, "each pool prompt is used once"


def test_no_gold_answer_of_the_pool_reaches_what_the_algorithm_writes(config: RunConfig) -> None:
    run(config)
    for row in read_rows(config.output / "data/pool.jsonl"):
        assert row.keys() == {"id", "prompt"}
    for row in read_rows(config.output / "stages/round-1/filter.jsonl"):
        assert row.keys() == {*("id", "prompt", "response", "feedback", "refinement", "judgement", "kept", "reason")}


def test_models_are_measured_greedily_and_rounds_sample_as_configured(config: RunConfig) -> None:
    class Recording(ScriptedEngine):
        def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
            for request in requests:
                used.setdefault((request.turns[0] in measured, len(request.turns)), set()).add(sampling.temperature)
            return ScriptedEngine.generate(self, model, requests, sampling)

    content = config.model_dump(mode="json")
    content["skills"]["respond"]["temperature"] = 0.7
    content["skills"]["critique"]["temperature"] = 0.4
    content["corpus"]["temperature"] = 1.1
    config = parse_config(content, "test")
    used: dict[tuple[bool, int], set[float]] = {}
    measured = {problem.prompt.prompt for problem in draw_splits(config).evaluation}
    run(config, Recording(student(config)))
    assert {temperature for (evaluation, _), some in used.items() if evaluation for temperature in some} == {0.0}
    # The pool is answered as the rounds say; prompts with labels as D_meta says.
    assert used[False, 1] == {0.7, 1.1}
    assert used[False, 3] == {0.4, config.skills.judge.temperature}


def test_a_second_run_asks_and_trains_nothing(config: RunConfig) -> None:
    run(config)
    before, figures = tree(config.output), results(config)
    trainer = ScriptedTrainer()
    assert run(config, trainer=trainer).calls == []
    assert trainer.calls == []
    assert tree(config.output) == before
    assert results(config) == figures


@pytest.mark.parametrize(
    ("model", "batch"), [("warm-up", 2), ("base", 1), ("meta", 1), ("round-1", 2), ("round-1", 9), ("round-3", 3)]
)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(
    config: RunConfig, tmp_path: Path, model: str, batch: int
) -> None:
    whole = elsewhere(config, tmp_path / "whole")
    run(whole)
    engine = Mortal(student(config), model=model, batch=batch)
    with pytest.raises(KilledError):
        run(config, engine)
    second = run(config)
    assert tree(config.output) == tree(whole.output)
    assert timeless(results(config)) == timeless(results(whole))
    asked = [(path.name, request) for path, request in engine.calls + second.calls]
    assert len(asked) == len(set(asked)), "a finished batch is not asked again"


def test_a_run_killed_in_training_ends_as_if_it_had_not_been(config: RunConfig, tmp_path: Path) -> None:
    whole = elsewhere(config, tmp_path / "whole")
    run(whole)

    def die(base: Path, examples: Sequence[Example]) -> None:
        if base.name == "round-1":
            raise KilledError

    with pytest.raises(KilledError):
        run(config, trainer=ScriptedTrainer(before=die))
    assert [model.name for model in results(config).models] == ["base", "sft", "meta", "round-1"]
    trainer = ScriptedTrainer()
    run(config, trainer=trainer)
    assert len(trainer.calls) == 2
    assert tree(config.output) == tree(whole.output)


def test_another_configuration_is_refused_and_nothing_is_changed(config: RunConfig) -> None:
    run(config)
    before = tree(config.output)
    with pytest.raises(RunError, match=r"beta: 1\.0 in the run, 0\.5 now"):
        run(config.model_copy(update={"beta": 0.5}))
    assert tree(config.output) == before


def test_other_base_weights_are_refused(config: RunConfig) -> None:
    run(config)
    (Path(config.model) / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(RunError, match="use a new output directory"):
        run(config)


def test_two_seeds_are_two_runs(config: RunConfig, tmp_path: Path) -> None:
    other = small_demo(tmp_path, tmp_path / "run-1", seed=1)
    shared = everything(config).keys() & {p.prompt.prompt for p in draw_splits(other).evaluation}
    # Additions are drawn from millions. Of running totals there are 25,000: one in common, as here, is chance.
    assert not [prompt for prompt in shared if prompt.startswith("Add")]
    assert len(shared) <= 1


@pytest.mark.parametrize("share", [0.25, 1 / 3, 0.5, 0.75, 1.0])
def test_the_warm_up_learns_from_its_share_of_the_labels(config: RunConfig, share: float) -> None:
    content = config.model_dump(mode="json")
    content["corpus"]["warmup_share"] = share
    trainer = ScriptedTrainer()
    run(parse_config(content, "test"), trainer=trainer)
    _, examples = trainer.calls[0]
    assert len(examples) == round(16 * share)
    kinds = {everything(config)[e.turns[0]].kind for e in examples}
    assert len(kinds) == 2, "the share is of every kind of problem"


def test_without_a_warm_up_the_base_model_writes_the_responses(config: RunConfig) -> None:
    content = config.model_dump(mode="json")
    content["corpus"]["warmup_share"] = 0
    engine = run(parse_config(content, "test"))
    assert engine.calls[0][0].name == "base"
    assert not (config.output / "models/warm-up").exists()


def test_a_label_whose_responses_were_all_cut_off_is_still_spent(config: RunConfig) -> None:
    ordinary = student(config)

    def cut(model: Path, turns: Turns) -> str | Generation:
        return Generation("and", "length", 3, 32) if model.name == "warm-up" else ordinary(model, turns)

    assert config.corpus is not None
    one_sided = config.corpus.model_copy(update={"max_one_verdict": 1.0})  # as all of it is the written solutions
    run(config.model_copy(update={"corpus": one_sided}), ScriptedEngine(cut))
    rows = list(read_rows(config.output / "data/d_meta.jsonl"))
    assert {row["prompt"] for row in rows} == {p.prompt.prompt for p in draw_splits(config).labelled}


def evaluate(model: str, task: TaskConfig, count: int, engine: ScriptedEngine, output: Path | None) -> Results:
    return evaluate_model(
        model,
        MeasureConfig(task=task, count=count, max_new_tokens=32),
        output=output,
        progress=Silent(),
        engine=engine,
    )


def test_eval_measures_one_model_and_resumes(config: RunConfig, tmp_path: Path) -> None:
    assert config.evaluation is not None
    task = config.evaluation.task
    first = ScriptedEngine(student(config))
    measured = evaluate(config.model, task, 24, first, tmp_path / "eval")
    (model,) = measured.models
    assert model.direct.n == 24
    assert load_results(tmp_path / "eval") == measured
    second = ScriptedEngine(student(config))
    assert evaluate(config.model, task, 24, second, tmp_path / "eval").models[0].answers == model.answers
    assert second.calls == []
    third = ScriptedEngine(student(config))
    assert evaluate(config.model, task, 24, third, None).models[0].answers == model.answers
    assert len(third.calls) == len(first.calls)


def test_eval_asks_nothing_that_the_run_has_learnt_from(config: RunConfig, tmp_path: Path) -> None:
    run(config)
    splits = draw_splits(config)
    learnt = {p.prompt.id for p in splits.labelled} | {prompt.id for prompt in splits.pool}
    assert prompts_seen(config.output / "models/round-1") == learnt
    assert prompts_seen(Path(config.model)) == frozenset()
    # The pool as a file of problems to be measured on: half of it are others.
    others = load_task(TaskConfig(name="demo")).problems(len(splits.pool), 99, frozenset(learnt))
    asked = [*(Problem(prompt, "0", "") for prompt in splits.pool), *others]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"question": p.prompt.prompt, "answer": "#### 0"}) + "\n" for p in asked))
    (config.output / "models/round-3/config.json").write_text("{}")  # the scripted trainer writes none
    engine = ScriptedEngine(lambda model, turns: "#### 0" if len(turns) == 1 else "Verdict: qualified")
    evaluate(str(config.output), TaskConfig(name="gsm8k", path=path), len(others), engine, None)
    assert {request.turns[0] for _, request in engine.calls} == {p.prompt.prompt for p in others}


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_a_real_run_of_the_tiny_model(tiny_model: Path, tmp_path: Path, device: str) -> None:
    """The transformers engine and the TRL trainer, from base to round 1, then a resume that does nothing."""
    task = {"name": "add-to-each"}
    here = {"dtype": "float32", "device": device}
    config = parse_config(
        {
            "model": str(tiny_model),
            "output": str(tmp_path / "run"),
            "corpus": {"task": task, "labels": 12, "samples_per_prompt": 1, "warmup_epochs": 10},
            "prompts": {"task": task, "count": 12},
            "evaluation": {"task": task, "count": 12},
            "rounds": 1,
            "filter": "none",  # two layers learn to end their turns, not to judge
            "skills": {
                "respond": {"max_new_tokens": 64, "temperature": 0},
                "critique": {"max_new_tokens": 250},
                "refine": {"max_new_tokens": 64},
                "judge": {"max_new_tokens": 250},
            },
            "trainer": {"learning_rate": 5e-3, "num_train_epochs": 30, **here},
            "engine": here,
        },
        "test",
    )
    run_loop(config, Silent())
    figures = results(config)
    assert [model.name for model in figures.models] == ["base", "sft", "meta", "round-1"]
    rows = figures.rounds[-1].rows
    assert rows.entered == 12 == rows.kept + rows.rejected + rows.quarantined
    for name in ("warm-up", "sft", "meta", "round-1"):
        trained = json.loads((config.output / "models" / name / "selfevo.json").read_text())["figures"]
        assert trained["loss_last"] < trained["loss_first"]
    assert rows.kept > 0, "a trained model ends its turns, else the round shows nothing"
    before = tree(config.output)
    again = ScriptedEngine(lambda model, turns: "never asked")
    run_loop(config, Silent(), again)
    assert (again.calls, tree(config.output)) == ([], before)
