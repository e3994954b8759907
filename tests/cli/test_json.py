"""With --json there is one JSON document on standard output, of the type that the docs state, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Selfevo, configuration
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.report.documents import ResultsDocument, RunsDocument, ShowDocument, VerifyDocument, print_document
from selfevo.rundir.results import Results, load_results
from selfevo.rundir.scores import Stored


def document(kind: type[Stored], out: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(out, parse_constant=refuse)
    return kind.model_validate(found)


def test_report_and_eval(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    selfevo("run", configuration(tmp_path))
    code, out, err = selfevo("report", "out", "--json")
    assert (code, err) == (0, "")
    found = document(ResultsDocument, out)
    assert found.results == load_results(tmp_path / "out")
    assert found.accuracies["round-2"]["refined"].n == 5
    assert [(test.a, test.b) for test in found.comparisons] == [(test.a, test.b) for test in found.results.comparisons]
    assert (tmp_path / "out/report.html").is_file()

    code, out, err = selfevo("eval", "base", "--task", "add-to-each", "--count", "5", "--json")
    assert code == 0
    assert document(ResultsDocument, out).accuracies["base"]["direct"].n == 5
    assert "evaluate respond" in err, "progress is shown on standard error"
    code, out, err = selfevo("eval", "base", "--task", "add-to-each", "--count", "5", "--json", "--quiet")
    assert (code, err) == (0, "")
    document(ResultsDocument, out)


def test_runs_show_and_verify(selfevo: Selfevo, copy: RunConfig, tmp_path: Path) -> None:
    code, out, err = selfevo("runs", tmp_path, "--json")
    assert (code, err) == (0, "")
    [run] = document(RunsDocument, out).runs
    assert (run.root, run.status, run.last) == (str(copy.output), "finished", "round-3")

    code, out, err = selfevo("show", copy.output, "--json")
    assert (code, err) == (0, "")
    shown = document(ShowDocument, out)
    assert shown.run == run
    assert all(stage.rows == stage.out + sum(stage.lost.values()) for stage in shown.stages)

    code, out, err = selfevo("verify", copy.output, "--json")
    assert (code, err) == (0, "")
    assert document(VerifyDocument, out).faults == ()

    (copy.output / "stages/round-1/judge.jsonl").write_text("{}\n")
    code, out, err = selfevo("verify", copy.output, "--json")
    assert code == 3
    assert err.startswith("selfevo: ") and err.count("\n") == 1
    assert len(document(VerifyDocument, out).faults) == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("runs", "absent"), 2),
        (("show", "absent"), 3),
        (("verify", "absent"), 3),
        (("report", "absent"), 3),
        (("eval", "absent", "--task", "demo"), 2),
        (("eval", "absent"), 2),
        (("doctor", "absent.yaml"), 2),
    ],
)
def test_an_error_leaves_standard_output_empty(command: tuple[str, ...], code: int, selfevo: Selfevo) -> None:
    found, out, err = selfevo(*command, "--json")
    assert (found, out) == (code, "")
    assert err.startswith("selfevo: ") and err.count("\n") == 1


def test_a_run_without_results_yet_has_no_document(selfevo: Selfevo, copy: RunConfig) -> None:
    (copy.output / "results.json").unlink()
    code, out, err = selfevo("report", copy.output, "--json")
    assert (code, out) == (3, "")
    assert "results.json cannot be read" in err


def test_what_a_terminal_obeys_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "\x1b[31m\x9b\u202e\ud800é\n"
    print_document(ResultsDocument.of(Results(task=odd, seed=0, policy=None, seconds=float("nan"))))
    out = capsys.readouterr().out
    found = json.loads(out)["results"]
    assert found["task"] == odd
    assert found["seconds"] is None
    assert not set(out) & set("\x1b\x9b\u202e\ud800") and "é" in out
