"""The curves of a training: every step between its least and greatest value, from the first step to the last."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.report.curves import HEIGHT, PLACES, WIDTH, draw


def rows(*losses: float, **more: float) -> list[dict[str, Any]]:
    return [{"step": step, "loss": loss, **more} for step, loss in enumerate(losses, 1)]


def places(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (each.split(",") for each in line.split())]


def test_a_curve_runs_from_the_first_step_to_the_last_and_from_0_to_the_greatest_value() -> None:
    training = draw("meta", rows(2.0, 1.0, 0.5, grad_norm=1.5, learning_rate=1e-4))
    assert training is not None and (training.name, training.steps) == ("meta", 3)
    loss, rate, norm = training.panels
    assert (loss.name, loss.range) == ("loss", "0 to 2")
    assert [places(line) for line in loss.line] == [[(0, 0), (WIDTH / 2, HEIGHT / 2), (WIDTH, HEIGHT * 0.75)]]
    assert [(each.name, each.range) for each in (rate, norm)] == [
        ("learning rate", "0 to 0.0001"),
        ("gradient norm", "0 to 1.5"),
    ]
    assert loss.description == "loss of meta: 2 at step 1, 0.5 at step 3"


def test_held_out_loss_shares_the_panel_of_the_loss() -> None:
    training = draw("meta", [*rows(2.0, 1.0), {"step": 2, "eval_loss": 4.0}])
    assert training is not None and training.held_out == "4"
    [loss] = training.panels
    assert loss.range == "0 to 4"
    assert [places(line) for line in loss.held_out] == [[(WIDTH, 0), (WIDTH, 0)]]


def test_a_step_that_a_resume_repeats_counts_once() -> None:
    training = draw("meta", [*rows(9.0, 8.0, 7.0), {"step": 2, "loss": 1.0}, {"step": 3, "loss": 2.0}])
    assert training is not None
    [line] = training.panels[0].line
    assert [y for _, y in places(line)] == pytest.approx([0, HEIGHT * 8 / 9, HEIGHT * 7 / 9], abs=0.1)


def test_a_value_that_is_no_number_breaks_the_line() -> None:
    training = draw("meta", rows(2.0, 1.0, math.nan, 1.0, math.inf, 1.0))
    assert training is not None
    assert [len(places(line)) for line in training.panels[0].line] == [2, 2, 2], "a point alone is drawn as a dot"
    assert training.panels[0].range == "0 to 2"


def test_a_training_without_any_number_says_so() -> None:
    training = draw("meta", rows(math.nan, math.inf))
    assert training is not None and training.panels[0].range == "no finite value"
    assert training.panels[0].line == []


@pytest.mark.parametrize("content", [[], [{"step": 1}], [{"loss": 1.0}], [{"step": "1", "loss": True}]])
def test_no_loss_no_curve(content: list[dict[str, Any]]) -> None:
    assert draw("meta", content) is None


def test_a_long_training_keeps_its_spike() -> None:
    training = draw("meta", rows(*(90.0 if step == 7777 else 1.0 for step in range(20_000))))
    assert training is not None
    [line] = training.panels[0].line
    assert len(places(line)) <= 2 * PLACES + 2
    assert min(y for _, y in places(line)) == 0


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=700))
def test_any_numbers_can_be_drawn(losses: list[float]) -> None:
    training = draw("meta", rows(*losses))
    assert training is not None
    for line in training.panels[0].line:
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(line))


STRANGE = st.one_of(st.none(), st.booleans(), st.text(), st.floats(), st.integers(-(10**400), 10**400))


@given(st.lists(st.fixed_dictionaries({"step": STRANGE, "loss": STRANGE, "eval_loss": STRANGE, "grad_norm": STRANGE})))
def test_any_rows_can_be_drawn(content: list[dict[str, Any]]) -> None:
    training = draw("meta", content)
    for panel in training.panels if training else []:
        for line in panel.line + panel.held_out:
            assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(line))


def test_a_loss_before_the_first_step_is_drawn() -> None:
    training = draw("meta", [{"step": 0, "eval_loss": 3.0}, *rows(2.0, 1.0)])
    assert training is not None
    assert [places(line) for line in training.panels[0].held_out] == [[(0, 0), (0, 0)]]
