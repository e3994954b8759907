"""The number formats of the report, and its opening sentences.

The sentences are computed and must be fair: a loss is called a loss, and a difference that may be
chance is called so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from selfevo.method.names import BASE, META, SFT
from selfevo.rundir.results import ModelResults, Results
from selfevo.statistics import mcnemar_exact

FINISHES = {
    "length": "cut at max_new_tokens",
    "overlong": "the conversation does not fit the context",
    "empty": "the model wrote nothing visible",
}
SIGNIFICANT = 0.05
P_VALUE = "p-value"
NONE = "\u2013"
MINUS = "\u2212"
REFERENCES = {
    SFT: "plain fine-tuning (sft) on the same labels",
    META: "the model before any round (meta)",
    BASE: "the base model",
}
STARTS = {
    BASE: "The base model answers",
    SFT: "Plain fine-tuning (sft) answers",
    META: "Before any round the model (meta) answers",
}


class RoundCounts(Protocol):
    """The counts of a round that the sentences need."""

    rows_in: int
    kept: int
    rejected: Counter[str]
    quarantined: Counter[str]


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}\u00a0%"


def points(difference: float) -> str:
    """A difference of two shares, in percentage points with a sign."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def number(value: float | None, digits: int = 0) -> str:
    """A number with thin spaces between thousands; a dash if it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.{digits}f}".replace(",", "\u202f").replace("-", MINUS)


def cut(text: str, most: int) -> str:
    """`text` with at most `most` characters, and an ellipsis if it had more."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def three_digits(value: float) -> str:
    """A number of any size with three significant digits, as 2.51, 0.000125 or 3.2e-07."""
    if not math.isfinite(value):
        return NONE
    return f"{value:.3g}".replace("-", MINUS)


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if round(seconds) < 60:
        return f"{seconds:.0f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}\u00a0h {minutes_left:02d}\u00a0min" if hours else f"{minutes}\u00a0min {rest:02d}\u00a0s"


def p_value(p: float) -> str:
    return "<\u00a00.001" if p < 0.001 else f"{p:.3f}"


def summarise(
    results: Results | None,
    rounds: Sequence[RoundCounts],
    trained: Sequence[str],
    *,
    evaluated: bool,
    sft_labels: int | None = None,
) -> list[str]:
    """Three sentences: how well the best model answers, what refinement does, what the filter kept.

    `trained` holds the names of the trained models. `sft_labels` is the number of labels of the
    baseline, if it differs.
    """
    last = results.best if results else None
    if results is None or last is None or last.direct.accuracy is None:
        why = "has not been measured yet" if evaluated else "was not evaluated on held-out problems"
        first = f"This run {why}, so it says nothing about accuracy."
        second = f"Models trained so far: {', '.join(trained)}." if trained else "No model has been trained yet."
        return [first, second, _filter_sentence(results, rounds)]
    return [
        _accuracy_sentence(last, results, sft_labels),
        _refinement_sentence(last),
        _filter_sentence(results, rounds),
    ]


def _accuracy_sentence(last: ModelResults, results: Results, sft_labels: int | None) -> str:
    name = last.name
    count = name.removeprefix("round-")
    rounds = f"After {count} round{'s' * (count != '1')} the model answers"
    sentence = f"{STARTS.get(name, rounds)} {percent(last.direct.accuracy)} of {last.direct.n} held-out problems"
    if judge := results.judge:
        sentence += f" better than {judge.reference}, says the judge {judge.name} (a tie counts half)"
    accuracies = {model.name: model.direct.accuracy for model in results.models if model is not last}
    reference = next((other for other in REFERENCES if accuracies.get(other) is not None), None)
    if reference is None:
        return f"{sentence}."
    called = (
        f"plain fine-tuning (sft) on {sft_labels} labels" if reference == SFT and sft_labels else REFERENCES[reference]
    )
    against = f"{percent(accuracies[reference])} for {called}"
    pair = (name, reference, "direct")
    compared = next((c for c in results.comparisons if (c.a, c.b, c.mode) == pair), None)
    if compared is None:
        return f"{sentence}, against {against}."
    p, difference = _p(compared.p_value), f"{points(compared.difference)} points"
    if compared.p_value >= SIGNIFICANT:
        return f"{sentence}, against {against}; a difference of {difference} may be chance ({p})."
    worse = "fewer than the " if compared.difference < 0 else "against "
    return f"{sentence}, {worse}{against} ({difference}, {p})."


def _refinement_sentence(last: ModelResults) -> str:
    gained, lost = last.transitions.wrong_right, last.transitions.right_wrong
    if gained == lost == 0:
        return "Criticising and refining its own answers turns none from wrong to right and none from right to wrong."
    p = mcnemar_exact(gained, lost)
    chance = "" if p < SIGNIFICANT else "; the net effect may be chance"
    better, worse = ("do better", "worse") if last.compared else ("turn from wrong to right", "from right to wrong")
    return (
        f"Criticising and refining its own answers takes it from {percent(last.direct.accuracy)} to "
        f"{percent(last.refined.accuracy)}: {gained} {better} and {lost} {worse} ({_p(p)}){chance}."
    )


def _filter_sentence(results: Results | None, rounds: Sequence[RoundCounts]) -> str:
    total, kept = sum(r.rows_in for r in rounds), sum(r.kept for r in rounds)
    if not total:
        return "No round has produced rows yet."
    sentence = f"Of {number(total)} unlabelled prompts the filter kept {number(kept)} of the model's own answers"
    audits = [each.audit for each in results.rounds if each.audit] if results else []
    judged, audited = sum(a.judged for a in audits), sum(a.kept for a in audits)
    if judged and audited:
        before, after = sum(a.right for a in audits) / judged, sum(a.kept_right for a in audits) / audited
        return f"{sentence}; {percent(after)} of those kept are right, against {percent(before)} of all it judged."
    rejected = sum(r.rejected.total() for r in rounds)
    quarantined = sum(r.quarantined.total() for r in rounds)
    return f"{sentence}; {number(rejected)} were rejected and {number(quarantined)} quarantined."


def _p(p: float) -> str:
    return f"{P_VALUE}\u00a0{p_value(p)}"
