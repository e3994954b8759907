"""System prompt and earlier turns reach all that asks, trains, judges, measures and reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import YES
from selfevo.cli.app import TEMPLATE
from selfevo.config.loading import load_config, parse_config
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import MeasureConfig
from selfevo.config.task import TaskConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, DataError
from selfevo.inputs.splits import Splits, draw_splits
from selfevo.method.prompts import CRITIQUE, REFINE
from selfevo.method.protocols import Generation
from selfevo.method.records import Prompt, Turns
from selfevo.pipeline.evaluate_model import evaluate_model
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from selfevo.serving.refiner import Refiner
from selfevo.tasks import load_task
from selfevo.trainers.scripted import ScriptedTrainer

EXAMPLES = Path(__file__).parents[2] / "examples"
OWN, ALL = "Answer with one number.", "Be a kind teacher."
EARLIER = ("Mina has 9 stickers and gives 4 of them to her brother. How many stickers does she keep?", "5")


def reply(model: Path, turns: Turns) -> str:
    if turns[-1] == CRITIQUE:
        return YES
    return "The answer is 4." if turns[-1] == REFINE else "The answer is 3."


def lines(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def configuration(folder: Path, **more: Any) -> RunConfig:
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    said = [
        {"role": "user", "content": "7+7"},
        {"role": "assistant", "content": "14"},
        {"role": "user", "content": "+1"},
    ]
    row = {"prompt": said, "response": "15", "feedback": YES, "refinement": "15"}
    settings = {
        "model": str(base),
        "output": str(folder / "run"),
        "prompts": {"path": str(EXAMPLES / "layouts" / "messages.jsonl")},
        "corpus": {"path": lines(folder / "d_meta.jsonl", [row, {**row, "system": OWN}])},
        "evaluation": {"task": {"name": "gsm8k", "path": str(EXAMPLES / "eval.jsonl")}, "count": 4},
        "gate": {"prompts": lines(folder / "gate.jsonl", [{"prompt": "2+2", "history": list(EARLIER)}]), "count": 1},
        "audit": {"task": {"name": "add-to-each"}, "count": 2},
        "rounds": 1,
        **more,
    }
    return parse_config(json.loads(json.dumps(settings)), "test")


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunConfig, ScriptedEngine, ScriptedTrainer]:
    config, engine, trainer = configuration(tmp_path, system=ALL), ScriptedEngine(reply), ScriptedTrainer()
    run_loop(config, Silent(), engine, trainer)
    return config, engine, trainer


def test_every_request_has_its_system_prompt_and_its_earlier_turns(
    run: tuple[RunConfig, ScriptedEngine, ScriptedTrainer],
) -> None:
    _, engine, _ = run
    requests = [request for _, request in engine.calls]
    assert {request.system for request in requests} == {OWN, ALL}
    about = {request.turns[0]: request for request in requests}
    assert "How many stickers" in "".join(about)
    for request in requests:
        if request.turns[0] == EARLIER[0]:
            assert request.turns[1] == EARLIER[1]
            assert request.opening == 3 and request.system in (OWN, ALL)
            assert request.turns[2] == ("And if she gives him 2 more?" if request.system == OWN else "2+2")
    followed = {(r.turns[-1], len(r.turns)) for r in requests if r.system == OWN and r.opening == 3}
    assert {("And if she gives him 2 more?", 3), (CRITIQUE, 5), (REFINE, 7)} <= followed, "every skill sees the whole"


def test_every_sequence_is_trained_behind_it(run: tuple[RunConfig, ScriptedEngine, ScriptedTrainer]) -> None:
    _, _, trainer = run
    examples = [example for _, given in trainer.calls for example in given]
    assert {example.system for example in examples} == {OWN, ALL}
    assert {example.term for example in examples} == {"skills", "answer", "self"}
    [followed] = {e for e in examples if e.term == "self" and e.turns[0] == EARLIER[0]}
    assert followed.turns == (*EARLIER, "And if she gives him 2 more?", "The answer is 4.")
    assert followed.weights == (0.0, 1.0), "earlier turns are not in the loss"
    labels = [e for e in examples if e.term == "answer"]
    assert {(e.system, e.turns) for e in labels} == {(s, ("7+7", "14", "+1", "15")) for s in (OWN, ALL)}


def test_it_stands_in_every_file_and_in_the_report(run: tuple[RunConfig, ScriptedEngine, ScriptedTrainer]) -> None:
    config, _, _ = run
    pool = list(read_rows(config.output / "data" / "pool.jsonl"))
    assert [row["system"] for row in pool] == [OWN] * 3
    assert pool[-1]["history"] == list(EARLIER)
    assert {row["prompt"]["system"] for row in read_rows(config.output / "data" / "evaluation.jsonl")} == {ALL}
    kept = list(read_rows(config.output / "stages" / "round-1" / "filter.jsonl"))
    assert [row["kept"] for row in kept] == [True] * 3
    page = (config.output / "report.html").read_text(encoding="utf-8")
    for text in ("system prompt", "user, earlier", "assistant, earlier", OWN, EARLIER[0]):
        assert text in page
    card = (config.output / "models" / "round-1" / "README.md").read_text(encoding="utf-8")
    assert f"Prompts without one of their own were asked under: {ALL}" in card


def test_a_quarantined_row_is_reported_with_what_was_before_it(tmp_path: Path) -> None:
    config = configuration(tmp_path, system=ALL, evaluation=None, gate=None, audit=None)
    nothing = Generation("", "empty", 1, 0)
    engine = ScriptedEngine(lambda model, turns: nothing if turns[-1] == REFINE else YES)
    run_loop(config, Silent(), engine, ScriptedTrainer())
    page = (config.output / "report.html").read_text(encoding="utf-8")
    assert "refine: the model wrote nothing visible" in page
    assert EARLIER[0] in page and OWN in page


def test_a_model_is_asked_under_the_system_prompt_of_its_run(
    run: tuple[RunConfig, ScriptedEngine, ScriptedTrainer],
) -> None:
    config, _, _ = run
    model = config.output / "models" / "round-1"
    talk = [
        {"role": "user", "content": EARLIER[0]},
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "?"},
    ]
    own = Prompt.of("p", system=OWN)
    for system, expected in ((None, ALL), ("", ""), ("Sing.", "Sing.")):
        engine = ScriptedEngine(reply)
        answers = Refiner(model, engine=engine, system=system).answer(["p", own, talk])
        assert [answer.system for answer in answers] == [expected, OWN, expected]
        assert [answer.history for answer in answers] == [(), (), EARLIER]
        assert [r.system for _, r in engine.calls][:3] == [expected, OWN, expected]
        measure = MeasureConfig(task=TaskConfig(name="gsm8k", path=EXAMPLES / "eval.jsonl"), count=8, system=system)
        engine = ScriptedEngine(reply)
        evaluate_model(str(model), measure, output=None, progress=Silent(), engine=engine)
        assert {request.system for _, request in engine.calls} == {expected}


def test_what_a_run_learnt_from_is_not_measured_under_another_system_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = (EXAMPLES / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    pool = [{"prompt": json.loads(line)["question"]} for line in problems[:6]]
    prompts = {"path": lines(tmp_path / "pool.jsonl", pool)}
    config = configuration(tmp_path, system=ALL, prompts=prompts, evaluation=None, gate=None, audit=None)
    run_loop(config, Silent(), ScriptedEngine(reply), ScriptedTrainer())
    task = TaskConfig(name="gsm8k", path=EXAMPLES / "eval.jsonl")
    model = str(config.output / "models" / "round-1")
    engine = ScriptedEngine(reply)
    evaluate_model(model, MeasureConfig(task=task, count=6), output=None, progress=Silent(), engine=engine)
    assert not {row["prompt"] for row in pool} & {request.turns[0] for _, request in engine.calls}
    with pytest.raises(DataError, match=r"7 problems are asked for, and .* has 12, 6 of them not in use"):
        evaluate_model(model, MeasureConfig(task=task, count=7), output=None, progress=Silent(), engine=engine)
    capsys.readouterr()
    results = evaluate_model(model, MeasureConfig(task=task), output=None, progress=Silent(), engine=engine)
    assert results.models[0].direct.n == 6
    assert "6 of 12 problems are left out: the run of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "prompts", ["hi", [{"role": "user", "content": "hi"}], [[{"role": "user"}]], [[]], [7], [None]]
)
def test_what_is_no_list_of_prompts_is_told(
    run: tuple[RunConfig, ScriptedEngine, ScriptedTrainer], prompts: Any
) -> None:
    config, engine, _ = run
    with pytest.raises((ConfigError, DataError), match="prompt"):
        Refiner(config.output / "models" / "round-1", engine=engine).answer(prompts)


def test_tasks_find_their_problems_under_a_system_prompt(tmp_path: Path) -> None:
    """A task with a file looks its solutions up by the question, and a gym by what it drew."""
    tasks: list[dict[str, Any]] = [{"name": "gsm8k", "path": str(EXAMPLES / "eval.jsonl")}]
    tasks += [{"name": "add-to-each"}, {"name": "instructions"}]
    for settings in tasks:
        corpus = {"task": settings, "labels": 4}
        splits = draw_splits(configuration(tmp_path, system=ALL, corpus=corpus, evaluation=None, gate=None, audit=None))
        plain = draw_splits(configuration(tmp_path, corpus=corpus, evaluation=None, gate=None, audit=None))
        task = load_task(TaskConfig.model_validate(settings))
        for problem, same in zip(splits.labelled, plain.labelled, strict=True):
            assert problem.prompt.system == ALL and problem.prompt.prompt == same.prompt.prompt
            assert problem.question_id == same.prompt.id == same.question_id != problem.prompt.id
            assert task.solution(problem) == task.solution(same)
            assert task.is_correct(problem, task.solution(problem))
            assert task.explain(problem, "wrong") == task.explain(same, "wrong")


def test_two_prompts_that_differ_in_their_system_prompt_are_two_everywhere(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "prompts": {"path": lines(tmp_path / "pool.jsonl", [{"prompt": "p", "system": s} for s in ("a", "b")])},
        "gate": {"prompts": lines(tmp_path / "dev.jsonl", [{"prompt": "p", "system": "d"}]), "count": 1},
        "evaluation": None,
        "audit": None,
    }

    def draw(prompt: str, system: str) -> Splits:
        row = {"prompt": prompt, "system": system, "response": "r", "feedback": YES, "refinement": "r"}
        labels = lines(tmp_path / "labels.jsonl", [row])
        return draw_splits(configuration(tmp_path, corpus={"path": labels}, **more))

    splits = draw("p", "c")
    assert [row.system for row in (*splits.pool, *splits.d_meta, *splits.dev_prompts)] == ["a", "b", "c", "d"]
    assert splits.quarantined == []
    with pytest.raises(DataError, match="'pool' and 'annotated' share 1 prompt, for example 'p'"):
        draw(" P", "A\u200b")


def test_decontamination_compares_the_turns_and_no_system_prompt(tmp_path: Path) -> None:
    system = "You are a helpful assistant who answers every question in at most three short sentences, please."
    talks: list[dict[str, Any]] = [
        {"prompt": "Yes, please.", "history": ["Shall I tell you of the sea?", "Do."]},
        {"prompt": "Yes, please.", "history": ["Shall I tell you of the moon?", "Do."]},
        {"prompt": "Name a river of Peru."},
        {"prompt": "Name a river of Chile."},
    ]
    pool = lines(tmp_path / "pool.jsonl", [{**talk, "system": system} for talk in talks])
    known = lines(tmp_path / "known.jsonl", [{**talk, "system": f"{system} Be kind."} for talk in talks[1:3]])
    config = configuration(
        tmp_path, prompts={"path": pool}, decontaminate=[known], evaluation=None, gate=None, audit=None
    )
    splits = draw_splits(config)
    assert [prompt.conversation[1] for prompt in splits.pool] == [
        "Shall I tell you of the sea?", "Name a river of Chile."
    ]  # fmt: skip
    assert [row.reason for row in splits.quarantined] == ["decontaminated: in an evaluation set"] * 2


def test_rows_of_a_gate_and_of_decontaminate_are_counted_too(tmp_path: Path) -> None:
    user = {"role": "user", "content": "g"}
    tools = {"messages": [user], "tools": [{"type": "function"}]}
    gate = lines(tmp_path / "dev.jsonl", [{"messages": [user, {"role": "assistant", "content": "a"}]}, tools])
    known = lines(tmp_path / "known.jsonl", [{"question": "k"}, {"question": ""}, {"question": "k"}])
    config = configuration(
        tmp_path,
        gate={"prompts": gate, "count": 1, "max_bad_share": 0.5},
        decontaminate=[{"path": known, "column": "question", "max_bad_share": 0.5}],
        evaluation=None,
        audit=None,
    )
    splits = draw_splits(config)
    assert [row.reason.split(";")[0] for row in splits.quarantined] == [
        "column 'tools' has tools, which are not asked here",
        "column 'question' is empty",
    ]
    assert splits.left_off == [
        f"the assistant's turn at the end of 3 rows of {EXAMPLES / 'layouts' / 'messages.jsonl'}",
        f"the assistant's turn at the end of 1 row of {gate}",
    ]
    assert splits.notes[-1].startswith("not asked: the assistant's turn at the end of 3 rows of ")


def test_questions_of_the_evaluation_under_another_system_prompt_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two prompts, so no overlap; but who measures on them should know."""
    questions = [{"prompt": f"{i}+{i}", "answer": str(2 * i)} for i in range(20, 24)]
    evaluation = {"task": {"name": "exact", "path": lines(tmp_path / "eval.jsonl", questions)}}
    pool = lines(tmp_path / "pool.jsonl", [{"prompt": "20+20", "system": OWN}, {"prompt": "1+1", "system": OWN}])
    more = {"gate": None, "audit": None, "evaluation": evaluation, "prompts": {"path": pool}}
    config = configuration(tmp_path, **more)
    splits = draw_splits(config)
    said = "1 of 4 questions of the evaluation are in the pool or in D_meta, under another system prompt; remove"
    assert [note.startswith(said) for note in splits.notes] == [True]
    run_loop(config, Silent(), ScriptedEngine(reply), ScriptedTrainer())
    assert said in " ".join(capsys.readouterr().err.split())
    lines(tmp_path / "pool.jsonl", [{"prompt": "1+1", "system": OWN}])
    assert draw_splits(configuration(tmp_path, **{**more, "output": str(tmp_path / "other")})).notes == []


def test_more_labels_than_there_are_prompts_are_an_error(tmp_path: Path) -> None:
    prompts = lines(tmp_path / "to-annotate.jsonl", [{"prompt": f"seed {i}"} for i in range(6)])
    corpus = {"prompts": prompts, "annotator": {"model": "m", "base_url": "http://localhost:1/v1"}}
    assert len(draw_splits(configuration(tmp_path, corpus=corpus)).unlabelled) == 6
    assert len(draw_splits(configuration(tmp_path, corpus={**corpus, "labels": 4})).unlabelled) == 4
    with pytest.raises(DataError, match=r"corpus\.labels is 7, and .*to-annotate\.jsonl has 6 prompts; lower it"):
        draw_splits(configuration(tmp_path, corpus={**corpus, "labels": 7}))


def test_the_key_of_the_template_is_the_key_of_the_configuration(tmp_path: Path) -> None:
    text = TEMPLATE.read_text(encoding="utf-8").replace("# system:", "system:")
    (tmp_path / "run.yaml").write_text(text)
    assert load_config(tmp_path / "run.yaml").system == "Answer briefly."
    assert "system" in yaml.safe_load(text)


@pytest.mark.parametrize("system", ["a\0b", "a\ud800"])
def test_a_system_prompt_that_cannot_be_written_is_a_mistake(tmp_path: Path, system: str) -> None:
    with pytest.raises(ConfigError, match="system: holds"):
        configuration(tmp_path, system=system)


@pytest.mark.parametrize("system", ["a\0b", "a\ud800"])
def test_a_system_prompt_that_cannot_be_asked_is_told_to_python_too(
    run: tuple[RunConfig, ScriptedEngine, ScriptedTrainer], system: str
) -> None:
    with pytest.raises(ConfigError, match="system holds"):
        Refiner(run[0].output, engine=run[1], system=system)
