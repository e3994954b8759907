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
from typing import get_args

from selfevo.rundir.ablation import Ablation, AblationRow, Answered, Voted, load_ablation
from selfevo.rundir.results import Mode, ModelComparison, ModelResults, Results, load_results
from selfevo.statistics import Rate


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def main(arguments: list[str]) -> None:
    paths = [Path(name) for name in arguments]
    first = {} if paths[0].is_dir() else json.loads(paths[0].read_text(encoding="utf-8"))
    if "rows" in first:
        files = [path for path in paths if path.suffix == ".json"]
        wanted = arguments[len(files) :]
        tables = [load_ablation(path) for path in files]
        (pairs if any(":" in each for each in wanted) else ablation)(tables, wanted)
    elif "costs" in first:
        costs([json.loads(path.read_text(encoding="utf-8"))["costs"] for path in paths])
    else:
        several([load_results(path) for path in paths])


def ablation(tables: list[Ablation], wanted: list[str]) -> None:
    rows = chosen(tables, wanted)
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
    for table, row in rows:
        direct, refined = row.rate("direct"), row.rate("refined")
        cells = [row.name, f"{percent(direct.accuracy)} ({bounds(direct.ci)})", each_seed(row, "direct")]
        cells += [*against(table.against_self(row, "direct")), percent(refined.accuracy), each_seed(row, "refined")]
        cells += [*against(table.against_self(row, "refined")), percent(row.verdicts.precision)]
        cells.append(percent(row.rows.kept / row.rows.entered if row.rows else None))
        cells.append(percent(row.audit.precision if row.audit else None))
        cells.append(f"{row.cost.seconds / 60:.0f}" if row.cost else "")
        print(f"| {' | '.join(cells)} |")
    voting = [row for _, row in rows if row.votes]
    if voting:
        head("model", "direct", "refined", "consistency", "against refined", "p", "both", "against refined", "p")
    for row in voting:
        cells = [row.name, percent(row.rate("direct").accuracy), percent(row.rate("refined").accuracy)]
        for mode in get_args(Voted):
            rate, compared = row.voted(mode) or (Rate(0, 0), None)
            cells += [percent(rate.accuracy), *against(compared)]
        print(f"| {' | '.join(cells)} |")


def pairs(tables: list[Ablation], wanted: list[str]) -> None:
    head("comparison", "direct", "gained", "lost", "McNemar p", "refined", "gained", "lost", "McNemar p")
    for each in wanted:
        a, b = (chosen(tables, [name])[0][1] for name in each.split(":"))
        cells = [f"{a.name} against {b.name}"]
        for mode in get_args(Answered):
            pair = a.against(b, mode)
            if pair is None:
                sys.exit(f"{a.name} and {b.name} have no seed in common")
            difference, p_value = against(pair)
            cells += [difference, str(pair.gained), str(pair.lost), p_value]
        print(f"| {' | '.join(cells)} |")


def chosen(tables: list[Ablation], names: list[str]) -> list[tuple[Ablation, AblationRow]]:
    """Rows of these names, each with its table; without names all."""
    rows = [(table, row) for table in tables for row in table.rows]
    if missing := set(names) - {row.name for _, row in rows}:
        sys.exit(f"no such row: {', '.join(sorted(missing))}; there are {', '.join(row.name for _, row in rows)}")
    return [(table, row) for table, row in rows if not names or row.name in names]


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


def each_seed(row: AblationRow, mode: Answered) -> str:
    return ", ".join(percent(row.rate(mode, seed).accuracy) for seed in row.seeds)


def against(pair: ModelComparison | None) -> tuple[str, str]:
    if pair is None:
        return "", ""
    return f"{100 * pair.difference:+.1f} ({bounds(pair.ci, signed=True)})", f"{pair.p_value:.2g}"


def bounds(interval: tuple[float, float], signed: bool = False) -> str:
    return " to ".join(f"{100 * x:+.1f}" if signed else f"{100 * x:.1f}" for x in interval)


def several(runs: list[Results]) -> None:
    head(
        *("seed", "model", "direct (95 %)", "refined", "w->r", "r->w"),
        *("verdict precision (95 %)", "recall", "unparsed", "kept", "s"),
    )
    for run in runs:
        for model in run.models:
            print(f"| {run.seed} | {row(run, model)} |")
    head("seed", "comparison", "difference", "gained", "lost", "McNemar p")
    for run in runs:
        for c in run.comparisons:
            print(
                f"| {run.seed} | {c.a} against {c.b}, {c.mode} | {100 * c.difference:+.1f} | "
                f"{c.gained} | {c.lost} | {c.p_value:.2g} |"
            )
    head("seed", "round", "pool answers right", "refined right", "kept", "of them right", "audit recall")
    for run in runs:
        for each in run.rounds:
            a = each.audit
            if a:
                print(
                    f"| {run.seed} | {each.name} | {percent(a.response_share)} | {percent(a.right_share)} | "
                    f"{a.kept} of {a.judged} | {percent(a.precision)} | {percent(a.recall)} |"
                )
    if all("consistency" in model.answers for run in runs for model in run.models):
        as_in_the_paper(runs)
    print("\n" + ", ".join(f"seed {run.seed}: {run.seconds / 60:.1f} min" for run in runs))


def as_in_the_paper(runs: list[Results]) -> None:
    """All seeds together, and in brackets each."""
    named = {"sft": "base + D_QA", "meta": "base + D_meta"}
    modes: tuple[Mode, ...] = ("direct", "refined", "consistency", "both")
    head("model", "direct", "self-refinement", "self-consistency", "both")
    for name in dict.fromkeys(model.name for run in runs for model in run.models):
        models = [model for run in runs if (model := run.model(name))]
        cells = []
        for mode in modes:
            rates = [rate for model in models if (rate := model.rate(mode))]
            pooled = Rate(sum(rate.n for rate in rates), sum(rate.correct for rate in rates))
            cells.append(f"{percent(pooled.accuracy)} ({', '.join(percent(rate.accuracy) for rate in rates)})")
        print(f"| {named.get(name, name)} | {' | '.join(cells)} |")


def head(*names: str) -> None:
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}")


def row(run: Results, model: ModelResults) -> str:
    verdicts, moves, round_ = model.verdicts, model.transitions, run.round(model.name)
    interval = "-".join(percent(x) for x in model.direct.ci)
    sure = "-".join(percent(x) for x in verdicts.precision_ci)
    cells = (
        model.name,
        f"{percent(model.direct.accuracy)} ({interval})",
        percent(model.refined.accuracy),
        str(moves.wrong_right),
        str(moves.right_wrong),
        f"{percent(verdicts.precision)} ({sure})" if verdicts.precision is not None else "-",
        percent(model.recall),
        str(verdicts.unparsed),
        f"{round_.rows.kept} of {round_.rows.entered}" if round_ else "",
        f"{model.seconds:.0f}",
    )
    return " | ".join(cells)


if __name__ == "__main__":
    main(sys.argv[1:])
