"""D_meta by an annotator behind a server: whatever that does, every response ends as a row or in quarantine, once."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_none

from annotator import CANARY, annotation, asked, build, configured, engine, good, rows_of
from selfevo.checks.preview import preview_annotation
from selfevo.config.loading import parse_config
from selfevo.errors import DataError, EngineError
from selfevo.inputs.corpus_check import count
from selfevo.method.prompts import ENGLISH
from selfevo.models import endpoint
from selfevo.pipeline.run import build_d_meta, run_loop
from selfevo.report.progress import Silent
from selfevo.report.terminal import PlainConsole
from selfevo.rundir.atomic_files import read_rows
from selfevo.teachers.openai import instruction
from selfevo.trainers.scripted import ScriptedTrainer
from server import Answer, completion, error, serving


@pytest.fixture(autouse=True)
def _key_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_API_KEY", CANARY)
    monkeypatch.setattr(endpoint, "BACKOFF", wait_none())


def test_every_response_becomes_a_row_of_d_meta_and_a_second_call_asks_nobody(tmp_path: Path) -> None:
    with serving(lambda body: replace(good(body), delay=0.05)) as server:
        config = configured(tmp_path, server.url, max_concurrency=3)
        d_meta = build(config)
        assert len(server.calls) == 20
        assert 1 < server.most_at_once <= 3
        again = build(config)
        assert len(server.calls) == 20
    assert again == d_meta
    assert [row.prompt for row in d_meta] == [f"ask {i}" for i in range(20)]
    first = d_meta[0]
    assert (first.response, first.refinement) == ("response to ask 0", "better answer to ask 0")
    assert first.feedback == "It lacks a sum.\nVerdict: not qualified"
    assert count(d_meta, ENGLISH).verdicts == {"not qualified": 20}
    call = server.calls[0]
    assert call["path"] == "/v1/chat/completions"
    assert (call["model"], call["max_tokens"]) == ("m", 2048)
    assert call["headers"]["authorization"] == f"Bearer {CANARY}"
    assert call["response_format"]["json_schema"]["schema"]["required"] == ["feedback", "verdict", "refinement"]
    assert set(asked(call)) == {"instruction", "response"}
    run_loop(config, Silent(), engine(), ScriptedTrainer())
    assert len(server.calls) == 20, "a run goes on from what was annotated"


def test_the_annotator_sees_the_system_prompt_and_the_earlier_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "ask 0"}, {"prompt": "ask 0", "system": "Rhyme.", "history": ["first", "then"]}]
    with serving(good) as server:
        config = configured(tmp_path, server.url, 2)
        (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        d_meta = build(config)
        calls = sorted(server.calls, key=lambda call: len(asked(call)))
        plain, talk = calls
        preview_annotation(config, PlainConsole(width=1000))
    assert [(row.system, row.history) for row in d_meta] == [("", ()), ("Rhyme.", ("first", "then"))]
    assert plain["messages"][0] == {"role": "system", "content": instruction(ENGLISH)}
    assert set(asked(plain)) == {"instruction", "response"}
    before: Any = asked(talk)["conversation_before"]
    assert before == [
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "then"},
    ]
    assert talk["messages"][0]["content"].endswith("has to follow the system prompt and fit the turns.")
    first = capsys.readouterr().out
    assert "2 prompts" in first and "conversation_before" not in first, "the first prompt has none"
    config = config.model_copy(update={"system": "Sing."})
    preview_annotation(config, PlainConsole(width=1000))
    assert '"conversation_before": [{"role": "system", "content": "Sing."}]' in capsys.readouterr().out


def test_what_was_annotated_is_a_corpus_for_any_other_run(tmp_path: Path) -> None:
    with serving(good) as server:
        path, d_meta = build_d_meta(configured(tmp_path, server.url), Silent(), engine())
    settings = configured(tmp_path, server.url).model_dump(mode="json")
    settings |= {"output": str(tmp_path / "other"), "corpus": {"path": str(path), "max_one_verdict": 1}}
    run_loop(parse_config(settings, "test"), Silent(), engine(), ScriptedTrainer())
    assert len(list(read_rows(tmp_path / "other/data/d_meta.jsonl"))) == len(d_meta)


# --- what a server does wrong -----------------------------------------------------------------------------------------


def faulty(always: Callable[[int], bool]) -> tuple[Callable[[dict[str, Any]], Answer], Counter[str]]:
    """Three in ten calls go wrong, in five ways; some prompts never work. Counts the good answers by prompt."""
    dice, served = random.Random(0), Counter[str]()
    kinds = [
        lambda good: error(429, "slow down", retry_after="0"),
        lambda good: error(500, f"it broke, your key is {CANARY}"),
        lambda good: Answer(good.body, cut=40),
        lambda good: Answer("<html>busy</html>", headers={"content-type": "text/html"}),
        lambda good: Answer(""),
    ]

    def answer(body: dict[str, Any]) -> Answer:
        prompt = asked(body)["instruction"]
        if always(int(prompt.split()[1])) or dice.random() < 0.3:
            return dice.choice(kinds)(good(body))
        served[prompt] += 1
        return good(body)

    return answer, served


def test_a_server_that_fails_three_times_in_ten_loses_no_row_and_writes_none_twice(tmp_path: Path) -> None:
    answer, served = faulty(lambda i: i % 100 == 7)
    with serving(answer) as server:
        config = configured(tmp_path, server.url, 1000, max_retries=9, timeout_seconds=60, max_concurrency=32)
        d_meta = build(config)
    rows = rows_of(config)
    lost = [row for row in rows if row["status"] == "quarantined"]
    assert len(rows) == len({row["id"] for row in rows}) == 1000
    assert len(d_meta) + len(lost) == 1000
    assert {row["prompt"] for row in lost} == {f"ask {i}" for i in range(7, 1000, 100)}
    assert all(row["reason"].startswith("no reply: ") and len(row["reason"]) > 15 for row in lost)
    assert set(served.values()) == {1}, "none was paid for twice"
    assert len(served) == len(d_meta) == 990
    assert len(server.calls) > 1000 * 1.2


def test_a_server_that_does_not_answer_in_time_is_asked_again(tmp_path: Path) -> None:
    seen: set[str] = set()

    def answer(body: dict[str, Any]) -> Answer:
        prompt = asked(body)["instruction"]
        late = prompt not in seen or prompt == "ask 1"
        seen.add(prompt)
        return replace(good(body), delay=30 if late else 0)

    with serving(answer) as server:
        config = configured(tmp_path, server.url, 4, max_retries=3, timeout_seconds=2, max_concurrency=4)
        d_meta = build(config)
    assert [row.prompt for row in d_meta] == ["ask 0", "ask 2", "ask 3"]
    assert "Timeout" in rows_of(config)[1]["reason"]
    assert len(server.calls) >= 3 * 2 + 4


REPLIES = {
    "not json": ("I would say it is wrong.", "the reply is not the JSON asked for"),
    "another object": (
        '{"feedback": "x", "verdict": "maybe", "refinement": "y"}',
        "the reply is not the JSON asked for",
    ),
    "own verdict": (annotation("Bad.\nVerdict: qualified"), "the feedback holds a verdict line of its own"),
    "no words": (annotation(" "), "feedback or refinement is empty"),
    "no refinement": (annotation(refinement=""), "feedback or refinement is empty"),
    "the same": (annotation(refinement="response to ask 0"), "the refinement repeats a response that is judged"),
    "nul": (annotation("a\0b"), "holds a NUL character"),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_that_cannot_be_used_is_kept_with_its_reason(tmp_path: Path, name: str) -> None:
    text, reason = REPLIES[name]
    with serving(lambda body: completion(text) if asked(body)["instruction"] == "ask 0" else good(body)) as server:
        config = configured(tmp_path, server.url, 3)
        d_meta = build(config)
    row = rows_of(config)[0]
    assert [r.prompt for r in d_meta] == ["ask 1", "ask 2"]
    assert row["status"] == "quarantined"
    assert reason in row["reason"]
    assert row["reply"] == text


def test_a_reply_in_a_fence_is_read_and_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    text = f"```json\n{annotation('half X pair')}\n```".replace("X", "\ud83d")
    with serving(lambda body: completion(text)) as server:
        d_meta = build(configured(tmp_path, server.url, 1, response_format="text"))
    assert "half ? pair" in d_meta[0].feedback
    assert "response_format" not in server.calls[0]


def test_a_reply_that_was_cut_off_is_not_used(tmp_path: Path) -> None:
    with (
        serving(lambda body: completion(annotation(), finish="length")) as server,
        pytest.raises(DataError, match="not one of 3 responses was annotated: 3 times the reply was cut off"),
    ):
        build(configured(tmp_path, server.url, 3))


def test_a_verdict_or_a_refinement_against_the_gold_answer_is_quarantined(tmp_path: Path) -> None:
    told: list[str] = []

    def answer(body: dict[str, Any]) -> Answer:
        told.append(asked(body)["correct_answer"])
        verdict, refinement = [
            ("qualified", ""),
            ("not qualified", "no idea"),
            ("not qualified", asked(body)["correct_answer"]),
        ][len(told) % 3]
        return completion(annotation("Well.", verdict, refinement))

    with serving(answer) as server:
        config = configured(tmp_path, server.url, 9, gold=True, max_concurrency=1)
        d_meta = build(config)
    rows = rows_of(config)
    # Each prompt has a wrong response, and its gold solution as a right one.
    assert len(rows) == 18
    assert all(told)
    reasons = Counter(row["reason"] for row in rows)
    assert reasons["the verdict contradicts the gold answer"] > 3
    assert reasons["the refinement contradicts the gold answer"] > 1
    assert reasons[""] == len(d_meta) > 3


def test_a_server_that_only_fails_is_given_up_and_nothing_is_lost(tmp_path: Path) -> None:
    lasts, served = [30], Counter[str]()

    def answer(body: dict[str, Any]) -> Answer:
        if len(server.calls) > lasts[0]:
            return error(503, "down")
        served[asked(body)["instruction"]] += 1
        return good(body)

    with serving(answer) as server:
        config = configured(tmp_path, server.url, 100, max_concurrency=4, max_retries=1)
        with pytest.raises(EngineError, match=r"keeps failing, 2\d calls without a success .*\(HTTP 503: .*down"):
            build(config)
        assert len(served) == 30
        lasts[0] = 10**6
        assert len(build(config)) == 100, "what failed while it was down was not taken for an answer"
    assert set(served.values()) == {1}


def test_a_server_that_is_not_there_quarantines_nothing(tmp_path: Path) -> None:
    """Else three rows would be lost for good because the server was started a minute late."""
    there = [False]
    with serving(lambda body: good(body) if there[0] else error(502, "not yet")) as server:
        config = configured(tmp_path, server.url, 3, max_retries=1)
        with pytest.raises(EngineError, match=r"keeps failing, 3 calls without a success .*HTTP 502"):
            build(config)
        there[0] = True
        assert len(build(config)) == 3


def test_a_row_that_the_server_refuses_is_no_reason_to_stop(tmp_path: Path) -> None:
    """A resume may have nothing else left to ask."""
    with (
        serving(lambda body: error(400, "too long")) as server,
        pytest.raises(DataError, match=r"1 times no reply: HTTP 400"),
    ):
        build(configured(tmp_path, server.url, 1))
