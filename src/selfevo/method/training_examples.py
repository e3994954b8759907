"""Turns records into weighted training sequences, for the two losses of the method.

L_meta = - E over D_meta [ log P(f | p, r) + log P(r^ | p, r, f) + beta * log P(r^ | p) ]
L_self = - E over D_self [ log P(r^ | p) ]   together with L_meta on D_meta        (arXiv 2310.00533, eq. 1 and 3)
"""

from __future__ import annotations

from collections.abc import Iterable

from selfevo.method import prompts
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.records import Example, Judged, Prompt, Refined, Turns, content_id
from selfevo.method.thinking import spoken


def meta_examples(d_meta: Iterable[Refined], beta: float, wording: Wording = ENGLISH) -> list[Example]:
    """D_meta as training sequences.

    The first two terms of L_meta share one sequence per trajectory, `p r CRITIQUE f REFINE r^`.
    Only f and r^ are in the loss, each conditioned on the text before it. The third term is `p r^`
    with weight `beta`, once per prompt, so that a prompt with many trajectories counts as one
    label.
    """
    d_meta = list(d_meta)
    skills = [
        _example(
            row,
            (*prompts.refine(row, row.response, row.feedback, wording), row.refinement),
            (0.0, 1.0, 1.0),
            "skills",
        )
        for row in d_meta
    ]
    return skills + (answer_examples(d_meta, beta) if beta > 0 else [])


def answer_examples(d_meta: Iterable[Refined], weight: float = 1.0) -> list[Example]:
    """D_QA: one pair (p, r^) per prompt. The supervised baseline trains on these alone, weight 1."""
    first: dict[Turns, Refined] = {}
    for row in d_meta:
        first.setdefault(row.conversation, row)
    return [_answer(row, row.refinement, weight, "answer") for row in first.values()]


def self_examples(kept: Iterable[Judged]) -> list[Example]:
    """D_self of one round."""
    return [_answer(row, row.refinement, 1.0, "self") for row in kept]


def preference_examples(kept: Iterable[Judged]) -> list[Example]:
    """D_self of one round as pairs, r^ preferred to r, where they differ. DPO trains on them."""
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
        if spoken(row.refinement).strip() != spoken(row.response).strip()
    ]


def prompt_examples(kept: Iterable[Judged]) -> list[Example]:
    """The prompts of a round, each once. GRPO samples its own responses to them."""
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
    """`weights` are for the assistant turns after the prompt. Turns inside the prompt get 0."""
    labelled = _unlabelled(row, *weights)
    system = (row.system,) if row.system else ()
    return Example(content_id(turns, labelled, term, *system), turns, labelled, term, system=row.system)


def _unlabelled(row: Prompt, *weights: float) -> tuple[float, ...]:
    return (0.0,) * (len(row.history) // 2) + weights


def _named(row: Prompt) -> Turns:
    """The part of an example's id that names the prompt: its text, plus system and history if any."""
    return row.conversation if row.system or row.history else (row.prompt,)
