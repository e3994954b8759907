"""How the report writes figures."""

from __future__ import annotations

import math

from selfevo.report.wording import duration, number, p_value, percent, points


def test_figures_as_words() -> None:
    assert [percent(0.5), percent(None)] == ["50.0\u00a0%", "\u2013"]
    assert [points(0.257), points(-0.01), points(0.0)] == ["+25.7", "\u22121.0", "+0.0"]
    assert [number(51234), number(0.1254, 3), number(math.nan), number(None)] == [
        "51\u202f234",
        "0.125",
        "\u2013",
        "\u2013",
    ]
    assert [duration(42), duration(59.7), duration(125), duration(7260), duration(None)] == [
        "42\u00a0s",
        "1\u00a0min 00\u00a0s",
        "2\u00a0min 05\u00a0s",
        "2\u00a0h 01\u00a0min",
        "\u2013",
    ]
    assert [p_value(0.0004), p_value(0.0215)] == ["<\u00a00.001", "0.021"]
