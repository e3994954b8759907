"""The tables that commands print: results, the stages of a run, the runs in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, get_args

from rich.console import Console
from rich.text import Text

from selfevo.evaluation.lm_eval_harness import HarnessScores
from selfevo.evaluation.pairwise import WinRates
from selfevo.report.tables import print_table
from selfevo.report.terminal import printable
from selfevo.rundir.ablation import Ablation, Answered, Voted
from selfevo.rundir.inspect import Entry, Summary
from selfevo.rundir.results import Mode, ModelComparison, ModelResults, Results, Split

VOTES: tuple[Mode, ...] = ("consistency", "both")


def print_results(console: Console, results: Results) -> None:
    """Prints all results of a run as tables."""
    if results.models:
        _print_models(console, results)
        _print_groups(console, results)
        _print_judged(console, results)
    else:
        console.print(
            "no model was measured on held-out problems" + ", for there is no evaluation" * (not results.task)
        )
    _print_rounds(console, results)
    for c in results.comparisons:
        console.print(
            f"{c.a} against {c.b}, {c.mode}: {difference(c)}, {c.gained} gained, {c.lost} lost, "
            f"{'sign-flip' if results.judge else 'McNemar exact'} p = {c.p_value:.2g}",
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


def _print_models(console: Console, results: Results) -> None:
    policy = f", policy {results.policy}" if results.policy else ""
    voted = [mode for mode in VOTES if any(model.rate(mode) for model in results.models)]
    some = ("incomplete",) if any(model.incomplete for model in results.models) else ()
    by_round = ("rows kept",) if results.rounds else ()
    columns = ("model", "direct", "95 % interval", "refined", "95 % interval", *voted, "w→r", "r→w")
    rows = []
    for model in results.models:
        round_ = results.round(model.name)
        kept = f"{round_.rows.kept} of {round_.rows.entered}" if round_ else ""
        rows.append(
            (
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
                *(str(sum(model.incomplete.values())) for _ in some),
                *(kept for _ in by_round),
                f"{model.seconds:.0f} s",
            )
        )
    columns = (*columns, "verdict precision", "recall", "unparsed", *some, *by_round, "time")
    print_table(console, columns, rows, f"{results.task}, seed {results.seed}{policy}")


def _print_judged(console: Console, results: Results) -> None:
    """Wins, ties and losses, where a judge compares; the tables before it then hold win rates."""
    if results.judge is None:
        return
    title = f"answers against {results.judge.reference}, judged by {results.judge.name}; a tie is half a win"
    rows = []
    for model in results.models:
        for mode, compared in model.compared.items():
            wins, rate = model.wins(mode), model.rate(mode)
            counts = map(str, (wins.wins, wins.ties, wins.losses, wins.unread))
            shown = percent(rate.accuracy if rate else None)
            rows.append((model.name, mode, shown, *counts, f"{wins.p_value:.2g}", percent(compared.length_controlled)))
    columns = ("model", "answers", "win rate", "wins", "ties", "losses", "unread", "sign test p", "equal length")
    print_table(console, columns, rows, title, texts=("answers",))


def _print_groups(console: Console, results: Results) -> None:
    titles: dict[Split, str] = {"kind": "kind of problem", "difficulty": "difficulty"}
    for by, title in titles.items():
        names = list(results.groups.get(by, {}))
        if len(names) < 2:
            continue
        accuracies = [
            (model.name, *(percent(rate.accuracy) for rate in results.rates(by, model, "direct").values()))
            for model in results.models
        ]
        figure = "win rate" if results.judge else "accuracy"
        print_table(console, ("model", *names), accuracies, f"direct {figure} by {title}")


def _print_rounds(console: Console, results: Results) -> None:
    if not results.rounds:
        return
    audited = ("r right", "r^ right", "kept right", "audit recall") if any(r.audit for r in results.rounds) else ()
    rows = []
    for each in results.rounds:
        fate, audit = each.rows, each.audit
        cells = [str(count) for count in (fate.entered, fate.kept, fate.rejected, fate.quarantined)]
        shares = (audit.response_share, audit.right_share, audit.precision, audit.recall) if audit else ()
        rows.append((each.name, *cells, *(list(map(percent, shares)) or [""] * len(audited))))
    print_table(console, ("round", "in", "kept", "rejected", "quarantined", *audited), rows, "rows of the rounds")


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
    rows = [
        (
            task,
            str(found.documents),
            name.replace(",", ", "),
            f"{100 * score:.1f} ± {100 * found.scores.get(name.replace(',', '_stderr,'), 0):.1f}",
            percent(found.ours),
        )
        for task, found in figures.items()
        for name, score in found.scores.items()
        if "_stderr" not in name
    ]
    columns = ("task", "documents", "metric, filter", "score", "ours, same outputs")
    print_table(console, columns, rows, texts=("metric, filter",))


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
    voted: list[Voted] = [mode for mode in get_args(Voted) if any(mode in row.votes for row in found.rows)]
    columns = ("direct", "95 %", "against self", "p", "refined", "against self", "p", *voted)
    rows = []
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
        rows.append(cells)
    title = f"seeds {', '.join(map(str, found.seeds))}"
    print_table(console, ("model", *columns, "verdict precision", "kept", "time"), rows, title)


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
    @property
    def seconds(self) -> float: ...


def print_check(console: Console, check: Check) -> None:
    """Prints one check of `doctor`, with the time if it took some."""
    style = {"pass": "green", "warn": "yellow", "fail": "red"}[check.status]
    took = f"  {check.seconds:.1f} s" if check.seconds >= 0.1 else ""
    finding = printable(f"{check.name}: {check.finding}")
    console.print(Text.assemble(Text(f"{check.status:5}", style), " ", finding, (took, "dim")))
    if check.remedy:
        console.print(f"      -> {check.remedy}", style="dim")


def print_runs(console: Console, runs: Sequence[Summary]) -> None:
    rows = [
        (
            str(run.root),
            run.status,
            run.model,
            str(run.seed),
            run.last or "–",
            percent(run.accuracy),
            f"{run.seconds / 60:.1f} min",
            megabytes(run.size),
        )
        for run in runs
    ]
    columns = ("run", "status", "model", "seed", "last model", "direct accuracy", "time", "size")
    print_table(console, columns, rows, texts=("status", "model", "last model"))


def print_entries(console: Console, entries: Sequence[Entry]) -> None:
    """Prints every stage: in = out + rows lost, by reason."""
    rows = [
        (
            entry.name,
            entry.status,
            str(entry.rows),
            str(entry.out),
            ", ".join(f"{count} {reason}" for reason, count in entry.lost.most_common()),
            *(str(tokens or "") for tokens in (entry.prompt_tokens, entry.new_tokens, entry.trained_tokens)),
            f"{entry.dollars:.2f}" if entry.dollars else "",
            f"{entry.seconds:.0f} s",
        )
        for entry in entries
    ]
    columns = ("stage", "status", "in", "out", "rejected or quarantined", "read", "written", "trained", "$", "time")
    print_table(console, columns, rows, texts=("status", "rejected or quarantined"))


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def difference(compared: ModelComparison) -> str:
    return f"{100 * compared.difference:+.1f} points ({interval(compared.ci)})"


def interval(ci: tuple[float, float]) -> str:
    return f"{100 * ci[0]:.1f}–{100 * ci[1]:.1f}" if ci[0] >= 0 else f"{100 * ci[0]:+.1f} to {100 * ci[1]:+.1f}"
