"""Records -> weighted training sequences: the two losses of the method.

L_meta = - E over D_meta [ log P(f | p, r) + log P(r^ | p, r, f) + beta * log P(r^ | p) ]
L_self = - E over D_self [ log P(r^ | p) ]   together with L_meta on D_meta        (arXiv 2310.00533, eq. 1 and 3)
"""

from __future__ import annotations

from collections.abc import Iterable

from selfevo.method import prompts
from selfevo.method.records import Example, Judged, Prompt, Refined, Turns, content_id


def meta_examples(d_meta: Iterable[Refined], beta: float) -> list[Example]:
    """D_meta as sequences.

    The first two terms are one sequence per trajectory, `p r CRITIQUE f REFINE r^` with f and r^ labelled: each is
    conditioned on exactly what stands before it. The third is `p r^` with weight `beta`, once per prompt however many
    responses were criticised, so that prompts with many trajectories do not count as more labels.
    """
    d_meta = list(d_meta)
    skills = [
        _example(row, (*prompts.refine(row, row.response, row.feedback), row.refinement), (0.0, 1.0, 1.0), "skills")
        for row in d_meta
    ]
    return skills + (answer_examples(d_meta, beta) if beta > 0 else [])


def answer_examples(d_meta: Iterable[Refined], weight: float = 1.0) -> list[Example]:
    """D_QA: one pair (p, r^) per prompt. With weight 1 alone it is the supervised baseline."""
    first: dict[Turns, Refined] = {}
    for row in d_meta:
        first.setdefault(row.conversation, row)
    return [_answer(row, row.refinement, weight, "answer") for row in first.values()]


def self_examples(kept: Iterable[Judged]) -> list[Example]:
    """D_self of one round."""
    return [_answer(row, row.refinement, 1.0, "self") for row in kept]


def preference_examples(kept: Iterable[Judged]) -> list[Example]:
    """D_self of one round as pairs, r^ preferred to r, where they differ: for DPO in the place of L_self."""
    return [
        Example(
            content_id(*_named(row), row.refinement, row.response),
            (*prompts.respond(row), row.refinement),
            _unlabelled(row, 1.0),
            "preference",
            row.response,
            row.system,
        )
        for row in kept
        if row.refinement.strip() != row.response.strip()
    ]


def prompt_examples(kept: Iterable[Judged]) -> list[Example]:
    """The prompts of a round alone, each once: for GRPO, which samples its own responses."""
    first: dict[Turns, Judged] = {}
    for row in kept:
        first.setdefault(row.conversation, row)
    return [
        Example(content_id(*_named(row)), prompts.respond(row), _unlabelled(row), "prompt", system=row.system)
        for row in first.values()
    ]


def _answer(row: Prompt, text: str, weight: float, term: str) -> Example:
    return _example(row, (*prompts.respond(row), text), (weight,), term)


def _example(row: Prompt, turns: Turns, weights: tuple[float, ...], term: str) -> Example:
    """`weights` of the assistant turns behind the prompt; those within it are never labelled."""
    labelled = _unlabelled(row, *weights)
    system = (row.system,) if row.system else ()
    return Example(content_id(turns, labelled, term, *system), turns, labelled, term, system=row.system)


def _unlabelled(row: Prompt, *weights: float) -> tuple[float, ...]:
    return (0.0,) * (len(row.history) // 2) + weights


def _named(row: Prompt) -> Turns:
    """What the id of an example says of its prompt: its text alone, where it has no more."""
    return row.conversation if row.system or row.history else (row.prompt,)
