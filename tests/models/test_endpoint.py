"""An endpoint keeps to its budget, keeps its key to itself, and waits as it is told to."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_fixed, wait_none

from annotator import CANARY, annotation, asked, build, configured, engine, good, rows_of
from runs import tree
from selfevo.cli import app as cli
from selfevo.config.sections import EndpointConfig
from selfevo.errors import BudgetError, ConfigError, RunError
from selfevo.models import endpoint
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
