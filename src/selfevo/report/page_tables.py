"""The tables of the page: texts in rows and columns. The template draws all of them in one way."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from selfevo.config.sections import MonitorsConfig
from selfevo.evaluation.monitors import MEANING
from selfevo.report.wording import cut, duration, number, p_value, percent, points
from selfevo.rundir.results import Audit, GateResults, Mode, ModelComparison, ModelResults, Results, RoundResults, Split
from selfevo.statistics import Rate

VOTES: tuple[Mode, ...] = ("consistency", "both")
# Widths of a table's place, in rem, below which its rows may be drawn as blocks. The last one is that of the page.
STEPS = (21, 28, 36, 45, 53, 61)
EM = 0.5  # width of a character, in rem
PADDING = 1.1  # of a cell, left and right
LONGEST = 18  # characters of a cell that stay in one line
LONGEST_PROSE = 200  # characters of a reason or of the name of a group


@dataclass(frozen=True, slots=True)
class Cell:
    """`more` stands below `text`, in small letters."""

    text: str
    more: str = ""
    bad: bool = False

    @property
    def whole(self) -> bool:
        """Whether `text` stays in one line."""
        return width(self.text) <= LONGEST


@dataclass(frozen=True, slots=True)
class Table:
    """The first column names the rows. `words`: the last column is prose."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: bool = False

    @property
    def stacks_below(self) -> int | None:
        """The width in rem below which a row needs a block of its own; None if at every width of the page."""
        needed = 0.0
        for i, column in enumerate(self.columns):
            texts = [text for row in self.rows for text in (row[i].text, row[i].more)]
            words = [width(word) for text in (column, *texts) for word in re.split(r"[ \n]", text)]
            whole = [width(row[i].text) for row in self.rows if row[i].whole]
            needed += EM * max(*words, *whole, 0) + PADDING
        needed += 14 * self.words
        return next((step for step in STEPS if needed <= step), None)


def width(text: str) -> int:
    """In characters of Latin script; those of East Asia are twice as wide."""
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell | str]], *, words: bool = False) -> Table:
    cells = [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in rows]
    return Table(columns, cells, words)


def models(results: Results) -> Table:
    voted = [mode for mode in VOTES if any(model.rate(mode) for model in results.models)]
    incomplete = any(model.incomplete for model in results.models)
    columns = ["Model", "Direct", "Refined", *(mode.capitalize() for mode in voted), "Right → wrong", "Wrong → right"]
    columns += ["Precision", "Recall", "Unparsed", *(["Incomplete"] if incomplete else []), "Kept / in", "Time"]
    return _table(columns, [_model(results, model, voted, incomplete) for model in results.models])


def _model(results: Results, model: ModelResults, voted: Sequence[Mode], incomplete: bool) -> list[Cell | str]:
    round_, lost = results.round(model.name), Counter(model.incomplete)
    return [
        model.name,
        *(_rate(model.rate(mode)) for mode in ("direct", "refined", *voted)),
        number(model.transitions.right_wrong),
        number(model.transitions.wrong_right),
        Cell(percent(model.verdicts.precision), f"of {number(model.verdicts.qualified)}"),
        percent(model.recall),
        number(model.verdicts.unparsed),
        *(
            [Cell(number(lost.total()), "\n".join(f"{count} {reason}" for reason, count in lost.most_common()))]
            if incomplete
            else []
        ),
        f"{number(round_.rows.kept)} / {number(round_.rows.entered)}" if round_ else "–",
        duration(model.seconds),
    ]


def _rate(rate: Rate | None) -> Cell:
    if rate is None:
        return Cell("–")
    low, high = rate.ci
    return Cell(percent(rate.accuracy), f"{100 * low:.1f}–{percent(high)}")


def judged(results: Results) -> Table:
    columns = ("Model", "Answers", "Win rate", "Wins", "Ties", "Losses", "Unread", "p-value")
    rows: list[list[Cell | str]] = []
    for model in results.models:
        for mode, compared in model.compared.items():
            wins = model.wins(mode)
            counts = map(number, (wins.wins, wins.ties, wins.losses, wins.unread))
            more = (percent(compared.length_controlled), number(compared.flipped))
            rows.append([model.name, mode, _rate(model.rate(mode)), *counts, p_value(wins.p_value), *more])
    return _table((*columns, "At equal length", "Followed the order"), rows)


def comparisons(pairs: Sequence[ModelComparison]) -> Table:
    columns = ("Models", "Answers", "Difference", "Gained", "Lost", "p-value")
    return _table(columns, [[f"{pair.a} against {pair.b}", pair.mode, *_compared(pair)] for pair in pairs])


def gate(found: GateResults) -> Table:
    columns = ("Round", "Against", "Measured by", "Difference", "Gained", "Lost", "p-value", "Promoted")
    rows = [[pair.a, pair.b, pair.mode, *_compared(pair), "yes" if pair.promoted else "no"] for pair in found.rounds]
    return _table(columns, rows)


def _compared(pair: ModelComparison) -> list[Cell | str]:
    difference = Cell(points(pair.difference), f"{points(pair.ci[0])} to {points(pair.ci[1])}")
    return [difference, number(pair.gained), number(pair.lost), p_value(pair.p_value)]


def splits(results: Results) -> dict[str, Table]:
    """By kind and by difficulty of problem: the direct rate of each model, and the refined one below it."""
    return {by: _split(results, by) for by in get_args(Split) if results.models and results.groups.get(by)}


def _split(results: Results, by: Split) -> Table:
    each = [(results.rates(by, model, "direct"), results.rates(by, model, "refined")) for model in results.models]
    rows: list[list[Cell | str]] = [
        [
            cut(name, LONGEST_PROSE),
            number(each[0][0][name].n),
            *(Cell(percent(direct[name].accuracy), percent(refined[name].accuracy)) for direct, refined in each),
        ]
        for name in results.groups[by]
    ]
    return _table((by.capitalize(), "Problems", *(model.name for model in results.models)), rows)


def rounds(counted: Sequence[Any]) -> Table:
    """`counted`: the rounds as page.py counts them from their files."""
    rows: list[list[Cell | str]] = []
    for each in counted:
        lost = [*each.rejected.most_common(), *each.quarantined.most_common()]
        counts = (each.rows_in, each.quarantined.total(), each.rejected.total(), each.kept)
        reasons = "\n".join(f"{cut(reason, LONGEST_PROSE)} ({number(count)})" for reason, count in lost)
        rows.append([each.name, *map(number, counts), Cell("" if reasons else "–", reasons)])
    return _table(("Round", "In", "Quarantined", "Rejected", "Kept", "Why rows were dropped"), rows, words=True)


def audits(found: Mapping[str, Audit]) -> Table:
    columns = ("Round", "r right", "r^ right", "Wrong → right", "Right → wrong", "Precision", "Recall", "Unparsed")
    rows: list[list[Cell | str]] = [
        [
            name,
            Cell(percent(audit.response_share), f"{audit.response_right} of {audit.judged}"),
            Cell(percent(audit.right_share), f"{audit.right} of {audit.judged}"),
            number(audit.transitions.wrong_right),
            number(audit.transitions.right_wrong),
            Cell(percent(audit.precision), f"{audit.kept_right} of {audit.kept}"),
            Cell(percent(audit.recall), f"{audit.kept_right} of {audit.right}"),
            Cell(number(audit.unparsed[0]), f"{audit.unparsed[1]} right"),
        ]
        for name, audit in found.items()
    ]
    return _table(columns, rows)


def monitors(watched: Sequence[RoundResults], bounds: Mapping[str, float]) -> Table:
    rows: list[list[Cell | str]] = [
        ["mean length, tokens", "–", *(number(each.monitors.get("mean_length"), 1) for each in watched)]
    ]
    for name, (label, *_) in MEANING.items():
        least, most = bounds.get(f"min_{name}"), bounds.get(f"max_{name}")
        shown = [f"{sign}\u00a0{bound:g}" for sign, bound in (("≥", least), ("≤", most)) if bound is not None]
        rows.append(
            [
                Cell(label, _described(name)),
                " ".join(shown) or "–",
                *(_figure(each.monitors.get(name), least, most) for each in watched),
            ]
        )
    return _table(("Figure", "Bounds", *(each.name for each in watched)), rows)


def _described(figure: str) -> str:
    """What a figure is, in the words of its bound."""
    found = [MonitorsConfig.model_fields.get(f"{side}_{figure}") for side in ("min", "max")]
    return next((bound.description.partition(";")[0] for bound in found if bound and bound.description), "")


def _figure(value: float | None, least: float | None, most: float | None) -> Cell:
    beyond = value is not None and ((least is not None and value < least) or (most is not None and value > most))
    return Cell(number(value, 3), "alarm" if beyond else "", bad=beyond)


def trainings(made: Sequence[Mapping[str, Any]]) -> Table:
    """`made`: the markers of the models."""
    terms = sorted({term for model in made for term in model["examples"]})
    rows: list[list[Cell | str]] = []
    for model in made:
        figures = model.get("figures") or {}
        losses = f"{number(figures.get('loss_first'), 3)} → {number(figures.get('loss_last'), 3)}"
        counts = [number(model["examples"].get(term, 0)) for term in terms]
        tokens, speed = number(figures.get("tokens")), number(figures.get("tokens_per_second"))
        memory = number(figures.get("peak_memory_gib"), 2)
        time = duration(model["seconds"])
        rows.append([model["name"], str(model["start"]), *counts, tokens, losses, speed, memory, time])
    columns = ("Model", "Trained from", *terms, "Tokens", "Loss, first → last", "Tokens/s", "Memory, GiB", "Time")
    return _table(columns, rows)


def sources(listed: Sequence[Mapping[str, Any]]) -> Table:
    """Where the prompts of each round come from, for a configuration with a list of rounds."""
    return _table(("Round", "Prompts"), [[f"round-{i}", _source(each)] for i, each in enumerate(listed, 1)], words=True)


def _source(listed: Mapping[str, Any]) -> str:
    given = listed.get("prompts") or {}
    if own := listed.get("self_instruct"):
        return f"written by the model itself (self-instruct), at most {number(own.get('count'))}"
    task = given.get("task") or {}
    named = (*(given.get(key) for key in ("path", "subset", "split", "revision")), task.get("name"), task.get("path"))
    place = ", ".join(str(each) for each in named if each)
    return f"{place}, {number(given['count'])} of them" if given.get("count") else place


def costs(found: Mapping[str, Mapping[str, float]]) -> Table:
    columns = ("Stage", "Time", "Device time", "Tokens read", "Written", "Trained on", "US dollars")
    rows = [
        [
            name,
            duration(cost["seconds"]),
            duration(cost["device_seconds"]),
            *(number(cost[each]) for each in ("prompt_tokens", "new_tokens", "trained_tokens")),
            number(cost["dollars"], 2) if cost["dollars"] else "–",
        ]
        for name, cost in found.items()
    ]
    return _table(columns, rows)
