"""What servers answer an annotator, played against a run: which reply counts, is asked again, or ends the run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_none

from annotator import CANARY, build, configured, engine, good, rows_of
from selfevo.cli import app as cli
from selfevo.errors import BudgetError, ConfigError, DataError, EngineError, SelfevoError
from selfevo.models import endpoint
from selfevo.rundir.ledger import Ledger
from server import Answer, Server, serving

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "cases" / "annotator_replies.jsonl").open(encoding="utf-8")
]


@pytest.fixture(autouse=True)
def _key_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_API_KEY", CANARY)
    monkeypatch.setattr(endpoint, "BACKOFF", wait_none())


def of(expect: str) -> pytest.MarkDecorator:
    cases = [case for case in CASES if case["expect"] == expect]
    assert cases
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def answer(case: dict[str, Any]) -> Answer:
    return Answer(json.dumps(case["reply"]["body"]), case["reply"]["status"])


def refused(folder: Path, server: Server, kind: type[SelfevoError], **annotator: Any) -> str:
    """Builds D_meta of one response, which fails. Returns what is said."""
    with pytest.raises(kind) as caught:
        build(configured(folder, server.url, 1, **annotator))
    return str(caught.value)


@of("row")
def test_the_annotation_counts(tmp_path: Path, case: dict[str, Any]) -> None:
    with serving(lambda body: answer(case)) as server:
        (row,) = build(configured(tmp_path, server.url, 1))
    assert len(server.calls) == 1
    assert row.feedback.replace("\n", " ") == "6*7 is 42, not 41. Verdict: not qualified"
    assert row.refinement in ("It is 42.", "42")


@of("cut")
def test_a_reply_that_is_cut_off_is_one_call(tmp_path: Path, case: dict[str, Any]) -> None:
    with serving(lambda body: answer(case)) as server:
        assert "cut off at max_new_tokens" in refused(tmp_path, server, DataError)
    assert len(server.calls) == 1
    assert Ledger(tmp_path / "run", "d_meta/annotate").spent.tokens == 70


@of("refused")
def test_a_refusal_is_one_call_and_its_reason_is_kept(tmp_path: Path, case: dict[str, Any]) -> None:
    with serving(lambda body: answer(case)) as server:
        config = configured(tmp_path, server.url, 1)
        with pytest.raises(DataError, match="refused: content_filter"):
            build(config)
    assert len(server.calls) == 1
    (row,) = rows_of(config)
    assert row["status"] == "quarantined" and "content_filter" in row["reason"]


@of("retry")
def test_it_is_asked_again_and_if_it_stays_so_in_the_words_of_the_server(tmp_path: Path, case: dict[str, Any]) -> None:
    with serving(lambda body: answer(case) if len(server.calls) < 3 else good(body)) as server:
        assert len(build(configured(tmp_path, server.url, 1))) == 1
    assert len(server.calls) == 3
    other = tmp_path / "other"
    other.mkdir()
    with serving(lambda body: answer(case)) as server:
        said = refused(other, server, EngineError, max_retries=2)
    assert len(server.calls) == 3
    assert ("Provider returned error" in said) or ("the reply is empty but for thoughts: {" in said)


@of("account")
def test_an_account_that_cannot_pay_or_a_refused_key_ends_it_and_every_row_stays_owed(
    tmp_path: Path, case: dict[str, Any]
) -> None:
    answers = [answer(case)]
    with serving(lambda body: answers[0] if answers else good(body)) as server:
        config = configured(tmp_path, server.url, 30, max_concurrency=2)
        with pytest.raises(SelfevoError) as caught:
            build(config)
        key = "key" in case["name"]
        assert isinstance(caught.value, ConfigError if key else BudgetError)
        assert caught.value.exit_code == (2 if key else 6)
        assert case["reply"]["body"]["error"]["message"] in str(caught.value)
        assert len(server.calls) <= 2
        answers.clear()
        assert len(build(config)) == 30, "the same command goes on"


CHANGED: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": None},
    "max_new_tokens": {"limit_name": "max_completion_tokens"},
    "response_format": {"response_format": "text"},
}


def test_every_case_is_played() -> None:
    assert {case["expect"] for case in CASES} == {"row", "cut", "refused", "retry", "account", "setting"}


@pytest.mark.parametrize(
    "case",
    [
        *(answer(case) for case in CASES if case["expect"] == "setting"),
        Answer('{"error": {"message": "This model does not support json_schema", "param": null}}', 400),
    ],
)
def test_a_setting_that_is_not_taken_ends_it_and_changing_it_goes_on(tmp_path: Path, case: Answer) -> None:
    """Some rows are finished before: they are kept, and say what they were made with."""
    name = next(name for name in ("temperature", "json_schema", "max_tokens") if name in case.body)
    name = {"json_schema": "response_format", "max_tokens": "max_new_tokens"}.get(name, name)
    empty = Answer('{"error": {"message": "Insufficient credits"}}', 402)

    def reply(body: dict[str, Any]) -> Answer:
        if len(server.calls) <= 12:
            return empty if len(server.calls) > 10 else good(body)
        unchanged = body.get("temperature") == 0.7 and "response_format" in body and "max_tokens" in body
        return case if unchanged else good(body)

    settings: dict[str, Any] = {"temperature": 0.7, "max_concurrency": 2}
    with serving(reply) as server:
        first = configured(tmp_path, server.url, 30, **settings)
        with pytest.raises(BudgetError):
            build(first)
        assert len(server.calls) == 12
        with pytest.raises(ConfigError, match=rf"does not take {name}: HTTP 400: .*; .*{name}.* same command again"):
            build(first)
        refused = len(server.calls) - 12
        assert 1 <= refused <= 2
        assert len(build(configured(tmp_path, server.url, 30, **(settings | CHANGED[name])))) == 30
        assert len(server.calls) == 12 + refused + 20, "no finished row is asked again"
    made_with = [row["settings"] for row in rows_of(first)]
    old = {"response_format": "json_schema", "temperature": 0.7, "max_new_tokens": 2048}
    new = {**old, **{key: value for key, value in CHANGED[name].items() if key in old}}
    assert Counter(map(str, made_with)) == Counter([str(old)] * 10 + [str(new)] * 20)


def test_a_setting_that_was_taken_before_is_no_reason_to_stop(tmp_path: Path) -> None:
    """A gateway may hand one row to another server."""
    unsupported = Answer('{"error": {"message": "temperature is not supported"}}', 400)
    with serving(lambda body: unsupported if len(server.calls) == 3 else good(body)) as server:
        config = configured(tmp_path, server.url, 9, temperature=0.7, max_concurrency=1)
        assert len(build(config)) == 8
    assert [row["reason"] for row in rows_of(config) if row["reason"]] == [
        "no reply: HTTP 400: temperature is not supported"
    ]


def test_a_limit_that_was_too_small_for_all_is_mended_as_the_message_says(tmp_path: Path) -> None:
    (case,) = [case for case in CASES if case["expect"] == "cut"]
    with serving(lambda body: answer(case) if body["max_tokens"] < 500 else good(body)) as server:
        said = refused(tmp_path, server, DataError, max_new_tokens=400)
        folder = tmp_path / "run/stages/d_meta"
        assert f"delete {folder} to have them asked again with other settings" in said
        for path in folder.iterdir():
            path.unlink()
        assert len(build(configured(tmp_path, server.url, 1, max_new_tokens=600))) == 1


def test_the_command_ends_in_one_line_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda body: Answer('{"error": {"message": "Insufficient credits"}}', 402)) as server:
        config = configured(tmp_path, server.url, 1)
        (tmp_path / "run.yaml").write_text(json.dumps(config.model_dump(mode="json")))
        monkeypatch.setattr("selfevo.pipeline.run.build_engine", lambda *_: engine())
        monkeypatch.setattr("sys.argv", ["selfevo", "annotate", str(tmp_path / "run.yaml")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 6
    assert "selfevo: http://127.0.0.1" in (said := capsys.readouterr().err)
    assert "Insufficient credits; pay, then run the same command again" in said
