"""The curves of every training: loss, learning rate and gradient norm of each step, as places in a drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfevo.report.wording import three_digits

WIDTH, HEIGHT = 300, 60  # of a drawing, in its own units
PLACES = 150  # across; where more steps share a place, it shows their least and their greatest value
CURVES = {"loss": "loss", "learning_rate": "learning rate", "grad_norm": "gradient norm"}
HELD_OUT = "eval_loss"


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure over the steps. `line` and `held_out` are points as SVG writes them."""

    name: str
    range: str
    line: list[str]
    held_out: list[str]
    description: str


@dataclass(frozen=True, slots=True)
class Training:
    """The panels of one training."""

    name: str
    steps: int
    panels: list[Panel]
    held_out: str


def draw(name: str, rows: Sequence[Mapping[str, Any]]) -> Training | None:
    """The curves from the rows of a training's log. None if no row holds a loss."""
    found = {key: _values(rows, key) for key in (*CURVES, HELD_OUT)}
    if not found["loss"]:
        return None
    steps = [step for values in found.values() for step, _ in values]
    ends = (min(1.0, *steps), max(steps))
    panels = [
        _panel(name, key, found[key], found[HELD_OUT] if key == "loss" else [], ends) for key in CURVES if found[key]
    ]
    return Training(name, int(ends[1]), panels, three_digits(found[HELD_OUT][-1][1]) if found[HELD_OUT] else "")


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Step and value of each row that has both. The last row of a step counts: a resume repeats some."""
    found: dict[float, float] = {}
    for row in rows:
        step, value = (_number(row.get(each)) for each in ("step", key))
        if step is not None and math.isfinite(step) and value is not None:
            found[step] = value
    return sorted(found.items())


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _panel(
    training: str,
    key: str,
    values: list[tuple[float, float]],
    held_out: list[tuple[float, float]],
    steps: tuple[float, float],
) -> Panel:
    shown = [value for _, value in (*values, *held_out) if math.isfinite(value)]
    first, last = steps
    low, high = min((0.0, *shown)), max(shown, default=0.0)
    span = high / 2 - low / 2 or 1.0  # half of it, which cannot overflow

    def points(series: list[tuple[float, float]]) -> list[str]:
        """One text for each unbroken line: a value that is no number breaks it."""
        lines: list[list[str]] = [[]]
        for step, value in _thinned(series, steps):
            if math.isfinite(value):
                across = WIDTH * ((step - first) / (last - first or 1.0))
                lines[-1].append(f"{across:.1f},{HEIGHT - HEIGHT * ((value / 2 - low / 2) / span):.1f}")
            elif lines[-1]:
                lines.append([])
        return [" ".join(line if len(line) > 1 else line * 2) for line in lines if line]

    label = CURVES[key]
    ends = ", ".join(f"{three_digits(value)} at step {step:.0f}" for step, value in (values[0], values[-1]))
    extent = f"{three_digits(low)} to {three_digits(high)}" if shown else "no finite value"
    return Panel(label, extent, points(values), points(held_out), f"{label} of {training}: {ends}")


def _thinned(series: list[tuple[float, float]], steps: tuple[float, float]) -> list[tuple[float, float]]:
    """At most two values for each of PLACES places, the least and the greatest, in order of step."""
    if len(series) <= 2 * PLACES:
        return series
    places: dict[int, list[tuple[float, float]]] = {}
    for step, value in series:
        places.setdefault(int(PLACES * ((step - steps[0]) / (steps[1] - steps[0]))), []).append((step, value))
    thin = []
    for each in places.values():
        finite = [pair for pair in each if math.isfinite(pair[1])]
        odd = [pair for pair in each if not math.isfinite(pair[1])][:1]
        ends = {min(finite, key=lambda pair: pair[1]), max(finite, key=lambda pair: pair[1])} if finite else set()
        thin += sorted([*ends, *odd])
    return thin
