"""A run that is watched stops by itself when rounds bring nothing or rows collapse, keeps the best, and says why."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runs import everything, results, small_demo, timeless, tree
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.config.task import TaskConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, DataError, TrainingError
from selfevo.inputs.repeated import Repeated
from selfevo.inputs.splits import draw_splits
from selfevo.method.records import Prompt, Turns
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.inspect import summarise
from selfevo.rundir.results import Results
from selfevo.tasks import load_task
from selfevo.trainers.scripted import ScriptedTrainer

YES, NO = "Verdict: qualified", "Verdict: not qualified"
DEMO = TaskConfig(name="demo")
TASK = {"task": {"name": "demo"}, "count": 60}


def changed(tmp_path: Path, **settings: Any) -> RunConfig:
    data = small_demo(tmp_path, tmp_path / "run").model_dump(mode="json")
    data["evaluation"]["models"] = ["meta", "rounds"]
    return parse_config({**data, **settings}, "test")


def student(config: RunConfig, skill: dict[str, float]) -> Callable[[Path, Turns], str]:
    """Right as often as its model's share says; criticises well."""
    task = load_task(DEMO)
    splits = draw_splits(config)
    problems = {p.prompt.prompt: p for p in [*everything(config).values(), *splits.dev, *splits.audit]}

    def answer(model: Path, turns: Turns) -> str:
        problem, dice = problems[turns[0]], random.Random(f"{turns[0]}")
        if len(turns) == 3:
            return task.explain(problem, turns[1])
        right = dice.random() < (0.9 if len(turns) == 5 else skill.get(model.name, 0.5))
        return task.solution(problem) if right else f"{dice.randint(0, 9**9)} and {dice.randint(0, 9**9)}"

    return answer


def play(config: RunConfig, answer: Callable[[Path, Turns], str]) -> Results:
    run_loop(config, Silent(), ScriptedEngine(answer), ScriptedTrainer())
    return results(config)


def made(config: RunConfig) -> list[str]:
    return sorted(path.name for path in (config.output / "models").glob("round-*"))


def test_six_rounds_stop_by_themselves_when_they_bring_no_more(tmp_path: Path) -> None:
    config = changed(tmp_path, rounds=6, gate={**TASK, "patience": 2})
    content = play(config, student(config, {"meta": 0.3, "round-1": 0.7, "round-2": 0.72, "round-3": 0.7}))
    assert made(config) == ["round-1", "round-2", "round-3"]
    assert content.gate is not None
    assert content.gate.best == "round-1"
    assert [(r.a, r.b, r.promoted) for r in content.gate.rounds] == [
        ("round-1", "meta", True),
        ("round-2", "round-1", False),
        ("round-3", "round-1", False),
    ]
    assert content.stopped is not None
    assert content.stopped.startswith("round-3 is not significantly better than round-1 on 60 problems of the gate")
    page = (config.output / "report.html").read_text()
    assert "round-3 is not significantly better" in page
    assert {c.a for c in content.comparisons} == {"round-1"}, "what is kept is compared, not what came last"
    assert "After 1 round the model answers" in page


def test_a_pool_that_teaches_nothing_stops_after_one_round(tmp_path: Path) -> None:
    config = changed(tmp_path, gate=TASK)
    content = play(config, student(config, {"meta": 0.5, "round-1": 0.5}))
    assert made(config) == ["round-1"]
    assert content.gate is not None and content.gate.best == "meta"
    pairs = [(c.a, c.b, c.mode) for c in content.comparisons]
    assert pairs == [("round-1", "meta", "direct"), ("round-1", "meta", "refined")], "the last round against the best"


def test_the_last_round_has_nothing_to_stop(tmp_path: Path) -> None:
    config = changed(tmp_path, rounds=1, gate=TASK)
    content = play(config, student(config, {"meta": 0.5, "round-1": 0.5}))
    assert content.gate is not None
    assert (content.gate.best, content.stopped) == ("meta", None)


def test_a_gate_with_too_few_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text('{"prompt": "one"}\n')
    config = changed(tmp_path, gate={"prompts": str(tmp_path / "dev.jsonl"), "count": 20})
    with pytest.raises(DataError, match="has 1 prompts and gate"):
        draw_splits(config)


def test_rounds_of_different_tasks_are_checked_by_their_own(tmp_path: Path) -> None:
    rounds = [{"prompts": {"task": {"name": name}, "count": 12}} for name in ("add-to-each", "instructions")]
    config = changed(tmp_path, prompts=None, rounds=rounds)
    splits = draw_splits(config)
    tasks = {name: load_task(TaskConfig(name=name)) for name in ("add-to-each", "instructions")}
    explains = {p.prompt.prompt: tasks[splits.pool_tasks[id].name].explain for id, p in splits.pool_answers.items()}
    inner = student(config, {})

    def answer(model: Path, turns: Turns) -> str:
        if turns[0] not in explains or len(turns) != 3:
            return inner(model, turns)
        return explains[turns[0]](splits.pool_answers[Prompt.of(turns[0]).id], turns[1])

    content = play(config, answer)
    audits = [entry.audit for entry in content.rounds if entry.audit]
    assert [audit.judged for audit in audits] == [12, 12]
    assert all(audit.right for audit in audits)


def test_without_a_gate_all_rounds_are_run(tmp_path: Path) -> None:
    config = changed(tmp_path)
    content = play(config, student(config, {}))
    assert made(config) == ["round-1", "round-2", "round-3"]
    assert (content.gate, content.stopped) == (None, None)


def test_a_gate_without_answers_counts_agreement_and_verdicts(tmp_path: Path) -> None:
    dev = load_task(DEMO).problems(40, 77, frozenset())
    (tmp_path / "dev.jsonl").write_text("".join(f'{{"prompt": "{p.prompt.prompt}"}}\n' for p in dev))
    config = changed(tmp_path, gate={"prompts": str(tmp_path / "dev.jsonl"), "samples": 2, "count": 40})
    known = {p.prompt.prompt: p for p in dev}
    inner, task = student(config, {}), load_task(DEMO)

    def answer(model: Path, turns: Turns) -> str:
        if turns[0] not in known:
            return inner(model, turns)
        if len(turns) == 3:
            return task.explain(known[turns[0]], turns[1])
        unsure = model.name == "meta" and random.Random(turns[0]).random() < 0.8
        return f"{random.random()} maybe" if unsure else known[turns[0]].answer

    content = play(config, answer)
    assert content.gate is not None
    first = content.gate.rounds[0]
    assert (first.mode, first.promoted) == ("agreement", True)
    assert first.p_value < 0.01


def test_a_critic_that_always_says_yes_is_caught_before_its_rows_are_trained_on(tmp_path: Path) -> None:
    config = changed(tmp_path, monitors={"on_alarm": "stop"})
    honest = student(config, {})

    def answer(model: Path, turns: Turns) -> str:
        return f"Fine.\n{YES}" if len(turns) == 3 and model.name == "round-1" else honest(model, turns)

    content = play(config, answer)
    assert made(config) == ["round-1"]
    assert content.stopped is not None
    assert content.stopped.startswith("round-2: verdict yes 1.000, above 0.99")
    assert summarise(config.output).status == "stopped", "another bound lets it go on"
    assert [r.name for r in content.rounds] == ["round-1", "round-2"]
    assert {alarm.place for alarm in content.alarms} == {"round-2"}
    assert "verdict yes 1.000" in (config.output / "report.html").read_text()


def test_a_trainer_that_makes_a_model_repeat_one_answer_is_caught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    honest_config = changed(tmp_path)
    honest = student(honest_config, {})

    def answer(model: Path, turns: Turns) -> str:
        return "12 13 14" if model.name == "round-1" and len(turns) != 3 else honest(model, turns)

    content = play(honest_config, answer)  # to warn is the default
    assert made(honest_config) == ["round-1", "round-2", "round-3"]
    alarms = [alarm.finding for alarm in content.alarms if alarm.place == "round-2"]
    assert any(alarm.startswith("entropy of answers 0.000, below 0.05") for alarm in alarms)
    assert any(alarm.startswith("self-BLEU 1.00") for alarm in alarms)
    assert "selfevo: round-2: entropy of answers 0.00" in capsys.readouterr().err


def test_problems_that_pass_beside_the_pool_audit_the_filter_and_are_never_trained_on(tmp_path: Path) -> None:
    config = changed(tmp_path, audit=TASK)
    content = play(config, student(config, {}))
    hidden = {p.prompt.prompt for p in draw_splits(config).audit}
    assert len(hidden) == 60
    for entry in content.rounds:
        audit = entry.audit
        assert audit is not None
        assert audit.judged == 60
        assert sum(count for count, _ in audit.verdicts.values()) == 60
        assert sum(right for _, right in audit.verdicts.values()) == audit.right
    for path in config.output.glob("models/*/examples.jsonl"):
        assert not hidden & {row["turns"][0] for row in read_rows(path)}


@pytest.mark.parametrize("beside", [{}, {"audit": TASK}])
def test_the_gold_filter_keeps_what_is_right_in_place_of_the_filters_that_judge(
    tmp_path: Path, beside: dict[str, Any]
) -> None:
    by_form = {"kind": "length", "max_characters": 1000}
    config = changed(tmp_path, ablation={"gold_filter": True}, filter=["verdict", by_form], **beside)
    content = play(config, student(config, {}))
    for entry in content.rounds:
        assert entry.audit is not None
        assert entry.audit.precision == entry.audit.recall == 1.0
    reasons = {row["reason"] for row in read_rows(config.output / "stages/round-1/filter.jsonl")}
    assert reasons == {None, "wrong"}, "no verdict was asked for"
    with pytest.raises(ConfigError, match=r"ablation\.gold_filter needs known answers"):
        changed(tmp_path, ablation={"gold_filter": True}, prompts={"path": "p.jsonl"})


def test_the_gold_filter_leaves_filters_of_form_in_place(tmp_path: Path) -> None:
    by_form = {"kind": "length", "max_characters": 3}
    config = changed(tmp_path, ablation={"gold_filter": True}, filter=["verdict", by_form])
    with pytest.raises(TrainingError, match="no kept row"):
        play(config.model_copy(update={"policy": "continual-latest"}), student(config, {}))
    reasons = {row["reason"] for row in read_rows(config.output / "stages/round-1/filter.jsonl")}
    assert reasons == {"wrong", "longer than 3 characters"}


def test_several_responses_to_a_prompt_are_rows_of_their_own(tmp_path: Path) -> None:
    skills = {"respond": {"temperature": 1.0, "max_new_tokens": 64}}
    config = changed(tmp_path, samples_per_prompt=3, skills=skills, filter=["verdict", "max-per-prompt"])
    content = play(config, student(config, {}))
    assert [entry.rows.entered for entry in content.rounds] == [24, 24, 24]
    rows = list(read_rows(config.output / "stages/round-1/respond.jsonl"))
    assert len({row["id"] for row in rows}) == 24
    assert len({row["prompt"] for row in rows}) == 8
    kept = [row["prompt"] for row in read_rows(config.output / "stages/round-1/filter.jsonl") if row["kept"]]
    assert kept
    assert len(kept) == len(set(kept))
    assert content.rounds[0].audit is not None and content.rounds[0].audit.judged == 24, "every sample is audited"
    with pytest.raises(ConfigError, match=r"samples_per_prompt is 2; set skills\.respond"):
        changed(tmp_path, samples_per_prompt=2)


def test_repeated_prompts_have_ids_of_their_own() -> None:
    prompts = [Prompt.of("a"), Prompt.of("b")]
    repeated = Repeated(prompts, 3)
    assert len(repeated) == len(list(repeated)) == len({p.id for p in repeated}) == 6
    assert list(Repeated(prompts, 1)) == prompts


def test_a_run_that_was_stopped_by_its_gate_is_the_same_when_it_is_started_again(tmp_path: Path) -> None:
    config = changed(tmp_path, gate=TASK)
    answer = student(config, {"meta": 0.5, "round-1": 0.5})
    content, before = play(config, answer), tree(config.output)
    again = play(config, answer)
    assert tree(config.output) == before
    assert timeless(again) == timeless(content)
