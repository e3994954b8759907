"""Which attention a batch is computed with: the fused one, which holds no squares, where sequences are long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from selfevo.trainers.loss import logits_at

# Columns of a batch above which fused attention, with its backward pass, is faster on a CPU than plain products of
# matrices, whose memory grows with the square.
LONG = 256


def attention_for(given: str | None, device: str, columns: int) -> str:
    """The attention of a batch with so many columns, where trainer.attn_implementation is `given`."""
    return given or ("eager" if device == "cpu" and columns <= LONG else "sdpa")


class FusedWhereLong:
    """Chooses for each batch. The last choice stays, because gradient checkpointing computes a batch again."""

    def __init__(self, model: Any) -> None:
        self.config, self.otherwise = model.config, model.config._attn_implementation

    def mask(self, mask: torch.Tensor) -> torch.Tensor | None:
        """The mask (rows, columns) for the model; None for long rows: padding comes last, and no token looks ahead."""
        long = mask.shape[1] > LONG
        self.config._attn_implementation = "sdpa" if long else self.otherwise
        return None if long else mask


def fused_where_long(model: Any, rows: Sequence[Mapping[str, Any]]) -> FusedWhereLong | None:
    """None if no row is long, or if fused attention is not right for `model`."""
    longest = max(rows, key=lambda row: row["length"])
    fits = longest["length"] > LONG and fused_is_right(model, longest["input_ids"])
    return FusedWhereLong(model) if fits else None


@torch.no_grad()
def fused_is_right(model: Any, ids: list[int]) -> bool:
    """Whether fused attention without a mask gives what the model gives now, for a row and a shorter one, by a try.

    It does not for a model that caps its attention, has sinks, or looks ahead.
    """
    rows = torch.tensor([ids[:64]] * 2, device=model.device)
    mask = torch.ones_like(rows)
    mask[1, len(rows[0]) // 2 :] = 0
    labelled, training, now = mask[:, 1:] > 0, model.training, model.config._attn_implementation
    model.eval()
    try:
        expected = logits_at(model, rows, mask, labelled, False).float()
        model.config._attn_implementation = "sdpa"
        got = logits_at(model, rows, None, labelled, False).float()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model's code raises that was not made for this
        return False
    finally:
        model.config._attn_implementation = now
        model.train(training)
    most = 1e-4 if torch.finfo(model.dtype).bits >= 32 else 0.05
    return float((got - expected).norm()) <= most * float(expected.norm())
