"""Markdown tables over several runs: python experiments/summarise.py RUN [RUN ...]"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def main(folders: list[str]) -> None:
    runs = [json.loads((Path(folder) / "results.json").read_text(encoding="utf-8")) for folder in folders]
    head(
        *("seed", "stage", "direct (95 %)", "refined", "w->r", "r->w"),
        *("verdict precision (95 %)", "recall", "unparsed", "kept", "s"),
    )
    for run in runs:
        for stage in run["stages"]:
            print(f"| {run['seed']} | {row(stage)} |")
    head("seed", "comparison", "difference", "gained", "lost", "McNemar p")
    for run in runs:
        for c in run["comparisons"]:
            print(
                f"| {run['seed']} | {c['a']} against {c['b']}, {c['mode']} | {100 * c['difference']:+.1f} | "
                f"{c['gained']} | {c['lost']} | {c['p_value']:.2g} |"
            )
    head("seed", "round", "pool answers right", "refined right", "kept", "of them right", "audit recall")
    for run in runs:
        for stage in run["stages"]:
            a = stage["audit"]
            if a:
                print(
                    f"| {run['seed']} | {stage['name']} | {percent(a['response_right'] / a['judged'])} | "
                    f"{percent(a['right'] / a['judged'])} | {a['kept']} of {a['judged']} | {percent(a['precision'])} | "
                    f"{percent(a['recall'])} |"
                )
    print("\n" + ", ".join(f"seed {run['seed']}: {run['seconds'] / 60:.1f} min" for run in runs))


def head(*names: str) -> None:
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}")


def row(stage: dict[str, Any]) -> str:
    verdict, moves, rows = stage["verdict"], stage["transitions"], stage["rows"]
    interval = "-".join(percent(x) for x in stage["direct"]["ci"])
    sure = "-".join(percent(x) for x in verdict["precision_ci"])
    cells = (
        stage["name"],
        f"{percent(stage['direct']['accuracy'])} ({interval})",
        percent(stage["refined"]["accuracy"]),
        str(moves["wrong_right"]),
        str(moves["right_wrong"]),
        f"{percent(verdict['precision'])} ({sure})" if verdict["precision"] is not None else "-",
        percent(verdict["recall"]),
        str(verdict["unparsed"]),
        f"{rows['kept']} of {rows['in']}" if rows else "",
        f"{stage['seconds']:.0f}",
    )
    return " | ".join(cells)


if __name__ == "__main__":
    main(sys.argv[1:])
