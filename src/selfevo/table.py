"""The table a run prints, from results.json."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(console: Console, results: dict[str, Any]) -> None:
    table = Table(title=f"{results['task']}, seed {results['seed']}, policy {results['policy']}", title_justify="left")
    for name in ("stage", "direct", "95 % interval", "refined", "95 % interval", "w→r", "r→w"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for name in ("verdict precision", "recall", "unparsed", "rows kept", "time"):
        table.add_column(name, justify="right")
    for stage in results["stages"]:
        verdict, transitions, rows = stage["verdict"], stage["transitions"], stage["rows"]
        table.add_row(
            stage["name"],
            percent(stage["direct"]["accuracy"]),
            interval(stage["direct"]["ci"]),
            percent(stage["refined"]["accuracy"]),
            interval(stage["refined"]["ci"]),
            str(transitions["wrong_right"]),
            str(transitions["right_wrong"]),
            percent(verdict["precision"]),
            percent(verdict["recall"]),
            str(verdict["unparsed"]),
            f"{rows['kept']} of {rows['in']}" if rows else "",
            f"{stage['seconds']:.0f} s",
        )
    console.print(table)
    kinds = sorted({kind for stage in results["stages"] for kind in stage["by_kind"]})
    if len(kinds) > 1:
        by_kind = Table(title="direct accuracy by kind of problem", title_justify="left")
        by_kind.add_column("stage")
        for kind in kinds:
            by_kind.add_column(kind, justify="right")
        for stage in results["stages"]:
            accuracies = (stage["by_kind"][kind]["direct"]["accuracy"] for kind in kinds)
            by_kind.add_row(stage["name"], *map(percent, accuracies))
        console.print(by_kind)
    for c in results["comparisons"]:
        console.print(
            f"{c['a']} against {c['b']}, {c['mode']}: {100 * c['difference']:+.1f} points "
            f"({c['gained']} gained, {c['lost']} lost), McNemar exact p = {c['p_value']:.2g}",
            highlight=False,
        )


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(ci: list[float]) -> str:
    return f"{100 * ci[0]:.1f}–{100 * ci[1]:.1f}"
