"""A model behind a server answers like any other; what the server fails at is a row with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_none

from selfevo.cli import app as cli
from selfevo.config.sections import EndpointConfig
from selfevo.engines.openai import OpenAIEngine
from selfevo.method.protocols import Engine, Generation, Request, Sampling
from selfevo.models import endpoint
from selfevo.rundir.results import load_results
from selfevo.tasks.steps import StepsTask
from server import Answer, completion, error, serving


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
