"""A judge inside a run: it compares the answers of each model with those of a reference, in both orders.

An answer that wins scores 1, one that loses 0, a tie 0.5. What needs no judge is not asked: an incomplete answer loses
against a complete one, and equal answers are a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from selfevo.evaluation.pairwise import Comparison, Pair, comparisons_of, length_controlled, questions, shown
from selfevo.method.protocols import Generation
from selfevo.method.records import Prompt
from selfevo.rundir.results import Mode
from selfevo.rundir.scores import Comparisons, Score
from selfevo.tasks.base import Problem

Ask = Callable[[str, Sequence[Prompt]], list[Generation]]  # under the name of a stage


@dataclass(slots=True)
class Judge:
    """Grades the answers of one model. `reference` holds the other answers by prompt id; "" is an incomplete one."""

    ask: Ask
    reference: Mapping[str, str]
    compared: dict[Mode, Comparisons] = field(default_factory=dict)
    _known: dict[tuple[str, str], Comparison] = field(default_factory=dict)

    def grade(self, mode: Mode, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
        pairs: dict[tuple[str, str], Pair] = {}
        for problem, text in zip(problems, texts, strict=True):
            other, key = self.reference[problem.prompt.id], (problem.prompt.id, text)
            if text and other and text.strip() != other.strip() and key not in self._known:
                pairs[key] = Pair(shown(problem.prompt), text, other)
        if pairs:
            asked = [Prompt.of(question) for question in questions(list(pairs.values()))]
            found = comparisons_of(list(pairs.values()), self.ask(mode, asked))
            self._known |= dict(zip(pairs, found, strict=True))
        keys = [(problem.prompt.id, text) for problem, text in zip(problems, texts, strict=True)]
        self.compared[mode] = _figures([self._known[key] for key in keys if key in self._known])
        return [self._score(*key) for key in keys]

    def _score(self, prompt_id: str, text: str) -> Score:
        if (comparison := self._known.get((prompt_id, text))) is not None:
            return "?" if comparison.score is None else comparison.score
        other = self.reference[prompt_id]
        return 0.5 if bool(text) == bool(other) else float(bool(text))


def _figures(comparisons: Sequence[Comparison]) -> Comparisons:
    scores = [score for c in comparisons if (score := c.score) is not None]
    lengths = [(len(c.a), len(c.b)) for c in comparisons if c.score is not None]
    return Comparisons(
        no_reply=sum("no reply" in (c.ab, c.ba) for c in comparisons),
        flipped=sum(c.flipped for c in comparisons),
        length_controlled=round(length_controlled(scores, lengths), 4) if scores else None,
    )
