"""An endpoint keeps to its budget, keeps its key to itself, and waits as it is told to."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tenacity import AsyncRetrying, RetryCallState, wait_fixed, wait_none

from annotator import CANARY, annotation, asked, build, configured, engine, good, rows_of
from runs import tree
from selfevo.cli import app as cli
from selfevo.config.sections import EndpointConfig
from selfevo.errors import BudgetError, ConfigError, RunError
from selfevo.models import endpoint
from selfevo.models.server_replies import ServerError
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from selfevo.trainers.scripted import ScriptedTrainer
from server import Answer, completion, error, serving


@pytest.fixture(autouse=True)
def _key_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_API_KEY", CANARY)
    monkeypatch.setattr(endpoint, "BACKOFF", wait_none())


# --- money ------------------------------------------------------------------------------------------------------------


def test_the_budget_stops_before_it_is_passed_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    prices: dict[str, Any] = {"input_price": 1.0, "output_price": 10.0, "max_new_tokens": 100, "max_concurrency": 4}

    def answer(body: dict[str, Any]) -> Answer:
        return completion(annotation(), prompt_tokens=200, new_tokens=90)

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
    settings: dict[str, Any] = {"model": "gpt-4.1-mini", "base_url": "https://api.openai.com/v1"}
    known = endpoint.price(EndpointConfig(**settings), 1_000_000, 1_000_000)
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
        run_loop(config, Silent(), engine(), ScriptedTrainer())
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


def test_only_what_decides_no_finished_row_may_change_on_a_resume(tmp_path: Path) -> None:
    with serving(good) as server:
        build(configured(tmp_path, server.url))
        before = tree(tmp_path / "run")
        further: dict[str, Any] = {"temperature": 0.5, "max_new_tokens": 9, "response_format": "text"}
        build(configured(tmp_path, server.url, max_concurrency=3, timeout_seconds=9, max_dollars=None, **further))
        assert tree(tmp_path / "run") == before
        with pytest.raises(RunError, match=r"corpus\.annotator\.model: 'm' in the run, 'other' now"):
            build(configured(tmp_path, server.url, model="other"))


@pytest.mark.parametrize("key", ["1", "none", "EMPTY", "ollama", "token", "sk-no-key-required", "the response"])
def test_a_key_that_is_none_is_not_searched_for_in_training_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("TEST_API_KEY", key)
    said = f"There are 11 items, none of it EMPTY; ollama has {key} and the response token."
    with serving(lambda body: completion(annotation(said, refinement=f"{said}!"))) as server:
        (row,) = build(configured(tmp_path, server.url, 1))
    assert row.feedback == f"{said}\nVerdict: not qualified"
    assert row.refinement == f"{said}!"


def test_a_short_key_is_taken_out_of_errors_where_it_stands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_API_KEY", "hunter2")
    with (
        serving(lambda body: error(401, "no user hunter2 (Bearer hunter2), hunter22 is taken")) as server,
        pytest.raises(ConfigError, match=r"no user \*\*\* \(Bearer \*\*\*\), hunter22 is taken"),
    ):
        build(configured(tmp_path, server.url, 1))


@pytest.mark.parametrize("before", [270, 280, 290, 380, 390, 399])
@pytest.mark.parametrize("status", [200, 400])
def test_no_part_of_a_key_is_left_where_words_are_cut(tmp_path: Path, before: int, status: int) -> None:
    said = json.dumps({"error": {"message": "x" * before + CANARY, "code": 400}})
    with serving(lambda body: Answer(said, status)) as server:
        asking = endpoint.Endpoint(EndpointConfig(model="m", base_url=server.url, api_key_env="TEST_API_KEY"))
        [[(_, reply)]] = list(asking.ask([endpoint.Ask([{"role": "user", "content": "a"}], 9)]))
    assert "xxx" in reply.fault and CANARY[:4] not in reply.fault


@pytest.mark.parametrize("key", ["sk-\u00fc0123456789abcdef", "sk-01234\n56789abcdefg", "sk-0123\x1b456789abcd"])
def test_a_key_that_no_header_takes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("TEST_API_KEY", key)
    with pytest.raises(ConfigError, match="TEST_API_KEY holds characters that no key has") as caught:
        build(configured(tmp_path, "http://h/v1"))
    assert key not in str(caught.value)


def test_a_key_from_a_file_may_end_in_a_line_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_API_KEY", f" {CANARY}\r\n")
    with serving(good) as server:
        build(configured(tmp_path, server.url, 1))
    assert server.calls[0]["headers"]["authorization"] == f"Bearer {CANARY}"


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["86400", "inf", "1e308", "Fri, 31 Dec 2900 23:59:59 GMT"])
def test_a_server_that_asks_to_wait_for_a_day_is_asked_when_we_think_fit_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: str
) -> None:
    with serving(lambda body: error(429, "x", retry_after=asked) if len(server.calls) < 5 else good(body)) as server:
        assert len(build(configured(tmp_path, server.url, 2))) == 2
    said = [record.getMessage() for record in caplog.records if "asks to wait" in record.getMessage()]
    assert len(said) == 1, "once"
    assert f"{server.url} asks to wait" in said[0] and "asked again in 0 s" in said[0]


def test_a_wait_that_is_reasonable_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF", wait_fixed(7))
    asking = endpoint.Endpoint(EndpointConfig(model="m", api_key_env=None))

    def seconds(header: str) -> float:
        error = endpoint._WaitingError(ServerError("again", "x"), header)
        state = RetryCallState(AsyncRetrying(), None, (), {})
        state.set_exception((type(error), error, None))
        return asking._wait(state)

    assert [seconds(header) for header in ("0", "20", "300", "301", "", "soon")] == [0, 20, 300, 7, 7, 7]


def test_a_body_that_comes_byte_by_byte_is_a_timeout(tmp_path: Path) -> None:
    with serving(lambda body: replace(good(body), trickle=0.2 if len(server.calls) < 3 else 0)) as server:
        config = configured(tmp_path, server.url, 2, timeout_seconds=3, max_retries=3, max_concurrency=2)
        started = time.monotonic()
        assert len(build(config)) == 2
        assert time.monotonic() - started < 40, "a body takes a minute"
    assert len(server.calls) >= 4


@pytest.mark.parametrize(
    "answer",
    [
        Answer("[" * 200_000),
        Answer('{"choices": ' + '{"a": ' * 200_000),
        Answer('{"created": "31 February", "choices": [{"index": "x", "message": null}]}'),
        Answer('{"created": 1e999, "choices": [{"message": {"content": {"a": 1}}}], "usage": {"prompt_tokens": 1e99}}'),
        Answer("[" * 200_000, 400),
        Answer('{"error": ' + "[" * 500 + "]" * 500 + "}", 400),
        Answer('{"error": {"message": ' + '{"a":' * 900 + "1" + "}" * 900 + "}}", 200),
        Answer("\x00\x01", 200),
        Answer('{"choices": [{"message": {"content": "' + "\\ud800" * 9 + '"}}]}'),
        Answer("", 204),
        Answer("", 304),
        Answer("gone", 302, {"location": "http://127.0.0.1:9/nowhere"}),
        Answer("x", 200, {"content-encoding": "gzip"}),
        Answer('{"choices": [{"message": {"content": "x"}}]}', 200, {"content-type": "text/plain; charset=nonsense"}),
        Answer("data: {}\n\ndata: [DONE]\n\n", 200, {"content-type": "text/event-stream"}),
    ],
    ids=range(15),
)  # fmt: skip
def test_whatever_a_reply_holds_is_a_fault_of_the_reply(tmp_path: Path, answer: Answer) -> None:
    with serving(lambda body: answer if asked(body)["instruction"] == "ask 0" else good(body)) as server:
        config = configured(tmp_path, server.url, 3, max_retries=1)
        assert [row.prompt for row in build(config)] == ["ask 1", "ask 2"]
    assert rows_of(config)[0]["reason"]


def test_half_a_surrogate_pair_can_be_asked_about() -> None:
    with serving(lambda body: completion(body["messages"][0]["content"])) as server:
        asking = endpoint.Endpoint(EndpointConfig(model="m", base_url=server.url, api_key_env=None))
        [[(_, reply)]] = list(asking.ask([endpoint.Ask([{"role": "user", "content": "a \ud83d b"}], 9)]))
    assert reply.text == "a ? b"
