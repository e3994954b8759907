"""Coordinates of the accuracy chart, in viewBox units. The template draws it as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfevo.method.names import META, SFT, round_number
from selfevo.report.wording import percent
from selfevo.rundir.results import Mode, ModelResults

LEFT, TOP, PLOT_HEIGHT, BELOW = 52, 14, 250, 58
MODES: tuple[Mode, ...] = ("direct", "refined")


@dataclass(frozen=True, slots=True)
class Point:
    """One accuracy with its interval. `low` and `high` are the ends of its whisker."""

    x: float
    y: float
    low: float
    high: float
    value: str
    hint: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`lines` connects meta and the rounds. `reference` is the height of sft."""

    width: float
    height: float
    left: float
    bottom: float
    ticks: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    series: dict[str, list[Point]]
    lines: dict[str, str]
    reference: float | None
    labelled: bool
    description: str


def draw(models: Sequence[ModelResults]) -> Chart:
    """The chart of direct and refined accuracies. A model without problems has no point."""
    step = max(92, 460 / len(models))
    bottom = TOP + PLOT_HEIGHT
    # The axis starts at 0, so that heights compare. It ends at the first fifth above all intervals,
    # to use the height.
    rates = {mode: [model.rate(mode) for model in models] for mode in MODES}
    highest = max((rate.ci[1] for each in rates.values() for rate in each if rate and rate.n), default=1.0)
    top = next(fifth / 5 for fifth in range(1, 6) if fifth == 5 or highest <= fifth / 5)

    def height(share: float) -> float:
        return round(bottom - share / top * PLOT_HEIGHT, 1)

    columns = [(round(LEFT + step * (i + 0.5), 1), model.name) for i, model in enumerate(models)]
    series: dict[str, list[Point]] = {}
    lines: dict[str, str] = {}
    for mode, offset in zip(MODES, (-8, 8), strict=True):
        series[mode], path = [], []
        for (x, name), rate in zip(columns, rates[mode], strict=True):
            if rate is None or rate.accuracy is None:
                continue
            accuracy, (low, high) = rate.accuracy, rate.ci
            hint = f"{name}, {mode}: {percent(accuracy)}, 95 % interval {percent(low)} to {percent(high)}"
            point = Point(x + offset, height(accuracy), height(low), height(high), f"{100 * accuracy:.1f}", hint)
            series[mode].append(point)
            if name == META or round_number(name):
                path.append(f"{point.x},{point.y}")
        lines[mode] = " ".join(path)
    sft = next((model.direct.accuracy for model in models if model.name == SFT), None)
    return Chart(
        width=LEFT + step * len(models) + 8,
        height=bottom + BELOW,
        left=LEFT,
        bottom=bottom,
        ticks=[(height(top * i / 4), f"{100 * top * i / 4:.0f}") for i in range(5)],
        columns=columns,
        series=series,
        lines=lines,
        reference=None if sft is None else height(sft),
        labelled=len(models) <= 10,
        description="; ".join(point.hint for points in series.values() for point in points),
    )
