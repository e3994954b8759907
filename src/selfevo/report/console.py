"""The tables that commands print: the figures of a run, what is in its directory, the runs in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfevo.rundir.inspect import Entry, Summary


def print_results(console: Console, results: dict[str, Any]) -> None:
    table = Table(title=f"{results['task']}, seed {results['seed']}, policy {results['policy']}", title_justify="left")
    votes = any(stage.get("consistency") for stage in results["stages"])
    voted = ("consistency", "both") if votes else ()
    for name in ("stage", "direct", "95 % interval", "refined", "95 % interval", *voted, "w→r", "r→w"):
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
            *(percent(stage[mode]["accuracy"]) if stage.get(mode) else "" for mode in voted),
            str(transitions["wrong_right"]),
            str(transitions["right_wrong"]),
            percent(verdict["precision"]),
            percent(verdict["recall"]),
            str(verdict["unparsed"]),
            f"{rows['kept']} of {rows['in']}" if rows else "",
            f"{stage['seconds']:.0f} s",
        )
    console.print(table)
    for key, title in (("by_kind", "kind of problem"), ("by_difficulty", "difficulty")):
        groups = list(results["stages"][0].get(key, ())) if results["stages"] else []
        if len(groups) < 2:
            continue
        split = Table(title=f"direct accuracy by {title}", title_justify="left")
        split.add_column("stage")
        for group in groups:
            split.add_column(group, justify="right")
        for stage in results["stages"]:
            split.add_row(stage["name"], *(percent(stage[key][group]["direct"]["accuracy"]) for group in groups))
        console.print(split)
    for c in results["comparisons"]:
        console.print(
            f"{c['a']} against {c['b']}, {c['mode']}: {100 * c['difference']:+.1f} points ({interval(c['ci'])}, "
            f"{c['gained']} gained, {c['lost']} lost), McNemar exact p = {c['p_value']:.2g}",
            highlight=False,
        )
    if results.get("stopped"):
        console.print(f"stopped: {results['stopped']}", highlight=False, style="yellow")


def print_extractors(console: Console, found: dict[str, Any] | None) -> None:
    if found is None:
        console.print("the answers of this task are not numbers: there is one way to read them", highlight=False)
        return
    console.print(
        f"strict (declared) and flexible (last number) extraction agree in {percent(found['agreement'])}; declared "
        f"{percent(found['declared'])}; accuracy strict {percent(found['strict'])}, flexible "
        f"{percent(found['flexible'])}, ours {percent(found['ours'])}",
        highlight=False,
    )


def print_harness(console: Console, figures: dict[str, Any]) -> None:
    table = _table("task", "documents", "metric, filter", "score", "ours, same outputs")
    for task, found in figures.items():
        for name, score in found["scores"].items():
            if "_stderr" not in name:
                table.add_row(
                    task,
                    str(found["documents"]),
                    name.replace(",", ", "),
                    f"{100 * score:.1f} ± {100 * found['scores'].get(name.replace(',', '_stderr,'), 0):.1f}",
                    percent(found["ours"]),
                )
    console.print(table)


def print_comparisons(console: Console, a: str, b: str, summary: dict[str, Any]) -> None:
    low, high = summary["win_rate_ci"]
    for line in (
        f"{a} against {b}: win rate {percent(summary['win_rate'])} ({100 * low:.1f}–{100 * high:.1f}), "
        f"at equal length {percent(summary['length_controlled'])}",
        f"{summary['wins']} wins, {summary['ties']} ties, {summary['losses']} losses of {summary['comparisons']}; "
        f"{summary['unreadable']} unreadable, {summary['no_reply']} without a reply; "
        f"the choice followed the order in {percent(summary['flipped'])}",
        *(
            f"  {column} {name}: {percent(share)}"
            for column, split in summary["by"].items()
            for name, share in split.items()
        ),
    ):
        console.print(line, highlight=False)


def print_ablation(console: Console, found: dict[str, Any]) -> None:
    table = Table(title=f"seeds {', '.join(map(str, found['seeds']))}", title_justify="left")
    voted = [mode for mode in ("consistency", "both") if any(mode in row for row in found["rows"])]
    modes = ("direct", "95 %", "against self", "p", "refined", "against self", "p", *voted)
    for name in ("variant", *modes, "verdict precision", "kept", "time"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for row in found["rows"]:
        cells = [row["name"]]
        for mode in ("direct", "refined"):
            against = row[mode].get("against")
            cells.append(percent(row[mode]["accuracy"]))
            cells += [interval(row[mode]["ci"])] if mode == "direct" else []
            shown = f"{100 * against['difference']:+.1f} ({interval(against['ci'])})" if against else ""
            cells += [shown, f"{against['p_value']:.2g}" if against else ""]
        cells += [percent(row[mode]["accuracy"]) if mode in row else "" for mode in voted]
        cells.append(percent(row["verdict"]["precision"]))
        cells.append(percent(row["kept"]) if row["kept"] is not None else "")
        cells.append(f"{row['cost']['seconds'] / 60:.1f} min" if row["cost"] else "")
        table.add_row(*cells)
    console.print(table)


class Check(Protocol):
    """One finding of doctor.py."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def finding(self) -> str: ...
    @property
    def remedy(self) -> str: ...


def print_checks(console: Console, checks: Sequence[Check]) -> None:
    styles = {"pass": "green", "warn": "yellow", "fail": "red"}
    for check in checks:
        console.print(f"[{styles[check.status]}]{check.status:5}[/] {escape(check.name)}: {escape(check.finding)}")
        if check.remedy:
            console.print(f"      -> {check.remedy}", style="dim", markup=False)


def print_runs(console: Console, runs: Sequence[Summary]) -> None:
    table = _table("run", "status", "model", "seed", "last model", "direct accuracy", "time", "size")
    for run in runs:
        table.add_row(
            str(run.root),
            run.status,
            run.model,
            str(run.seed),
            run.last or "–",
            percent(run.accuracy),
            f"{run.seconds / 60:.1f} min",
            megabytes(run.size),
        )
    console.print(table)


def print_entries(console: Console, entries: Sequence[Entry]) -> None:
    """In = out + what was lost, by reason, for every stage."""
    table = _table("stage", "status", "in", "out", "rejected or quarantined", "read", "written", "trained", "$", "time")
    for entry in entries:
        table.add_row(
            entry.name,
            entry.status,
            str(entry.rows),
            str(entry.out),
            ", ".join(f"{count} {reason}" for reason, count in entry.lost.most_common()),
            *(str(tokens or "") for tokens in (entry.prompt_tokens, entry.new_tokens, entry.trained_tokens)),
            f"{entry.dollars:.2f}" if entry.dollars else "",
            f"{entry.seconds:.0f} s",
        )
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, justify="right" if column in ("in", "out", "time", "size", "seed") else "left")
    return table


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(ci: list[float]) -> str:
    return f"{100 * ci[0]:.1f}–{100 * ci[1]:.1f}" if ci[0] >= 0 else f"{100 * ci[0]:+.1f} to {100 * ci[1]:+.1f}"
