"""Figures of a round's rows that need no labels. They show early that a model collapses.

A model trained on its own text can collapse: one answer to everything, texts that do not end, a
judge that always says yes. Accuracy on held-out problems shows this late, or never if there are no
such problems. These figures show it in the same round.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from selfevo.config.sections import MonitorsConfig
from selfevo.method.answer_extraction import answer_key
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.verdicts import Verdict
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.results import Alarm

SAMPLE = 1000  # texts for distinct-n: a fixed number, because its value falls with more text
BLEU_SAMPLE = 100

_LIMIT = "raise skills.{}.max_new_tokens"
_FORGETS = "lower trainer.round_learning_rate or round_epochs, or train each round from the base (policy: restart)"
_BALANCE = "compare some rows of the round with the verdicts of D_meta, which needs both"

# Figure -> its name in messages, its meaning beyond the bound, and what to do.
MEANING = {
    "distinct_1": ("distinct words", "the model uses few words", _FORGETS),
    "distinct_2": ("distinct pairs of words", "the model repeats itself", _FORGETS),
    "self_bleu": ("self-BLEU", "the responses are nearly the same", _FORGETS),
    "entropy": ("entropy of answers", "many prompts get the same answer", _FORGETS),
    "truncated": ("truncated", "responses do not come to an end", _LIMIT.format("respond")),
    "stopped": ("stop token", "responses do not come to an end", _LIMIT.format("respond")),
    "yes": (
        "verdict yes",
        "the verdicts on r and r^ carry no information: they are nearly always the same",
        _BALANCE,
    ),
    "critique_yes": (
        "verdict yes on r",
        "the responses are all right, or the critic finds no errors any more",
        _BALANCE,
    ),
    "judge_yes": ("verdict yes on r^", "the filter drops almost nothing", "add a filter: docs/guides/filters.md"),
    "unparsed": (
        "verdict unreadable",
        "the feedback does not end in a verdict",
        f"{_LIMIT.format('critique')}, or give D_meta more rows",
    ),
    "agreement": ("r and r^ agree", "refinement changes nothing", "give D_meta more rows whose response is wrong"),
}


def round_figures(folder: Path, wording: Wording = ENGLISH) -> dict[str, float | None]:
    """The figures of one round, from its folder under stages/. None if there is nothing to count.

    All are shares in [0, 1], except `mean_length`, in tokens. `distinct_n`: distinct n-grams of
    words / all n-grams, in a sample of responses (Li et al. 2016). `self_bleu`: mean BLEU-4 of each
    response against the others (Zhu et al. 2018). `entropy`: entropy of the answers / its greatest
    possible value. `yes`: share of "qualified" among the readable verdicts on r (`critique_yes`)
    and r^ (`judge_yes`) together, because a good critic may say no to every r and yes to every r^.
    `agreement`: share of r^ with the same answer as r.
    """
    finishes, tokens = Counter[str](), 0
    texts: list[tuple[str, str]] = []
    answers = Counter[str]()
    for row in read_rows(folder / "respond.jsonl"):
        generation = row["generation"]
        finishes[generation["finish"]] += 1
        tokens += generation["new_tokens"]
        if row["status"] == "ok":
            answers[answer_key(row["response"])] += 1
            texts.append((row["id"], row["response"]))
            if len(texts) > 2 * SAMPLE:
                texts = sorted(texts)[:SAMPLE]  # ids are hashes, so this sample is random but fixed
    sample = [text for _, text in sorted(texts)[:SAMPLE]]
    first = Counter(_verdict(row, "feedback", wording) for row in read_rows(folder / "critique.jsonl"))
    second = Counter(_verdict(row, "judgement", wording) for row in read_rows(folder / "judge.jsonl"))
    path = folder / "refine.jsonl"  # missing in the ablation without refinement
    same = Counter(
        answer_key(row["response"]) == answer_key(row["refinement"])
        for row in (read_rows(path) if path.is_file() else ())
        if row["status"] == "ok"
    )
    total = finishes.total()
    return {
        "mean_length": _share(tokens, total),
        "truncated": _share(finishes["length"], total),
        "stopped": _share(finishes["stop"], total),
        "distinct_1": distinct(sample, 1),
        "distinct_2": distinct(sample, 2),
        "self_bleu": self_bleu(sample[:BLEU_SAMPLE]),
        "entropy": entropy(answers),
        "yes": _yes(first + second),
        "critique_yes": _yes(first),
        "unparsed": _share(first[Verdict.UNKNOWN], first.total()),
        "judge_yes": _yes(second),
        "judge_unparsed": _share(second[Verdict.UNKNOWN], second.total()),
        "agreement": _share(same[True], same.total()),
    }


def alarms(name: str, figures: dict[str, float | None], limits: MonitorsConfig) -> list[Alarm]:
    """One for each figure of the round `name` beyond its bound."""
    found = []
    for bound, limit in limits.bounds().items():
        side, _, figure = bound.partition("_")
        value = figures[figure]
        if value is not None and (value < limit if side == "min" else value > limit):
            label, meaning, remedy = MEANING[figure]
            finding = f"{label} {value:.3f}, {'below' if side == 'min' else 'above'} {limit:g}: {meaning}"
            found.append(Alarm(kind="monitor", place=name, finding=finding, remedy=remedy))
    return found


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Distinct n-grams of words / all n-grams. None if no text has n words."""
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else None


def entropy(counts: Counter[str]) -> float | None:
    """Shannon entropy of the answers / that of all different answers, in [0, 1]. None below two."""
    total = counts.total()
    if total < 2:
        return None
    return max(0.0, -sum(c / total * math.log(c / total) for c in counts.values()) / math.log(total))


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU-4 of each text with all others as references, in [0, 1]. None below two texts.

    It is sacrebleu's sentence BLEU. Words are separated by spaces, and case counts. For short
    texts, n goes only up to their length. An n without a match counts as half a match ("floor"
    smoothing with 0.5), so that one missing 4-gram does not give 0. A text without any common word
    has 0.
    """
    if len(texts) < 2:
        return None
    # Imported here: it takes a tenth of a second, and most commands do not need it.
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(tokenize="none", effective_order=True, smooth_method="floor", smooth_value=0.5)
    scores = [bleu.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
    return min(1.0, sum(scores) / len(scores) / 100)


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _verdict(row: dict[str, Any], column: str, wording: Wording) -> Verdict:
    return wording.parse(row[column]) if row["status"] == "ok" else Verdict.UNKNOWN


def _yes(verdicts: Counter[Verdict]) -> float | None:
    yes = verdicts[Verdict.QUALIFIED]
    return _share(yes, yes + verdicts[Verdict.NOT_QUALIFIED])


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
