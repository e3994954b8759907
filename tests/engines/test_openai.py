"""A model behind a server answers like any other; what the server fails at is no answer of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_none

from selfevo.cli import app as cli
from selfevo.config.sections import EndpointConfig
from selfevo.engines.openai import OpenAIEngine
from selfevo.errors import ALARMS, EngineError
from selfevo.method.protocols import Engine, Generation, Request, Sampling, stream
from selfevo.models import endpoint
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.results import load_results
from selfevo.tasks.steps import StepsTask
from server import Answer, Server, completion, error, serving


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF", wait_none())


def test_each_conversation_gets_its_answer(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        last = body["messages"][-1]["content"]
        if last == "fail":
            return error(400, "too long")
        return completion(f" to {last} ", finish="length" if last == "long" else "stop")

    with serving(answer) as server:
        engine: Engine = OpenAIEngine(EndpointConfig(model="m", base_url=server.url, api_key_env=None))
        requests = [
            Request(("a",), 2**63),
            Request(("a", "b", "c"), 1, system="Be brief."),
            Request(("long",), 2),
            Request(("fail",), 3),
        ]
        got = engine.generate(tmp_path, requests, Sampling(7, temperature=0.5, top_p=0.9))
    assert got == [
        Generation("to a", "stop", 10, 5),
        Generation("to c", "stop", 10, 5),
        Generation("to long", "length", 10, 5),
        Generation("", "failed", 0, 0),
    ]
    second = next(call for call in server.calls if len(call["messages"]) == 4)
    assert [m["role"] for m in second["messages"]] == ["system", "user", "assistant", "user"]
    assert (second["max_tokens"], second["temperature"], second["top_p"], second["seed"]) == (7, 0.5, 0.9, 1)


def test_a_served_model_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = {p.prompt.prompt: p for p in StepsTask("add-to-each", ("add-to-each",)).problems(10, 1, frozenset())}

    def answer(body: dict[str, Any]) -> Answer:
        turns = body["messages"]
        right = problems[turns[0]["content"]].answer
        return completion(right if len(turns) == 1 else "Fine.\nVerdict: qualified")

    with serving(answer) as server:
        command = ["selfevo", "eval", "some-name", "--task", "add-to-each", "--count", "10"]
        monkeypatch.setattr("sys.argv", [*command, "--base-url", server.url, "--output", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
    assert load_results(tmp_path / "out").models[0].direct.accuracy == 1.0
    assert "some-name" in capsys.readouterr().out


# --- what a server fails at -------------------------------------------------------------------------------------------

Ended = tuple[int, str, str]


@pytest.fixture
def measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """`selfevo eval` of 40 problems. Returns its exit code, standard output and standard error."""

    def command(server: Server, count: int = 40, *further: str, output: Path | None = tmp_path / "out") -> Ended:
        arguments = ["eval", "some-name", "--task", "add-to-each", "--count", str(count), "--base-url", server.url]
        where = ["--output", str(output)] if output else []
        monkeypatch.setattr("sys.argv", ["selfevo", *arguments, *where, *further])
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return command


def answers_to(count: int = 40) -> dict[str, str]:
    problems = StepsTask("add-to-each", ("add-to-each",)).problems(count, 1, frozenset())
    return {problem.prompt.prompt: problem.answer for problem in problems}


def right(body: dict[str, Any], count: int = 40) -> Answer:
    answers, turns = answers_to(count), body["messages"]
    return completion(answers[turns[0]["content"]] if len(turns) == 1 else "Fine.\nVerdict: qualified")


def prompt_of(body: dict[str, Any]) -> str:
    content: str = body["messages"][0]["content"]
    return content


@pytest.mark.parametrize(
    "fault",
    [
        error(500, "GPU on fire"),
        error(429, "GPU on fire"),
        Answer('{"error": {"message": "GPU on fire", "code": 502}}'),
    ],
)
def test_what_a_server_fails_at_is_no_wrong_answer(
    tmp_path: Path, measure: Callable[..., Ended], fault: Answer
) -> None:
    """It is said, by the exit code too, and a second call asks for it again and for nothing else."""
    failing, down = set(list(answers_to())[::3][:12]), [True]

    def answer(body: dict[str, Any]) -> Answer:
        return fault if down[0] and prompt_of(body) in failing else right(body)

    with serving(answer) as server:
        code, _, said = measure(server)
        assert code == 4
        assert "failed at 12 of 40 requests" in said and "GPU on fire" in said
        assert "they are owed; run the same command again: what was answered is kept" in " ".join(said.split())
        assert not (tmp_path / "out/results.json").exists()
        down[0] = False
        before = len(server.calls)
        code, out, _ = measure(server)
        assert code == 0 and "100.0 %" in out
        responds = [call for call in server.calls[before:] if len(call["messages"]) == 1]
        assert {prompt_of(call) for call in responds} == failing and len(responds) == 12


def test_a_server_that_dies_after_30_of_60_answers_loses_none_of_the_30(
    tmp_path: Path, measure: Callable[..., Ended]
) -> None:
    lasts = [30]

    def answer(body: dict[str, Any]) -> Answer:
        return right(body, 60) if len(server.calls) <= lasts[0] else error(503, "down")

    with serving(answer) as server:
        code, _, said = measure(server, 60)
        assert code == 4 and "keeps failing" in said
        assert len(list(read_rows(tmp_path / "out/stages/evaluate/respond.partial.jsonl"))) == 30
        lasts[0] = 10**6
        before = len(server.calls)
        assert measure(server, 60)[0] == 0
        assert sum(len(call["messages"]) == 1 for call in server.calls[before:]) == 30


def test_what_a_server_refuses_is_a_failed_answer_and_said(
    tmp_path: Path, measure: Callable[..., Ended], caplog: pytest.LogCaptureFixture
) -> None:
    refused = list(answers_to())[:10]

    def answer(body: dict[str, Any]) -> Answer:
        return error(400, "content policy") if prompt_of(body) in refused else right(body)

    with serving(answer) as server:
        assert measure(server)[0] == 0
    assert "refused 10 of 40 requests (HTTP 400: content policy); each counts as a failed answer" in caplog.text
    assert load_results(tmp_path / "out").models[0].direct.accuracy == 0.75


def test_an_empty_answer_is_an_answer_and_asked_for_once(tmp_path: Path, measure: Callable[..., Ended]) -> None:
    with serving(lambda body: completion("")) as server:
        assert measure(server, 8)[0] == ALARMS  # no answer is whole, so none counts
    assert len(server.calls) == 8
    rows = list(read_rows(tmp_path / "out/stages/evaluate/respond.jsonl"))
    assert [row["reason"] for row in rows] == ["empty"] * 8


def test_without_output_nothing_is_said_to_be_kept(measure: Callable[..., Ended]) -> None:
    with serving(lambda body: error(500, "x") if len(server.calls) % 2 else right(body, 8)) as server:
        code, _, said = measure(server, 8, output=None)
    assert code in (0, 4)
    assert "kept" not in said


def test_a_greedy_call_names_no_seed_and_no_top_p() -> None:
    """They decide nothing there, and some servers refuse them."""
    with serving(lambda body: completion("a")) as server:
        engine = OpenAIEngine(EndpointConfig(model="m", base_url=server.url, api_key_env=None))
        engine.generate(Path("m"), [Request(("a",), 1)], Sampling(7))
    assert "seed" not in server.calls[0] and "top_p" not in server.calls[0]
    assert server.calls[0]["temperature"] == 0


def test_slices_come_as_they_are_done_and_many_calls_are_made_at_once() -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return replace(completion(prompt_of(body)), delay=0.6 if prompt_of(body) == "0 0" else 0.05)

    with serving(answer) as server:
        engine = OpenAIEngine(EndpointConfig(model="m", base_url=server.url, api_key_env=None, max_concurrency=4))
        slices = [[Request((f"{i} {j}",), 0) for j in range(2)] for i in range(5)]
        come = list(stream(engine, Path("m"), slices, Sampling(7)))
    assert server.most_at_once == 4
    assert [place for place, _ in come][-1] == 0
    assert {place: [g.text for g in several] for place, several in come} == {i: [f"{i} 0", f"{i} 1"] for i in range(5)}


def test_a_slice_with_a_failure_is_owed_and_the_others_count() -> None:
    with serving(lambda body: error(500, "x") if prompt_of(body) == "1 0" else completion("a")) as server:
        config = EndpointConfig(model="m", base_url=server.url, api_key_env=None, max_retries=1)
        slices = [[Request((f"{i} {j}",), 0) for j in range(2)] for i in range(5)]
        come = []
        with pytest.raises(EngineError, match=r"failed at 1 of 10 requests \(HTTP 500: x\); they are owed"):
            for place, _ in stream(OpenAIEngine(config), Path("m"), slices, Sampling(7)):
                come.append(place)
    assert sorted(come) == [0, 2, 3, 4]
