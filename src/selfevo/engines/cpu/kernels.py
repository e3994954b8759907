"""Faster arithmetic on a CPU. Only attention may differ, in the last bit."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

logger = logging.getLogger(__name__)

_NAME = "selfevo_sdpa"
_BLOCK = 256  # columns
_WINDOWS = 4


def speed_up(model: Any) -> None:
    """Changes a `model` on a CPU in place. After this it can generate, but not be trained or saved."""
    if model.device.type != "cpu":
        return
    if model.dtype == torch.bfloat16:
        _pack(model)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_NAME)


@dataclass(frozen=True, slots=True)
class Window:
    """Some rows of a batch, and the first column that any of them attends to. Earlier ones are not read.

    `mask` (rows, 1, queries, columns from `start` on) is added to the scores if it holds numbers;
    if it is boolean, it selects the columns.
    """

    rows: slice
    start: int
    mask: torch.Tensor


class PackedLinear(torch.nn.Module):
    """A linear layer whose weights are packed for the CPU's matrix unit once, not at every call.

    torch.compile uses the same operators for a frozen model. With AMX and 128 rows it is 1.6 to 1.8
    times as fast as torch.nn.Linear (benchmarks/trajectories.py measures whole trajectories).
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return result


def argmax(rows: torch.Tensor) -> torch.Tensor:
    """The column of the first largest value in each row of a matrix (rows, columns).

    It makes two passes; the first only compares. In bf16 on a CPU this is five to eight times as
    fast as torch.argmax.
    """
    whole = rows.shape[1] // _BLOCK * _BLOCK
    if rows.device.type != "cpu" or whole == 0:
        return rows.argmax(-1)
    blocks = rows[:, :whole].reshape(len(rows), -1, _BLOCK)
    first = blocks.amax(-1).argmax(-1)
    at = torch.arange(len(rows))
    column: torch.Tensor = first * _BLOCK + blocks[at, first].argmax(-1)
    if whole < rows.shape[1]:
        rest = rows[:, whole:].argmax(-1) + whole
        column = torch.where(rows[at, rest] > rows[at, column], rest, column)
    return column


def takes_windows(model: Any) -> bool:
    """Whether the model passes the argument `windows` on to its attention."""
    parameters = inspect.signature(model.forward).parameters.values()
    return model.config._attn_implementation == _NAME and any(p.kind is p.VAR_KEYWORD for p in parameters)


def windows_of(mask: torch.Tensor, dtype: torch.dtype) -> list[Window]:
    """Windows for one step of decoding, from the mask (rows, columns) of the columns in use."""
    rows = len(mask)
    size = -(-rows // min(_WINDOWS, max(1, rows // 8)))
    first = mask.to(torch.uint8).argmax(-1)
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)[:, None, None]
    found = []
    for i in range(0, rows, size):
        start = int(first[i : i + size].min())
        found.append(Window(slice(i, i + size), start, bias[i : i + size, ..., start:]))
    return found


def _pack(model: torch.nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                try:
                    setattr(module, name, PackedLinear(child))
                except (
                    AttributeError,
                    RuntimeError,
                ) as error:  # the processor or the torch build has no such operators
                    logger.debug("weights are not packed: %s", error)
                    return


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    windows: Sequence[Window] = (),
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with grouped heads that does not copy keys and values, which is slow on a CPU."""
    if attention_mask is None or any(kwargs.get(name) is not None for name in ("position_bias", "softcap", "cache")):
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    rows, heads, columns, size = query.shape
    if columns == 1:
        # The heads of a group become queries of one head, so the fused kernel reads each key once
        # for all of them.
        query = query.reshape(rows, key.shape[1], -1, size)
    attended = [
        scaled_dot_product_attention(
            query[window.rows],
            key[window.rows, :, window.start :],
            value[window.rows, :, window.start :],
            attn_mask=window.mask,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for window in windows or [Window(slice(None), 0, attention_mask)]
    ]
    return torch.cat(attended).reshape(rows, heads, columns, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
