"""The tables that commands print: results, the stages of a run, the runs in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfevo.evaluation.lm_eval_harness import HarnessScores
from selfevo.evaluation.pairwise import WinRates
from selfevo.report.terminal import printable
from selfevo.rundir.ablation import Ablation, Answered, Voted
from selfevo.rundir.inspect import Entry, Summary
from selfevo.rundir.results import Mode, ModelComparison, ModelResults, Results, Split


def print_results(console: Console, results: Results) -> None:
    """Prints all results of a run as tables."""
    _print_models(console, results)
    _print_groups(console, results)
    _print_rounds(console, results)
    for c in results.comparisons:
        console.print(
            f"{c.a} against {c.b}, {c.mode}: {difference(c)}, {c.gained} gained, {c.lost} lost, "
            f"McNemar exact p = {c.p_value:.2g}",
        )
    if results.gate:
        for r in results.gate.rounds:
            promoted = "promoted" if r.promoted else "not promoted"
            console.print(
                f"gate, {r.a} against {r.b}, {r.mode}: {difference(r)}, p = {r.p_value:.2g}: {promoted}",
            )
        console.print(f"gate: the best model is {results.gate.best or 'not known yet'}")
    if results.stopped:
        console.print(f"stopped: {results.stopped}", style="yellow")
    for alarm in results.alarms:
        console.print(f"alarm: {alarm}", style="yellow")


def _print_models(console: Console, results: Results) -> None:
    table = Table(title=f"{results.task}, seed {results.seed}, policy {results.policy}", title_justify="left")
    votes: tuple[Mode, ...] = ("consistency", "both")
    voted = [mode for mode in votes if any(model.rate(mode) for model in results.models)]
    for name in ("model", "direct", "95 % interval", "refined", "95 % interval", *voted, "w→r", "r→w"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for name in ("verdict precision", "recall", "unparsed", "rows kept", "time"):
        table.add_column(name, justify="right")
    for model in results.models:
        round_ = results.round(model.name)
        table.add_row(
            model.name,
            percent(model.direct.accuracy),
            interval(model.direct.ci),
            percent(model.refined.accuracy),
            interval(model.refined.ci),
            *(percent(rate.accuracy) if (rate := model.rate(mode)) else "" for mode in voted),
            str(model.transitions.wrong_right),
            str(model.transitions.right_wrong),
            percent(model.verdicts.precision),
            percent(model.recall),
            str(model.verdicts.unparsed),
            f"{round_.rows.kept} of {round_.rows.entered}" if round_ else "",
            f"{model.seconds:.0f} s",
        )
    console.print(table)


def _print_groups(console: Console, results: Results) -> None:
    titles: dict[Split, str] = {"kind": "kind of problem", "difficulty": "difficulty"}
    for by, title in titles.items():
        names = list(results.groups.get(by, {}))
        if len(names) < 2 or not results.models:
            continue
        split = Table(title=f"direct accuracy by {title}", title_justify="left")
        split.add_column("model")
        for name in names:
            split.add_column(name, justify="right")
        for model in results.models:
            split.add_row(model.name, *(percent(r.accuracy) for r in results.rates(by, model, "direct").values()))
        console.print(split)


def _print_rounds(console: Console, results: Results) -> None:
    if not results.rounds:
        return
    table = Table(title="rows of the rounds", title_justify="left")
    names = ("round", "in", "kept", "rejected", "quarantined")
    audited = ("r right", "r^ right", "kept right", "audit recall") if any(r.audit for r in results.rounds) else ()
    for name in (*names, *audited):
        table.add_column(name, justify="left" if name == "round" else "right")
    for each in results.rounds:
        rows, audit = each.rows, each.audit
        cells = [str(count) for count in (rows.entered, rows.kept, rows.rejected, rows.quarantined)]
        if audit:
            cells += [percent(audit.response_share), percent(audit.right_share)]
            cells += [percent(audit.precision), percent(audit.recall)]
        table.add_row(each.name, *cells)
    console.print(table)


def print_extractors(console: Console, model: ModelResults) -> None:
    found, n = model.extractors, model.direct.n
    if found is None:
        console.print("the answers of this task are not numbers, so there is only one way to read them")
        return
    console.print(
        f"strict (declared) and flexible (last number) extraction agree in {percent(found.agree / n)}; declared "
        f"{percent(found.declared / n)}; accuracy strict {percent(found.strict / n)}, flexible "
        f"{percent(found.flexible / n)}, ours {percent(model.direct.accuracy)}",
    )


def print_harness(console: Console, figures: Mapping[str, HarnessScores]) -> None:
    table = _table("task", "documents", "metric, filter", "score", "ours, same outputs")
    for task, found in figures.items():
        for name, score in found.scores.items():
            if "_stderr" not in name:
                table.add_row(
                    task,
                    str(found.documents),
                    name.replace(",", ", "),
                    f"{100 * score:.1f} ± {100 * found.scores.get(name.replace(',', '_stderr,'), 0):.1f}",
                    percent(found.ours),
                )
    console.print(table)


def print_comparisons(console: Console, a: str, b: str, found: WinRates) -> None:
    low, high = found.win_rate_ci
    for line in (
        f"{a} against {b}: win rate {percent(found.win_rate)} ({100 * low:.1f}–{100 * high:.1f}), "
        f"at equal length {percent(found.length_controlled)}",
        f"{found.wins} wins, {found.ties} ties, {found.losses} losses of {found.comparisons}; "
        f"{found.unreadable} unreadable, {found.no_reply} without a reply; "
        f"the choice followed the order in {percent(found.flipped)}",
        *(
            f"  {column} {name}: {percent(share)}"
            for column, split in found.by.items()
            for name, share in split.items()
        ),
    ):
        console.print(line)


def print_ablation(console: Console, found: Ablation) -> None:
    table = Table(title=f"seeds {', '.join(map(str, found.seeds))}", title_justify="left")
    voted: list[Voted] = [mode for mode in get_args(Voted) if any(mode in row.votes for row in found.rows)]
    columns = ("direct", "95 %", "against self", "p", "refined", "against self", "p", *voted)
    for name in ("model", *columns, "verdict precision", "kept", "time"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in found.rows:
        cells = [row.name]
        modes: tuple[Answered, ...] = ("direct", "refined")
        for mode in modes:
            cells.append(percent(row.rate(mode).accuracy))
            cells += [interval(row.rate(mode).ci)] if mode == "direct" else []
            pair = found.against_self(row, mode)
            cells += (
                [f"{100 * pair.difference:+.1f} ({interval(pair.ci)})", f"{pair.p_value:.2g}"] if pair else ["", ""]
            )
        cells += [percent(vote[0].accuracy) if (vote := row.voted(mode)) else "" for mode in voted]
        cells.append(percent(row.verdicts.precision))
        cells.append(percent(row.rows.kept / row.rows.entered) if row.rows and row.rows.entered else "")
        cells.append(f"{row.cost.seconds / 60:.1f} min" if row.cost else "")
        table.add_row(*cells)
    console.print(table)


class Check(Protocol):
    """One check of doctor.py."""

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
        status = Text(f"{check.status:5}", styles[check.status])
        console.print(Text.assemble(status, " ", printable(f"{check.name}: {check.finding}")))
        if check.remedy:
            console.print(f"      -> {check.remedy}", style="dim")


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
    """Prints every stage: in = out + rows lost, by reason."""
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


def difference(compared: ModelComparison) -> str:
    return f"{100 * compared.difference:+.1f} points ({interval(compared.ci)})"


def interval(ci: tuple[float, float]) -> str:
    return f"{100 * ci[0]:.1f}–{100 * ci[1]:.1f}" if ci[0] >= 0 else f"{100 * ci[0]:+.1f} to {100 * ci[1]:+.1f}"
