"""A token that is drawn depends on its own row: its logits, its number, and what its conversation said."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from selfevo.method.protocols import Sampling
from selfevo.models.sampling import Picked, drawn, uniform


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(5),
        Sampling(5, temperature=1.0),
        Sampling(5, temperature=0.7, top_p=0.8, top_k=40, min_p=0.01),
        Sampling(5, temperature=1.0, repetition_penalty=1.5),
        Sampling(5, repetition_penalty=1.5),
    ],
)
def test_a_row_is_continued_alike_alone_and_beside_longer_ones(tiny_model: object, sampling: Sampling) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    rows = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 10, 11], [20]]

    def written(chosen: list[int]) -> list[list[int]]:
        width = max(len(rows[i]) for i in chosen)
        ids = torch.tensor([[0] * (width - len(rows[i])) + rows[i] for i in chosen])
        mask = torch.tensor([[0] * (width - len(rows[i])) + [1] * len(rows[i]) for i in chosen])
        draws = torch.stack([torch.tensor(uniform(i, 5)) for i in chosen])
        out = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=5,
            eos_token_id=None,
            pad_token_id=0,
            logits_processor=[Picked(draws, width, sampling, mask)],
        )
        return list(out[:, width:].tolist())

    assert written([0, 1, 2]) == [*written([0]), *written([1]), *written([2])]


def test_each_token_is_drawn_as_often_as_it_is_likely() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7]])).expand(10_000, -1)
    draws = torch.tensor(uniform(0, 10_000))
    shares = drawn(logits, draws, Sampling(1, temperature=1.0)).bincount() / 10_000
    assert shares.tolist() == pytest.approx([0.1, 0.2, 0.7], abs=0.02)
