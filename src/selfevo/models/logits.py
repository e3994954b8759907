"""Whether a model gives the same logits after it was merged, rounded, saved or loaded again."""

from __future__ import annotations

from typing import Any

import torch

_PROBES = (
    "How many apples are two and three? Write a short sentence about the sea, and say what is wrong with it.",
    "Sort these numbers: 12 45 23 67 89 31",
    "def average(values):\n    return sum(values) / len(values)\n",
)


@torch.no_grad()
def probe(model: Any, tokenizer: Any) -> torch.Tensor:
    """Logits (tokens, vocabulary) for some fixed texts, in float32 on the CPU."""
    rows = model.get_input_embeddings().weight.shape[0]
    texts = tokenizer(list(_PROBES), add_special_tokens=False)["input_ids"]
    model.eval()
    found = [
        model(input_ids=torch.tensor([[token % rows for token in ids]], device=model.device), use_cache=False).logits[0]
        for ids in texts
    ]
    return torch.cat(found).float().cpu()


def distances(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """How far apart two results of `probe` are at each token, as a share of how much the logits of `before` vary."""
    if before.shape != after.shape:
        return torch.full(before.shape[:1], torch.inf)
    spread = (before - before.mean(-1, keepdim=True)).norm(dim=-1).clamp(min=1e-12)
    apart: torch.Tensor = (after - before).norm(dim=-1) / spread
    return apart


def round_weights(model: Any, dtype: torch.dtype) -> None:
    """Gives what is stored of a model the values that it has in `dtype`, and leaves the precision it computes in."""
    for tensor in model.state_dict().values():  # without buffers that are not stored: they are made anew in full
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(dtype))
