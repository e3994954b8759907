"""What is billed is on record before anything else happens, and no budget is passed, whatever the server does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tenacity import wait_none

from annotator import CANARY, annotation, build, configured, good, rows_of
from selfevo.config.sections import EndpointConfig
from selfevo.errors import BudgetError, DataError, EngineError, SelfevoError
from selfevo.models import endpoint
from selfevo.models.endpoint import Ask, Endpoint, most
from selfevo.rundir.inspect import costs
from selfevo.rundir.ledger import Cost, Ledger
from server import Answer, completion, error, serving


@pytest.fixture(autouse=True)
def _key_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_API_KEY", CANARY)
    monkeypatch.setattr(endpoint, "BACKOFF", wait_none())


def spent(folder: Path) -> Cost:
    return Ledger(folder / "run", "d_meta/annotate").spent


def test_thinking_that_used_up_the_limit_is_one_call_and_booked(tmp_path: Path) -> None:
    with serving(lambda body: completion("", 100, 2048, finish="length")) as server:
        config = configured(tmp_path, server.url, 5)
        with pytest.raises(DataError, match="5 times the reply was cut off at max_new_tokens"):
            build(config)
    assert len(server.calls) == 5
    assert spent(tmp_path) == Cost(500, 5 * 2048, 0)
    assert [(row["prompt_tokens"], row["new_tokens"]) for row in rows_of(config)] == [(100, 2048)] * 5


# Each is billed 100 + 40 tokens and gives no annotation.
USELESS = {
    "empty": completion("", 100, 40),
    "cut": completion("", 100, 40, finish="length"),
    "filtered": completion("", 100, 40, finish="content_filter"),
    "no choices": Answer(json.dumps({"usage": {"prompt_tokens": 100, "completion_tokens": 40}, "choices": []})),
    "an error that is billed": Answer(
        json.dumps({"usage": {"prompt_tokens": 100, "completion_tokens": 40}, "error": {"message": "x", "code": 502}})
    ),
    "a status that is billed": Answer(
        json.dumps({"usage": {"prompt_tokens": 100, "completion_tokens": 40}, "error": "x"}), 500
    ),
    "a refused key that is billed": Answer(
        json.dumps({"usage": {"prompt_tokens": 100, "completion_tokens": 40}, "error": "x"}), 401
    ),
}


@pytest.mark.parametrize("name", USELESS)
def test_no_start_passes_the_budget_and_all_is_on_record(tmp_path: Path, name: str) -> None:
    """Tried before: a budget of 3,000 tokens was billed 9,800 in one start and 39,200 in four, 0 on record."""
    with serving(lambda body: USELESS[name]) as server:
        config = configured(tmp_path, server.url, 30, max_total_tokens=3000, max_new_tokens=100, max_concurrency=4)
        for _ in range(4):
            with pytest.raises(SelfevoError):
                build(config)
            assert spent(tmp_path).tokens == 140 * len(server.calls) <= 3000
    assert costs(tmp_path / "run")["d_meta/annotate"]["new_tokens"] == 40 * len(server.calls)
    if name != "a refused key that is billed":
        assert len(server.calls) > 5


def test_a_retry_is_reserved_like_a_first_attempt(tmp_path: Path) -> None:
    """One call alone would pass the budget by being tried seven times."""
    with serving(lambda body: completion("", 1500, 100)) as server:
        config = configured(tmp_path, server.url, 1, max_total_tokens=4500, max_new_tokens=100)
        with pytest.raises(BudgetError, match=r"could pass the budget: 3,200 tokens.* 1 calls owed"):
            build(config)
    assert len(server.calls) == 2
    assert spent(tmp_path).tokens == 3200


@pytest.mark.parametrize(
    "lost",
    [
        replace(completion(annotation()), cut=20),
        Answer('{"choices": [{"message": {"content": "half a bod'),
        Answer(json.dumps({"choices": [{"message": {"content": "no bill"}}]})),
        replace(completion(annotation()), delay=3),
    ],
    ids=["torn", "no json", "no usage", "timeout"],
)
def test_a_call_whose_bill_did_not_come_counts_with_its_most(tmp_path: Path, lost: Answer) -> None:
    with serving(lambda body: lost if len(server.calls) == 1 else good(body)) as server:
        config = configured(tmp_path, server.url, 1, max_new_tokens=70, timeout_seconds=1)
        with suppress(DataError):
            build(config)
    bill = spent(tmp_path)
    assert bill.new_tokens == (70 if len(server.calls) == 1 else 75)
    assert bill.prompt_tokens > 1000


def test_a_server_that_is_not_there_costs_nothing(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"keeps failing, 2 calls .*no connection, or it broke: ConnectError"):
        build(configured(tmp_path, "http://127.0.0.1:9/v1", 2, max_total_tokens=10_000, max_retries=1))
    assert spent(tmp_path) == Cost()


def test_calls_that_a_killed_process_left_count_with_their_most(tmp_path: Path) -> None:
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from annotator import build, configured
build(configured(Path(sys.argv[2]), sys.argv[3], 4, max_concurrency=3, max_new_tokens=50))
"""
    with serving(lambda body: replace(good(body), delay=0 if len(server.calls) == 1 else 60)) as server:
        tests = str(Path(__file__).parents[1])
        process = subprocess.Popen([sys.executable, "-c", script, tests, str(tmp_path), server.url], env=os.environ)
        while len(server.calls) < 4 and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ledger = spent(tmp_path)
    assert ledger.new_tokens == 5 + 3 * 50
    assert spent(tmp_path) == ledger, "counted once"


def test_the_calls_in_flight_are_waited_for_when_all_ends(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        number = len(server.calls)
        return error(402, "Insufficient credits") if number == 2 else replace(good(body), delay=0.5)

    with serving(answer) as server:
        config = configured(tmp_path, server.url, 30, max_concurrency=4)
        with pytest.raises(BudgetError, match="Insufficient credits"):
            build(config)
        paid = len(server.calls) - 1
        assert 1 <= paid <= 3
        assert spent(tmp_path).tokens == 15 * paid
        build(config)
        assert len(server.calls) == 31, "their replies are kept"


def test_what_waits_to_be_tried_again_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return error(429, "later", retry_after="60") if len(server.calls) < 3 else error(401, "no")

    started = time.monotonic()
    with serving(answer) as server, pytest.raises(SelfevoError, match="refused the key"):
        build(configured(tmp_path, server.url, 9, max_concurrency=3))
    assert time.monotonic() - started < 20


# --- bounds -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_no_tokenizer_makes_more_tokens_of_a_call_than_we_reserve(texts: list[str]) -> None:
    """A tokenizer that falls back to bytes makes one of each at worst."""
    read, written = most(Ask([{"role": "user", "content": text} for text in texts], 9))
    assert read > sum(len(text.encode("utf-8", "replace")) for text in texts)
    assert written == 9


@pytest.mark.parametrize("text", ["日本語のテキスト", "ไทย", "\u200b" * 50, "🇩🇪" * 9, "a" * 50, "ﷺ" * 9])
def test_scripts_of_many_tokens_are_within_the_bound(text: str) -> None:
    read, _ = most(Ask([{"role": "user", "content": text}], 9))
    assert read > len(text.encode())


def test_the_schema_is_reserved_too() -> None:
    schema = {"response_format": {"type": "json_schema", "json_schema": {"x": "y" * 500}}}
    plain, asked = (most(Ask([{"role": "user", "content": "a"}], 9, options))[0] for options in ({}, schema))
    assert asked - plain > 500


@pytest.mark.parametrize("given_one", [{"input_price": 1.0}, {"output_price": 1.0}, {"input_price": 0.0}])
def test_one_price_alone_is_an_error(given_one: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="input_price and output_price belong together"):
        EndpointConfig(model="m", **given_one)


SHAPES: list[Callable[[dict[str, Any]], Answer]] = [
    good,
    lambda body: completion("", 60, 40),
    lambda body: completion("x", 60, 40, finish="length"),
    lambda body: error(500, "x"),
    lambda body: error(400, "x"),
    lambda body: Answer("<html>"),
    lambda body: replace(good(body), cut=9),
    lambda body: Answer(json.dumps({"error": {"message": "x", "code": 502}})),
]


@pytest.mark.parametrize("seed", range(6))
def test_a_server_of_moods_is_never_paid_more_than_the_budget(tmp_path: Path, seed: int) -> None:
    import random

    dice, billed = random.Random(seed), [0]

    def answer(body: dict[str, Any]) -> Answer:
        reply = dice.choice(SHAPES)(body)
        with suppress(ValueError, KeyError):
            billed[0] += json.loads(reply.body)["usage"]["total_tokens"]
        return reply

    with serving(answer) as server:
        config = configured(tmp_path, server.url, 40, max_total_tokens=9000, max_new_tokens=60, max_retries=2)
        for _ in range(5):
            with suppress(SelfevoError):
                build(config)
    assert 0 < billed[0] <= spent(tmp_path).tokens <= 9000


def test_the_ledger_of_an_endpoint_is_what_it_spent(tmp_path: Path) -> None:
    with serving(lambda body: completion("hello", 7, 3)) as server:
        config = EndpointConfig(model="m", base_url=server.url, api_key_env=None, input_price=1, output_price=2)
        ledger = Ledger(tmp_path, "x/y")
        asks = [Ask([{"role": "user", "content": "a"}], 5)] * 10
        assert sum(len(batch) for batch in Endpoint(config, ledger).ask(asks)) == 10
    assert ledger.spent.tokens == Ledger(tmp_path, "x/y").spent.tokens == 100
    assert ledger.spent.dollars == pytest.approx(10 * 13 / 1e6)
