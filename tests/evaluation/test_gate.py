"""The gate promotes what is significantly better, keeps the best, and stops when nothing is."""

from __future__ import annotations

import pytest

from selfevo.config.sources import GateConfig, PromptsGate, TaskGate
from selfevo.config.task import TaskConfig
from selfevo.evaluation.gate import Gate

TASK = TaskConfig(name="demo")


def scores(right: int, n: int = 100) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def play(config: GateConfig, *rights: int) -> tuple[Gate, list[bool]]:
    gate = Gate(config)
    return gate, [gate.admit(f"round-{t}" if t else "meta", scores(right)) for t, right in enumerate(rights)]


def test_the_first_model_is_the_one_to_beat() -> None:
    gate, going = play(TaskGate(task=TASK), 50)
    assert (gate.best, going, gate.history, gate.stopped) == ("meta", [True], [], "")


def test_rounds_without_a_significant_gain_stop_the_run_and_the_best_is_kept() -> None:
    """50 -> 70 is 20 gained and none lost, p = 2^-19; 70 -> 73 is 3 and none, p = 1/4."""
    gate, going = play(TaskGate(task=TASK), 50, 70, 73)
    assert going == [True, True, False]
    assert gate.best == "round-1"
    assert [entry.promoted for entry in gate.history] == [True, False]
    assert gate.history[1].p_value == pytest.approx(0.25)
    assert gate.history[1].a == "round-2"
    assert gate.history[1].b == "round-1"
    assert gate.stopped == (
        "round-2 is not significantly better than round-1 on 100 problems of the gate (+3.0 points, -1.3 to +7.2, "
        "p = 0.25); 1 in a row, and round-1 is the best model"
    )


def test_a_significant_loss_is_no_gain() -> None:
    gate, going = play(TaskGate(task=TASK), 70, 40)
    assert (going, gate.best) == ([True, False], "meta")
    assert gate.stopped.startswith("round-1 is significantly worse than meta on 100 problems of the gate (-30.0 points")


def test_patience_waits_and_a_gain_starts_it_anew() -> None:
    config = TaskGate(task=TASK, patience=2)
    gate, going = play(config, 50, 51, 70, 71, 72)
    assert going == [True, True, True, True, False]
    assert gate.best == "round-2"
    # Each round is held against the best and not against the one before: small steps add up.
    gate, going = play(config, 50, 54, 58)
    assert (going, gate.best) == ([True, True, True], "round-2")


def test_a_stricter_level_asks_for_more() -> None:
    assert play(TaskGate(task=TASK, alpha=0.01), 50, 57)[0].best == "meta"  # 2^-6
    assert play(TaskGate(task=TASK, alpha=0.05), 50, 57)[0].best == "round-1"


def test_scores_between_right_and_wrong_are_tested_too() -> None:
    gate = Gate(PromptsGate(prompts="p.jsonl", patience=2))
    low, high = [0.2, 0.4, 0.5] * 10, [0.4, 0.6, 0.6] * 10
    assert gate.admit("meta", low)
    assert gate.admit("round-1", high)
    assert gate.best == "round-1"
    assert gate.admit("round-2", high[::-1])
    assert gate.history[-1].mode == "agreement"
    assert gate.history[-1].p_value == 1.0
    assert not gate.admit("round-3", low)
