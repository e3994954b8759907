"""Records -> weighted training sequences: the two losses of the method.

L_meta = - E over D_meta [ log P(f | p, r) + log P(r^ | p, r, f) + beta * log P(r^ | p) ]
L_self = - E over D_self [ log P(r^ | p) ]   together with L_meta on D_meta        (arXiv 2310.00533, eq. 1 and 3)
"""

from __future__ import annotations

from collections.abc import Iterable

from selfevo import prompts
from selfevo.records import Example, Judged, Refined, content_id


def meta_examples(d_meta: Iterable[Refined], beta: float) -> list[Example]:
    """D_meta as sequences.

    The first two terms are one sequence per trajectory, `p r CRITIQUE f REFINE r^` with f and r^ labelled: each is
    conditioned on exactly what stands before it. The third is `p r^` with weight `beta`, once per prompt however many
    responses were criticised, so that prompts with many trajectories do not count as more labels.
    """
    d_meta = list(d_meta)
    skills = [
        _example((*prompts.refine(row.prompt, row.response, row.feedback), row.refinement), (0.0, 1.0, 1.0), "skills")
        for row in d_meta
    ]
    return skills + (answer_examples(d_meta, beta) if beta > 0 else [])


def answer_examples(d_meta: Iterable[Refined], weight: float = 1.0) -> list[Example]:
    """D_QA: one pair (p, r^) per prompt. With weight 1 alone it is the supervised baseline."""
    answers: dict[str, str] = {}
    for row in d_meta:
        answers.setdefault(row.prompt, row.refinement)
    return [_example((*prompts.respond(p), answer), (weight,), "answer") for p, answer in answers.items()]


def self_examples(kept: Iterable[Judged]) -> list[Example]:
    """D_self of one round."""
    return [_example((*prompts.respond(row.prompt), row.refinement), (1.0,), "self") for row in kept]


def preference_examples(kept: Iterable[Judged]) -> list[Example]:
    """D_self of one round as pairs, r^ preferred to r, where they differ: for DPO in the place of L_self."""
    return [
        Example(
            content_id(row.prompt, row.refinement, row.response),
            (row.prompt, row.refinement),
            (1.0,),
            "preference",
            row.response,
        )
        for row in kept
        if row.refinement.strip() != row.response.strip()
    ]


def prompt_examples(kept: Iterable[Judged]) -> list[Example]:
    """The prompts of a round alone, each once: for GRPO, which samples its own responses."""
    prompts = dict.fromkeys(row.prompt for row in kept)
    return [Example(content_id(prompt), (prompt,), (), "prompt") for prompt in prompts]


def _example(turns: tuple[str, ...], weights: tuple[float, ...], term: str) -> Example:
    return Example(content_id(turns, weights, term), turns, weights, term)
