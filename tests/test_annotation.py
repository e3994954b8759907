"""D_meta by an annotator behind a server: whatever that does, every response ends as a row or in quarantine, once."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_fixed, wait_none

from runs import tree
from selfevo import cli, endpoint
from selfevo.annotation import balance
from selfevo.config import RunConfig, parse_config
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import BudgetError, ConfigError, DataError, EngineError, RunError
from selfevo.files import read_rows
from selfevo.launch import build_d_meta, launch
from selfevo.progress import Silent
from selfevo.records import Refined
from selfevo.trainers.scripted import ScriptedTrainer
from server import Answer, completion, error, serving

CANARY = "sk-canary-0123456789"


@pytest.fixture(autouse=True)
def _key_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_API_KEY", CANARY)
    monkeypatch.setattr(endpoint, "BACKOFF", wait_none())


def configured(folder: Path, url: str, count: int = 20, *, gold: bool = False, **annotator: Any) -> RunConfig:
    """Prompts "1 + 1?" ..., answered right by the model every other time."""
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    (folder / "pool.jsonl").write_text("".join(json.dumps({"prompt": f"pool {i}"}) + "\n" for i in range(4)))
    (folder / "asked.jsonl").write_text("".join(json.dumps({"prompt": f"ask {i}"}) + "\n" for i in range(count)))
    source: dict[str, Any] = {"prompts": str(folder / "asked.jsonl"), "labels": count}
    if gold:
        source = {"task": {"name": "add-to-each"}, "labels": count, "warmup_share": 0, "samples_per_prompt": 1}
    settings = {"model": "m", "base_url": url, "api_key_env": "TEST_API_KEY", "timeout_seconds": 5, **annotator}
    return parse_config(
        {
            "model": str(base),
            "output": str(folder / "run"),
            "prompts": {"path": str(folder / "pool.jsonl")},
            "corpus": {**source, "annotator": settings},
            "rounds": 1,
        },
        "test",
    )


def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda model, turns: f"response to {turns[0]}", batch_size=64)


def build(config: RunConfig) -> list[Refined]:
    return build_d_meta(config, Silent(), engine())[1]


def rows_of(config: RunConfig) -> list[dict[str, Any]]:
    return list(read_rows(config.output / "stages/d_meta/annotate.jsonl"))


def asked(body: dict[str, Any]) -> dict[str, str]:
    content: dict[str, str] = json.loads(body["messages"][-1]["content"])
    return content


def annotation(feedback: str = "It lacks a sum.", verdict: str = "not qualified", refinement: str = "Two.") -> str:
    return json.dumps({"feedback": feedback, "verdict": verdict, "refinement": refinement})


def good(body: dict[str, Any]) -> Answer:
    return completion(annotation(refinement=f"better answer to {asked(body)['instruction']}"))


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
    assert balance(d_meta) == {"not qualified": 20}
    call = server.calls[0]
    assert call["path"] == "/v1/chat/completions"
    assert (call["model"], call["max_tokens"]) == ("m", 2048)
    assert call["headers"]["authorization"] == f"Bearer {CANARY}"
    assert call["response_format"]["json_schema"]["schema"]["required"] == ["feedback", "verdict", "refinement"]
    assert set(asked(call)) == {"instruction", "response"}
    launch(config, Silent(), engine(), ScriptedTrainer())
    assert len(server.calls) == 20, "a run goes on from what was annotated"


def test_what_was_annotated_is_a_corpus_for_any_other_run(tmp_path: Path) -> None:
    with serving(good) as server:
        path, d_meta = build_d_meta(configured(tmp_path, server.url), Silent(), engine())
    settings = configured(tmp_path, server.url).model_dump(mode="json")
    settings |= {"output": str(tmp_path / "other"), "corpus": {"path": str(path)}}
    launch(parse_config(settings, "test"), Silent(), engine(), ScriptedTrainer())
    assert len(list(read_rows(tmp_path / "other/data/d_meta.jsonl"))) == len(d_meta)


# --- what a server does wrong -----------------------------------------------------------------------------------------


def faulty(always: Callable[[int], bool]) -> tuple[Callable[[dict[str, Any]], Answer], Counter[str]]:
    """Three in ten calls go wrong, in six ways; some prompts never work. Counts the good answers by prompt."""
    dice, served = random.Random(0), Counter[str]()
    kinds = [
        lambda good: error(429, "slow down", retry_after="0"),
        lambda good: error(500, f"it broke, your key is {CANARY}"),
        lambda good: Answer(good.body, delay=5),
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
        config = configured(tmp_path, server.url, 1000, max_retries=9, timeout_seconds=0.4, max_concurrency=32)
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


# --- money ------------------------------------------------------------------------------------------------------------


def test_the_budget_stops_before_it_is_passed_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    prices = {"input_price": 1.0, "output_price": 10.0, "max_new_tokens": 100, "max_concurrency": 4}

    def answer(body: dict[str, Any]) -> Answer:
        return completion(good(body) and annotation(), prompt_tokens=200, new_tokens=90)

    with serving(answer) as server:
        # One call is at most (some 500 + 10 * 100) / 1e6 dollars, and really (200 + 10 * 90) / 1e6.
        config = configured(tmp_path, server.url, 40, max_dollars=0.02, **prices)
        with pytest.raises(BudgetError, match=r"could pass the budget: .* \$0\.01\d+ spent, \d+ calls owed"):
            build(config)
        first = len(server.calls)
        assert first > 10
        assert first * 1100 / 1e6 <= 0.02
        raised = configured(tmp_path, server.url, 40, max_dollars=1.0, **prices)
        assert len(build(raised)) == 40
        assert len(server.calls) == 40
    spent = [event for event in read_rows(config.output / "events.jsonl") if event["event"] == "annotate"]
    assert sum(event["dollars"] for event in spent) == pytest.approx(40 * 1100 / 1e6)
    assert sum(event["new_tokens"] for event in spent) == 40 * 90


def test_a_resume_remembers_what_was_spent(tmp_path: Path) -> None:
    with serving(lambda body: completion(annotation(), 200, 90)) as server:
        config = configured(tmp_path, server.url, 40, max_total_tokens=3000, max_new_tokens=100)
        with pytest.raises(BudgetError, match=r"price unknown"):
            build(config)
        first = len(server.calls)
        assert 0 < first * 290 <= 3000
        with pytest.raises(BudgetError):
            build(config)
        assert len(server.calls) - first <= 3000 / 290 - first


def test_money_cannot_be_limited_where_the_price_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the price of m at http.* is not known; give input_price"):
        build(configured(tmp_path, "http://127.0.0.1:9/v1", 2, max_dollars=1))


def test_known_prices_are_known() -> None:
    settings = {"model": "gpt-4.1-mini", "base_url": "https://api.openai.com/v1"}
    known = endpoint.price(endpoint.EndpointConfig(**settings), 1_000_000, 1_000_000)
    assert known is not None
    assert 0.1 < known < 10


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_in_no_file_no_log_and_no_process_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    commands: list[bytes] = []

    def answer(body: dict[str, Any]) -> Answer:
        commands.extend(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        number = int(asked(body)["instruction"].split()[1])
        if number % 4 == 0:
            return error(400, f"Incorrect header {body['headers']['authorization']}", x_key=CANARY)
        if number % 4 == 1:
            return completion(annotation(f"Your key is {CANARY}."))
        return completion(CANARY) if number % 4 == 2 else good(body)

    with caplog.at_level(logging.DEBUG), serving(answer) as server:
        config = configured(tmp_path, server.url, 16, max_retries=0)
        launch(config, Silent(), engine(), ScriptedTrainer())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert (config.output / "report.html") in files
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert "***" in rows_of(config)[0]["reason"]
    assert "Your key is ***." in rows_of(config)[1]["feedback"]
    out, err = capfd.readouterr()
    assert CANARY not in caplog.text + out + err
    assert len(commands) > 100
    assert not [command for command in commands if CANARY.encode() in command]


@pytest.mark.parametrize(
    "annotator",
    [
        {"base_url": f"https://user:{CANARY}@host/v1"},
        {"base_url": f"https://host/v1?key={CANARY}"},
        {"api_key_env": CANARY},
        {"api_key": CANARY},
    ],
)
def test_a_key_in_the_configuration_is_refused_without_repeating_it(
    tmp_path: Path, annotator: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configured(tmp_path, "http://host/v1").model_dump(mode="json")
    settings["corpus"]["annotator"] |= annotator
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    monkeypatch.setattr("sys.argv", ["selfevo", "annotate", str(tmp_path / "run.yaml")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = "".join(capsys.readouterr())
    assert ended.value.code == 2
    assert "corpus.annotator" in said
    assert CANARY not in said


def test_a_missing_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_API_KEY")
    with pytest.raises(ConfigError, match=r"environment variable TEST_API_KEY is not set; put the key of http://h/v1"):
        build(configured(tmp_path, "http://h/v1"))


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (error(401, f"Incorrect API key: {CANARY}"), ConfigError, r"refused the key in TEST_API_KEY: .*\*\*\*"),
        (error(403, "no"), ConfigError, "refused the key"),
        (error(404, "no model m"), ConfigError, r"does not exist: .*no model m.*; correct base_url or model"),
        (error(429, "pay", "insufficient_quota"), BudgetError, "the account is used up"),
    ],
)
def test_what_no_waiting_can_mend_ends_at_once(
    tmp_path: Path, answer: Answer, kind: type[Exception], message: str
) -> None:
    with serving(lambda body: answer) as server, pytest.raises(kind, match=message) as caught:
        build(configured(tmp_path, server.url, 50, max_concurrency=3))
    assert len(server.calls) <= 3
    assert CANARY not in str(caught.value)


def test_retry_after_comes_before_our_own_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF", wait_fixed(1000))
    seen: Counter[str] = Counter()

    def answer(body: dict[str, Any]) -> Answer:
        prompt = asked(body)["instruction"]
        seen[prompt] += 1
        waits = ["0", "Wed, 21 Oct 2015 07:28:00 GMT", None]
        wait = waits[seen[prompt] - 1]
        return error(429, "later", retry_after=wait) if wait else good(body)

    with serving(answer) as server:
        assert len(build(configured(tmp_path, server.url, 3))) == 3
    assert set(seen.values()) == {3}


def test_only_what_decides_no_row_may_change_on_a_resume(tmp_path: Path) -> None:
    with serving(good) as server:
        build(configured(tmp_path, server.url))
        before = tree(tmp_path / "run")
        build(configured(tmp_path, server.url, max_concurrency=3, timeout_seconds=9, max_dollars=None))
        assert tree(tmp_path / "run") == before
        with pytest.raises(RunError, match=r"corpus\.annotator\.temperature: None in the run, 0\.5 now"):
            build(configured(tmp_path, server.url, temperature=0.5))
