"""Picks tokens. Each row has its own stream of random numbers, so its text does not depend on the rows beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from selfevo.method.protocols import Sampling


def uniform(seed: int, count: int) -> Any:
    """`count` uniform numbers in [0, 1), one for each token of the row that has this seed."""
    return np.random.default_rng(seed).random(count, dtype=np.float32)


class Picked(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token a row, for `generate` with do_sample=False.

    `draws` (rows, new tokens) are uniform numbers. `start` is the width of the prompts, of which
    `mask` (rows, start) says what is no padding.
    """

    def __init__(self, draws: torch.Tensor, start: int, sampling: Sampling, mask: torch.Tensor | None = None) -> None:
        self.draws, self.start, self.sampling, self.mask = draws, start, sampling, mask

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step, sampling = ids.shape[1] - self.start, self.sampling
        if sampling.repetition_penalty != 1:
            if self.mask is not None:  # padding was not said: the last token of the prompt stands for it
                prompts = torch.where(self.mask > 0, ids[:, : self.start], ids[:, self.start - 1, None])
                ids = torch.cat([prompts, ids[:, self.start :]], 1)
            scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, scores)
        token = (
            drawn(scores, self.draws[:, step].to(scores.device), sampling)
            if sampling.temperature
            else scores.argmax(-1)
        )
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0)


def drawn(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Next token per row from logits (rows, vocabulary) and one uniform number per row, by the inverse CDF."""
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:  # in the order of transformers: top_k, top_p, min_p
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], -torch.inf)
    probabilities = torch.softmax(logits, -1)
    least = sampling.min_p * probabilities.amax(-1, keepdim=True) if sampling.min_p else None
    if sampling.top_p == 1:  # then no sorting is needed, which would be most of the work
        kept = probabilities if least is None else probabilities * (probabilities >= least)
        return _invert(kept.cumsum(-1), draws)
    ordered, order = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    within = ordered * (before < sampling.top_p)  # includes the token that crosses top_p
    if least is not None:
        within = within * (ordered >= least)
    return order.gather(-1, _invert(within.cumsum(-1), draws)[:, None])[:, 0]


def _invert(cumulative: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The column into which each row's number in [0, 1) falls, never one with probability 0."""
    total = cumulative[:, -1:].contiguous()
    columns = torch.searchsorted(cumulative, draws[:, None] * total, right=True)
    return columns.minimum(torch.searchsorted(cumulative, total))[:, 0]
