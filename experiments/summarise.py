"""Markdown tables of docs/results/*.md: of runs, or of an ablation.

python experiments/summarise.py RUN_OR_RESULTS_JSON [...]
python experiments/summarise.py ABLATION_JSON... [ROW ...]   # all rows, or those
python experiments/summarise.py ABLATION_JSON... A:B [...]   # row A against row B, on the same problems
python experiments/summarise.py MANIFEST_JSON [...]          # what runs cost
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from selfevo.evaluation.statistics import compare


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def main(arguments: list[str]) -> None:
    first = read(arguments[0])
    if "rows" in first:
        files = [name for name in arguments if name.endswith(".json")]
        rows = [row for found in (first, *map(read, files[1:])) for row in found["rows"]]
        wanted = arguments[len(files) :]
        (pairs if any(":" in each for each in wanted) else ablation)(rows, wanted)
    elif "costs" in first:
        costs([first["costs"], *(read(name)["costs"] for name in arguments[1:])])
    else:
        several([first, *map(read, arguments[1:])])


def read(name: str) -> dict[str, Any]:
    path = Path(name)
    found: dict[str, Any] = json.loads((path / "results.json" if path.is_dir() else path).read_text(encoding="utf-8"))
    return found


def ablation(rows: list[dict[str, Any]], wanted: list[str]) -> None:
    rows = chosen(rows, wanted) if wanted else rows
    head(
        *(
            "model",
            "direct (95 %)",
            "of each seed",
            "against self",
            "p",
            "refined",
            "of each seed",
            "against self",
            "p",
        ),
        *("verdict precision", "kept", "of them right", "min, all seeds"),
    )
    for row in rows:
        cells = [row["name"], f"{percent(row['direct']['accuracy'])} ({bounds(row['direct']['ci'])})"]
        cells += [each_seed(row["direct"]), *against(row["direct"])]
        cells += [percent(row["refined"]["accuracy"]), each_seed(row["refined"]), *against(row["refined"])]
        audit = row["audit"] or {"kept": 0}
        right = percent(audit["kept_right"] / audit["kept"]) if audit["kept"] else "-"
        cells += [percent(row["verdict"]["precision"]), percent(row["kept"]), right]
        cells.append(f"{row['cost']['seconds'] / 60:.0f}" if row["cost"] else "")
        print(f"| {' | '.join(cells)} |")
    voting = [row for row in rows if "both" in row]
    if voting:
        head("model", "direct", "refined", "consistency", "against refined", "p", "both", "against refined", "p")
    for row in voting:
        cells = [row["name"], percent(row["direct"]["accuracy"]), percent(row["refined"]["accuracy"])]
        for mode in ("consistency", "both"):
            cells += [percent(row[mode]["accuracy"]), *against(row[mode])]
        print(f"| {' | '.join(cells)} |")


def pairs(rows: list[dict[str, Any]], wanted: list[str]) -> None:
    head("comparison", "direct", "gained", "lost", "McNemar p", "refined", "gained", "lost", "McNemar p")
    for each in wanted:
        names = each.split(":")
        a, b = (chosen(rows, [name])[0] for name in names)
        cells = [" against ".join(names)]
        for mode in ("direct", "refined"):
            ours, theirs = a[mode]["by_seed"], b[mode]["by_seed"]
            bits = [[bit == "1" for s in ours if s in theirs for bit in row[s]["answers"]] for row in (ours, theirs)]
            pair = compare(names[0], bits[0], names[1], bits[1], mode)
            difference, p_value = against({"against": pair})
            cells += [difference, str(pair["gained"]), str(pair["lost"]), p_value]
        print(f"| {' | '.join(cells)} |")


def chosen(rows: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    if missing := set(names) - {row["name"] for row in rows}:
        sys.exit(f"no such row: {', '.join(sorted(missing))}; there are {', '.join(row['name'] for row in rows)}")
    return [row for row in rows if row["name"] in names]


def costs(runs: list[dict[str, dict[str, float]]]) -> None:
    """Of each part, all rounds and all evaluated models together; then of answering the problems of the evaluation with
    each model. Means over the runs."""
    columns = ("seconds", "prompt_tokens", "new_tokens", "trained_tokens")
    stages = {stage: [sum(run[stage][c] for run in runs) / len(runs) for c in columns] for stage in runs[0]}
    head("part", "s", "prompt tokens", "new tokens", "trained tokens")
    parts: dict[str, list[list[float]]] = {}
    for stage, cost in stages.items():
        part = re.sub(r"-\d+(?=/|$)", "", re.sub(r"^evaluate-[^/]+", "evaluate", stage))
        parts.setdefault(part, []).append(cost)
    for part, each in parts.items():
        print(f"| {part} | {' | '.join(f'{sum(column):,.0f}' for column in zip(*each, strict=True))} |")
    head("model", "direct: new tokens", "s", "refined: new tokens", "s")
    for respond in (stage for stage in stages if re.fullmatch(r"evaluate-[^/]+/respond", stage)):
        model = respond.removesuffix("/respond")
        steps = [stages[stage] for stage in (respond, f"{model}/critique", f"{model}/refine") if stage in stages]
        refined = [sum(column) for column in zip(*steps, strict=True)]
        cells = (stages[respond][2], stages[respond][0], refined[2], refined[0])
        print(f"| {model.removeprefix('evaluate-')} | {' | '.join(f'{value:,.0f}' for value in cells)} |")


def each_seed(mode: dict[str, Any]) -> str:
    return ", ".join(percent(each["accuracy"]) for each in mode["by_seed"].values())


def against(mode: dict[str, Any]) -> tuple[str, str]:
    pair = mode.get("against")
    if pair is None:
        return "", ""
    return f"{100 * pair['difference']:+.1f} ({bounds(pair['ci'], signed=True)})", f"{pair['p_value']:.2g}"


def bounds(interval: list[float], signed: bool = False) -> str:
    return " to ".join(f"{100 * x:+.1f}" if signed else f"{100 * x:.1f}" for x in interval)


def several(runs: list[dict[str, Any]]) -> None:
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
    if all(stage.get("consistency") for run in runs for stage in run["stages"]):
        as_in_the_paper(runs)
    print("\n" + ", ".join(f"seed {run['seed']}: {run['seconds'] / 60:.1f} min" for run in runs))


def as_in_the_paper(runs: list[dict[str, Any]]) -> None:
    """All seeds together, and in brackets each."""
    named = {"sft": "base + D_QA", "meta": "base + D_meta"}
    modes = ("direct", "refined", "consistency", "both")
    head("model", "direct", "self-refinement", "self-consistency", "both")
    for name in dict.fromkeys(stage["name"] for run in runs for stage in run["stages"]):
        stages = [stage for run in runs for stage in run["stages"] if stage["name"] == name]
        cells = []
        for mode in modes:
            pooled = sum(stage[mode]["correct"] for stage in stages) / sum(stage[mode]["n"] for stage in stages)
            cells.append(f"{percent(pooled)} ({', '.join(percent(stage[mode]['accuracy']) for stage in stages)})")
        print(f"| {named.get(name, name)} | {' | '.join(cells)} |")


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
