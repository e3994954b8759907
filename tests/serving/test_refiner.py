"""Answering uses the skills of training, replaces an answer only where the verdict asks for it, lets samples vote."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import selfevo
from selfevo.cli import app as cli
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError
from selfevo.method.answer_extraction import answer_key
from selfevo.method.inference import vote
from selfevo.method.prompts import CRITIQUE, REFINE
from selfevo.method.protocols import Generation, Request
from selfevo.method.records import Turns
from selfevo.method.verdicts import Verdict

YES, NO, UNKNOWN = Verdict.QUALIFIED, Verdict.NOT_QUALIFIED, Verdict.UNKNOWN


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def counting(path: Path, turns: Turns) -> str | Generation:
    """Starts from 1 and refines upwards; is content with 3; has no opinion on "odd", no words for "mute"."""
    if turns[0] == "mute":
        return Generation("and so on", "length", 1, 8)
    if len(turns) == 1:
        return "1"
    if turns[-1] == CRITIQUE:
        if turns[0] == "odd":
            return "Hm."
        return f"It is {turns[-2]}.\nVerdict: {'qualified' if int(turns[-2]) >= 3 else 'not qualified'}"
    assert turns[-1] == REFINE
    return str(int(turns[1]) + 1)


def refiner(model: Path, engine: ScriptedEngine | None = None, **options: Any) -> selfevo.Refiner:
    return selfevo.Refiner(model, engine=engine or ScriptedEngine(counting), **options)


@pytest.mark.parametrize(
    ("options", "text", "drafts", "calls"),
    [
        ({"refine": "never"}, "1", 1, 1),
        ({}, "2", 2, 4),  # the last draft gets its verdict too
        ({"rounds": 2}, "3", 3, 6),
        ({"rounds": 9}, "3", 3, 6),  # content with 3
        ({"refine": "always", "rounds": 4}, "5", 5, 10),
    ],
)
def test_it_refines_as_long_as_it_is_told_to(
    model: Path, options: dict[str, object], text: str, drafts: int, calls: int
) -> None:
    engine = ScriptedEngine(counting)
    [answer] = refiner(model, engine, **options).answer(["count"])
    assert (answer.prompt, answer.text, len(answer.work[0]), len(engine.calls)) == ("count", text, drafts, calls)
    assert [step.text for step in answer.work[0]] == [str(i + 1) for i in range(drafts)]


def test_a_verdict_that_cannot_be_read_replaces_nothing(model: Path) -> None:
    [answer] = refiner(model).answer(["odd"])
    assert (answer.text, answer.verdict, len(answer.work[0])) == ("1", UNKNOWN, 1)


def test_one_text_is_no_list_of_prompts(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts is the text 'count'; give a list of prompts"):
        refiner(model).answer("count")


def test_an_answer_that_does_not_end_is_none(model: Path) -> None:
    answers = refiner(model).answer(["mute", "count"])
    assert [a.text for a in answers] == ["", "2"]


def test_answers_come_in_order_whatever_the_batch(model: Path) -> None:
    prompts = [f"count {i}" for i in range(7)] + ["odd", "mute"]
    engine = ScriptedEngine(counting, batch_size=2)
    assert [a.prompt for a in refiner(model, engine).answer(prompts)] == prompts


def test_the_words_are_those_of_training(model: Path) -> None:
    engine = ScriptedEngine(counting)
    refiner(model, engine).answer(["p"])
    feedback = "It is 1.\nVerdict: not qualified"
    assert [request.turns for _, request in engine.calls[:3]] == [
        ("p",),
        ("p", "1", CRITIQUE),
        ("p", "1", CRITIQUE, feedback, REFINE),
    ]


def sampling(model: Path, texts: list[str], verdicts: dict[str, str]) -> ScriptedEngine:
    """Gives the samples in turn, and a verdict by text."""
    drawn = iter(texts)

    def answer(path: Path, turns: Turns) -> str:
        return next(drawn) if len(turns) == 1 else f"Verdict: {verdicts.get(turns[1], 'qualified')}"

    return ScriptedEngine(answer)


def test_the_majority_is_the_answer(model: Path) -> None:
    engine = sampling(model, ["The answer is 7.", "So 8", "#### 7", "9"], {})
    [answer] = refiner(model, engine, refine="never", consistency=4).answer(["p"])
    assert (answer.text, answer.votes) == ("The answer is 7.", 2)
    assert len(engine.calls) == 4, "no vote was tied, so nobody had to be asked for a verdict"
    assert len({request.seed for _, request in engine.calls}) == 4


def test_ties_go_to_the_better_verdict(model: Path) -> None:
    engine = sampling(model, ["7", "8"], {"7": "not qualified"})
    [answer] = refiner(model, engine, refine="never", consistency=2).answer(["p"])
    assert (answer.text, answer.verdict, answer.votes) == ("8", YES, 1)
    assert len(engine.calls) == 4


@pytest.mark.parametrize(
    ("keys", "verdicts", "elected"),
    [
        (["a", "b", "a"], [NO, YES, NO], 0),
        (["a", "b"], [UNKNOWN, YES], 1),
        (["a", "b"], [NO, UNKNOWN], 1),
        (["a", "b"], [YES, YES], 0),
        (["", "", "b"], [UNKNOWN, UNKNOWN, NO], 2),
        (["", ""], [UNKNOWN, UNKNOWN], 0),
        (["a", "b", "b", "a"], [YES, YES, YES, NO], 1),
    ],
)
def test_a_vote(keys: list[str], verdicts: list[Verdict], elected: int) -> None:
    assert vote(keys, verdicts) == elected


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Verdict))), min_size=1))
def test_a_vote_elects_one_of_the_most_frequent(ballots: list[tuple[str, Verdict]]) -> None:
    keys = [key for key, _ in ballots]
    elected = vote(keys, [verdict for _, verdict in ballots])
    assert Counter(keys)[keys[elected]] == max(Counter(keys).values())


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("So it is 7.0 apples", "#### 7", True),
        ("42", "42.", True),
        ("19 52 36", "18 52 36", False),
        ("19 52 36", " 19  52 36", True),
        ("A red hat.", "a red hat.", True),
        ("3 cats", "4 cats", False),
        ("no numbers", "none here", False),
    ],
)
def test_what_counts_as_the_same_answer(a: str, b: str, same: bool) -> None:
    assert (answer_key(a) == answer_key(b)) is same


@pytest.mark.parametrize(
    "options",
    [{"refine": "sometimes"}, {"rounds": 0}, {"consistency": 0}]
    + [{"temperature": value, "consistency": 2} for value in (0, -1, float("inf"), float("nan"))],
)
def test_an_impossible_option_is_named(model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        refiner(model, **options)


# --- the command ------------------------------------------------------------------------------------------------------


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr("selfevo.serving.refiner.build_engine", lambda *settings: ScriptedEngine(counting))
    monkeypatch.setattr("sys.argv", ["selfevo", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_a_prompt_as_argument_and_on_standard_input(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, capsys, "answer", model, "count", "--rounds", 2)[:2] == (0, "3\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("count\n"))
    assert run(monkeypatch, capsys, "answer", model, "--refine", "never")[:2] == (0, "1\n")
    code, out, _ = run(monkeypatch, capsys, "answer", model, "count", "--show-work")
    assert code == 0
    assert "It is 1." in out
    assert out.endswith("2\n")


def test_many_prompts_become_many_rows(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"q": text}) + "\n" for text in ("a", "b", "a", "mute")))
    code, out, err = run(
        monkeypatch, capsys, "answer", model, "--file", tmp_path / "p.jsonl", "--column", "q", "--json"
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(row["prompt"], row["text"], row["verdict"]) for row in rows] == [
        ("a", "2", "not qualified"),
        ("b", "2", "not qualified"),
        ("mute", "", "unknown"),
    ]
    assert rows[0]["work"][0][0]["text"] == "1"
    assert "1 rows are left out; the first is line 3: duplicate of line 1" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["  "], "the prompt is empty"),
        (["p", "--file", "f.jsonl"], "both a prompt and --file f.jsonl are given"),
        (["p", "--refine", "perhaps"], "refine is 'perhaps'; use never, if-judged-wrong or always"),
        (["--file", "nowhere.jsonl"], "nowhere.jsonl"),
        (["p", "--engine", "steam"], '--engine: there is no kind "steam"; known here: transformers'),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    code, out, err = run(monkeypatch, capsys, "answer", model, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_two_models_are_compared_by_a_judge(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("new", "good"), ("old", "bad")):
        rows = [{"prompt": f"p{i}", "text": f"{text} {i}", "category": f"c{i % 2}"} for i in range(4)]
        rows += [{"prompt": f"only {name}", "text": "x"}]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def judge(path: Path, requests: list[Request], sampling: object) -> list[Generation]:
        lines = [request.turns[0].split("\n") for request in requests]
        first = [line[[x.startswith("[answer A") for x in line].index(True) + 1] for line in lines]
        return [Generation(f"Better: {'A' if 'good' in text else 'B'}", "stop", 1, 1) for text in first]

    engine = ScriptedEngine(lambda *_: "")
    monkeypatch.setattr(ScriptedEngine, "generate", lambda self, *arguments: judge(*arguments))
    monkeypatch.setattr("selfevo.pipeline.build.build_engine", lambda *settings: engine)
    monkeypatch.setattr(
        "sys.argv",
        f"selfevo compare {tmp_path / 'new.jsonl'} {tmp_path / 'old.jsonl'} --judge {model} --candidate gpt-9 "
        f"--output {tmp_path / 'out.jsonl'}".split(),
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    assert "new against old: win rate 100.0 %" in out
    assert "4 wins, 0 ties, 0 losses of 4" in out
    assert "category c1: 100.0 %" in out
    assert "2 prompts have an answer in only one of the files" in err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4
