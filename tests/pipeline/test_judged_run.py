"""A judge inside a run: it compares the answers of each model with the base's or recorded ones, in both orders."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runs import small_demo
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import MeasureConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, EngineError
from selfevo.method.protocols import Generation
from selfevo.method.records import Turns
from selfevo.pipeline.evaluate_model import evaluate_model
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.inspect import costs
from selfevo.rundir.results import MODES, Results, load_results
from selfevo.trainers.scripted import ScriptedTrainer
from server import Answer, completion, error, serving

# How good an answer is, by the model that wrote it; the scripted judge prefers the better one.
QUALITY = {"base": 3, "meta": 2, "round-1": 5, "round-2": 9}
ASKED = re.compile(r"\[instruction (\w+)\]\n(.*)\n\[answer A \1\]\n(.*)\n\[answer B \1\]\n(.*)\n\[end \1\]", re.DOTALL)


def judged(question: str, how: str) -> str | Generation:
    match = ASKED.search(question)
    assert match is not None
    if how == "order":
        return "Better: A"
    if how == "silent":
        return Generation("", "empty", 9, 0)
    first, second = (int(re.findall(r"\d+", text)[-1]) for text in match.groups()[2:])
    return f"I see.\nBetter: {'A' if first > second else 'B' if second > first else 'tie'}"


class Author:
    """Answers with a number that says how good the answer is: to even prompts the same one, whatever the model."""

    def __init__(self, how: str = "fair") -> None:
        self.how, self.judgements = how, Counter[str]()

    def __call__(self, model: Path, turns: Turns) -> str | Generation:
        if turns[0].startswith("Two assistants"):
            self.judgements[model.name] += 1
            return judged(turns[0], self.how)
        if len(turns) == 3:
            return "Fine.\nVerdict: qualified"
        number = int(re.findall(r"\d+", turns[0])[-1])
        if model.name == "round-1" and number % 4 == 1:
            return Generation("and so on", "length", 3, 8)
        return f"{model.name} says {QUALITY.get(model.name, 1)}" if number % 2 else "the same 3"


def configured(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> RunConfig:
    path = folder / "open.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = small_demo(folder, folder / "run").model_dump(mode="json")
    config["evaluation"] = {"task": {"name": "judge", "path": str(path)}, "models": ["base", "meta", "rounds"]}
    config["corpus"] = {"path": str(folder / "d_meta.jsonl")}
    config["prompts"] = {"path": str(folder / "pool.jsonl")}
    config["rounds"] = 2
    d_meta = {"response": "r", "feedback": "Good.\nVerdict: qualified", "refinement": "r"}
    (folder / "d_meta.jsonl").write_text(json.dumps({"prompt": "first", **d_meta}) + "\n")
    (folder / "pool.jsonl").write_text("".join(json.dumps({"prompt": f"Tell of {i}0001"}) + "\n" for i in range(4)))
    return parse_config({**config, "monitors": {}, **settings}, "test")


PROMPTS = [{"prompt": f"Write about number {i}"} for i in range(8)]


def run(config: RunConfig, author: Author) -> Results:
    run_loop(config, Silent(), ScriptedEngine(author), ScriptedTrainer())
    return load_results(config.output)


def counts(results: Results, name: str) -> tuple[int, int, int, int]:
    model = results.model(name)
    assert model is not None
    wins = model.wins("direct")
    return wins.wins, wins.ties, wins.losses, wins.unread


def test_models_are_compared_with_the_base_in_both_orders(tmp_path: Path) -> None:
    author = Author()
    results = run(configured(tmp_path, PROMPTS), author)
    assert results.judge is not None
    assert (results.judge.name, results.judge.reference) == ("base", "base")
    assert counts(results, "base") == (0, 8, 0, 0)  # the same answers
    assert counts(results, "meta") == (0, 4, 4, 0)
    assert counts(results, "round-1") == (2, 4, 2, 0)  # two were cut
    assert counts(results, "round-2") == (4, 4, 0, 0)
    # Both orders of 4, 2 and 4 pairs. Refined answers are the same and not asked again.
    assert author.judgements == {"base": 20}
    last = results.model("round-2")
    assert last is not None
    assert last.direct.accuracy == 0.75
    assert last.wins("direct").p_value == 0.125
    assert last.verdicts.qualified_right == 8
    assert last.recall == 1.0
    [compared] = [c for c in results.comparisons if c.mode == "direct"]
    assert (compared.a, compared.b, compared.difference, compared.gained) == ("round-2", "meta", 0.5, 4)
    page = (tmp_path / "run/report.html").read_text()
    assert "What the judge says" in page
    assert "75.0\u00a0% of 8 held-out problems better than base" in page


def test_answers_may_be_recorded_and_a_resume_asks_the_judge_nothing(tmp_path: Path) -> None:
    rows = [{**row, "answer": "mine 4"} for row in PROMPTS]
    config, author = configured(tmp_path, rows), Author()
    results = run(config, author)
    assert results.judge is not None
    assert results.judge.reference == str(tmp_path / "open.jsonl")
    assert counts(results, "base") == (0, 0, 8, 0)
    assert counts(results, "round-2") == (4, 0, 4, 0)
    again = Author()
    (tmp_path / "run/results.json").unlink()
    assert run(config, again).models == results.models
    assert not again.judgements


def test_a_judge_that_follows_the_order_or_says_nothing_decides_nothing(tmp_path: Path) -> None:
    for how in ("order", "silent"):
        (tmp_path / how).mkdir()
        results = run(configured(tmp_path / how, PROMPTS), Author(how))
        last = results.model("round-2")
        assert last is not None
        compared = last.compared["direct"]
        assert last.direct.accuracy == 0.5
        if how == "order":
            assert counts(results, "round-2") == (0, 8, 0, 0)
            assert (compared.flipped, compared.no_reply, compared.length_controlled) == (4, 0, 0.5)
        else:
            assert counts(results, "round-2") == (0, 4, 0, 4)
            assert (compared.flipped, compared.no_reply, compared.length_controlled) == (0, 4, None)


def test_the_gate_uses_the_judge(tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"Speak of {2 * i + 1}", "answer": "mine 2"}) + "\n" for i in range(12))
    )
    gate = {"task": {"name": "judge", "path": str(path)}, "patience": 2}
    config = configured(tmp_path, PROMPTS, gate=gate).model_dump(mode="json")
    config["evaluation"]["consistency"] = 2  # votes are judged too
    results = run(parse_config(config, "test"), Author())
    last = results.model("round-2")
    assert last is not None
    assert {mode: last.wins(mode).wins for mode in last.answers} == dict.fromkeys(MODES, 4)
    assert last.compared.keys() == last.answers.keys()
    assert results.gate is not None
    first, second = results.gate.rounds
    assert (first.b, first.gained, first.lost, first.promoted) == ("meta", 6, 6, False)  # six answers were cut
    assert (second.b, second.gained, second.lost, second.promoted) == ("meta", 12, 0, True)
    assert second.difference == 0.5
    assert results.gate.best == "round-2"


def test_a_judge_behind_a_server_is_paid_once_and_its_failures_are_owed(tmp_path: Path) -> None:
    down = True

    def answer(body: dict[str, Any]) -> Answer:
        if down and "round-2" in body["messages"][0]["content"]:
            return error(500, "GPU on fire")
        text = judged(body["messages"][0]["content"], "fair")
        assert isinstance(text, str)
        return completion(text)

    with serving(answer) as server:
        config = configured(tmp_path, PROMPTS)
        endpoint = {"model": "judge-x", "base_url": server.url, "api_key_env": None, "max_retries": 0}
        settings = config.model_dump(mode="json")
        settings["evaluation"]["task"]["options"] = {"endpoint": endpoint}
        with pytest.raises(EngineError, match="keeps failing"):
            run(parse_config(settings, "test"), Author())
        down = False
        endpoint["max_retries"] = 2  # may differ on a resume
        results = run(parse_config(settings, "test"), Author())
    assert results.judge is not None
    assert results.judge.name == "judge-x"
    assert counts(results, "round-2") == (4, 4, 0, 0)
    spent = costs(tmp_path / "run")
    assert spent["judge/server"]["prompt_tokens"] == 20 * 10
    assert sum(cost["prompt_tokens"] for name, cost in spent.items() if "judge-direct" in name) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"audit": {"task": {"name": "judge", "path": "x.jsonl"}}}, "audit.task: task judge compares answers"),
        ({"prompts": {"task": {"name": "judge", "path": "x.jsonl"}}}, "prompts.task: task judge compares"),
        ({"corpus": {"task": {"name": "judge", "path": "x.jsonl"}}}, "corpus.task: task judge compares"),
    ],
)
def test_a_judge_knows_no_right_answer(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(tmp_path, PROMPTS, **settings)


def test_a_mistake_in_the_judges_settings_is_found_before_the_run(tmp_path: Path) -> None:
    for options, message in (
        ({"model": "a/b", "endpoint": {"model": "x"}}, "both model and endpoint are given"),
        ({"endpoint": {"model": "x", "base_url": "nowhere"}}, "not the address of a server"),
        ({"judge": "x"}, "unknown key 'judge'"),
    ):
        config = configured(tmp_path, PROMPTS).model_dump(mode="json")
        config["evaluation"]["task"]["options"] = options
        with pytest.raises(ConfigError, match=message):
            run(parse_config(config, "test"), Author())


def test_eval_compares_with_recorded_answers_alone(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    path = tmp_path / "open.jsonl"
    for rows, reference in (([{**row, "gold": "old 2"} for row in PROMPTS], "gold"), (PROMPTS, "answer")):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        measure = MeasureConfig(task={"name": "judge", "path": path, "columns": {"answer": reference}})
        if reference == "answer":
            with pytest.raises(ConfigError, match="no answers in column 'answer', and outside a run there is no base"):
                evaluate_model(str(base), measure, output=None, progress=Silent(), engine=ScriptedEngine(Author()))
            continue
        results = evaluate_model(str(base), measure, output=None, progress=Silent(), engine=ScriptedEngine(Author()))
        assert counts(results, "base") == (8, 0, 0, 0)
        assert results.judge is not None
        assert results.judge.name == "base"
