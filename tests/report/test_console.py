"""The tables of a run on a terminal: everything that results.json holds or gives."""

from __future__ import annotations

import io

from rich.console import Console

from run_directory import model, results, watched
from selfevo.report.console import print_extractors, print_results
from selfevo.rundir.results import Extractors, GateResults, GateRound, ModelComparison, Results


def printed(found: Results) -> str:
    """One space between any two words, and no lines of tables."""
    console = Console(file=io.StringIO(), width=200)
    print_results(console, found)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().replace("│", " ").split())


def test_models_rounds_groups_and_tests_are_printed() -> None:
    kinds = {"kind": {"sums": "1" * 100 + "0" * 200, "words": "0" * 100 + "1" * 200}}
    found = results(model("sft", 166), model("round-1", 210, gained=9, lost=2), rounds=[watched("round-1")])
    shown = printed(found.model_copy(update={"groups": kinds}))
    assert "demo, seed 7, policy restart" in shown
    assert "round-1 70.0 % 64.6–74.9 72.3 % 67.0–77.1 9 2 87.5 % 100.0 % 4 5 of 11 75 s" in shown
    assert "direct accuracy by kind of problem" in shown and "round-1 100.0 % 55.0 %" in shown
    assert "round-1 11 5 4 2 33.3 % 66.7 % 80.0 % 66.7 %" in shown
    assert (
        "round-1 against sft, direct: +14.7 points (10.5–18.7), 44 gained, 0 lost, McNemar exact p = 1.1e-13" in shown
    )
    assert "gate" not in shown and "stopped" not in shown


def test_the_gate_and_why_a_run_stopped_are_printed() -> None:
    compared = ModelComparison.of("round-1", [1.0, 1.0, 0.0], "meta", [1.0, 0.0, 0.0], "direct")
    gate = GateResults(
        alpha=0.05, patience=1, best="meta", rounds=(GateRound(**compared.model_dump(), promoted=False),)
    )
    found = results(model("meta", 160), rounds=[watched("round-1").model_copy(update={"audit": None})])
    shown = printed(found.model_copy(update={"gate": gate, "stopped": "no gain"}))
    assert "gate, round-1 against meta, direct: +33.3 points" in shown and "p = 1: not promoted" in shown
    assert shown.endswith("gate: the best model is meta stopped: no gain")


def test_ways_to_read_numbers_are_compared() -> None:
    console = Console(file=io.StringIO(), width=200)
    read = Extractors(agree=270, declared=240, strict=150, flexible=165)
    print_extractors(console, model("m", 180).model_copy(update={"extractors": read}))
    print_extractors(console, model("m", 180))
    assert isinstance(console.file, io.StringIO)
    first, second = console.file.getvalue().splitlines()
    assert "agree in 90.0 %; declared 80.0 %; accuracy strict 50.0 %, flexible 55.0 %, ours 60.0 %" in first
    assert second.startswith("the answers of this task are not numbers")
