"""The places of what the charts draw. The template draws them as SVG.

Across, places are in percent, so that a chart fits every width and its letters keep their size.
Down, they are in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from selfevo.method.names import META, SFT, round_number
from selfevo.report.wording import cut, percent
from selfevo.rundir.results import Mode, ModelResults

TOP, PLOT_HEIGHT = 16, 250
LEFT = 8.0  # percent, for the numbers of the axis
MANY = 7  # models; with more, or with long names, these are slanted and the numbers are in the table only
LONGEST_NAME, MOST_NAMES = 10, 18
MODES: tuple[Mode, ...] = ("direct", "refined")


@dataclass(frozen=True, slots=True)
class Point:
    """One accuracy with its interval. `low` and `high` are the ends of its whisker."""

    y: float
    low: float
    high: float
    value: str
    hint: str


@dataclass(slots=True)
class Column:
    """One model. `points` by mode; none where no problem was measured."""

    x: float
    name: str
    points: dict[str, Point] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chart:
    """`links` connects meta and the rounds: x and y of both ends. `reference` is the height of sft.

    `offset` is the distance, in pixels, of a direct point to the left of its column and of a
    refined one to its right.
    """

    height: float
    left: float
    bottom: float
    offset: int
    crowded: bool
    names_every: int
    ticks: list[tuple[float, str]]
    columns: list[Column]
    links: dict[str, list[tuple[float, float, float, float]]]
    reference: float | None
    description: str


def draw(models: Sequence[ModelResults]) -> Chart | None:
    """The chart of direct and refined accuracies. A model without problems has no point; None if none has."""
    bottom, crowded = TOP + PLOT_HEIGHT, len(models) > MANY or any(len(model.name) > 8 for model in models)
    # The axis starts at 0, so that heights compare. It ends at the first fifth above all intervals,
    # to use the height.
    rates = [rate for model in models for mode in MODES if (rate := model.rate(mode)) and rate.n]
    if not rates:
        return None
    highest = max(rate.ci[1] for rate in rates)
    top = next(fifth / 5 for fifth in range(1, 6) if fifth == 5 or highest <= fifth / 5)

    def height(share: float) -> float:
        return round(bottom - share / top * PLOT_HEIGHT, 1)

    columns: list[Column] = []
    for i, model in enumerate(models):
        column = Column(round(LEFT + (100 - LEFT) * (i + 0.5) / len(models), 2), cut(model.name, LONGEST_NAME))
        for mode in MODES:
            rate = model.rate(mode)
            if rate is not None and rate.accuracy is not None:
                accuracy, (low, high) = rate.accuracy, rate.ci
                hint = f"{model.name}, {mode}: {percent(accuracy)}, 95 % interval {percent(low)} to {percent(high)}"
                column.points[mode] = Point(height(accuracy), height(low), height(high), f"{100 * accuracy:.1f}", hint)
        columns.append(column)
    learning = [c for c, model in zip(columns, models, strict=True) if model.name == META or round_number(model.name)]
    links: dict[str, list[tuple[float, float, float, float]]] = {}
    for mode in MODES:
        path = [(column.x, column.points[mode].y) for column in learning if mode in column.points]
        links[mode] = [(*start, *end) for start, end in pairwise(path)]
    sft = next((model.direct.accuracy for model in models if model.name == SFT), None)
    return Chart(
        height=bottom + (70 if crowded else 24),
        left=LEFT,
        bottom=bottom,
        offset=4 if crowded else 8,
        crowded=crowded,
        names_every=math.ceil(len(models) / MOST_NAMES),
        ticks=[(height(top * i / 4), f"{100 * top * i / 4:.0f}") for i in range(5)],
        columns=columns,
        links=links,
        reference=None if sft is None else height(sft),
        description="; ".join(
            column.points[mode].hint for mode in MODES for column in columns if mode in column.points
        ),
    )
