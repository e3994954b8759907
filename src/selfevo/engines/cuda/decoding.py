"""Decoding on a CUDA device: a step is recorded once as a CUDA graph, then replayed.

A step of a small model is some five hundred short kernels. Starting them one by one takes the
processor longer than the device needs to run them. A graph starts them all at once. It repeats the
same kernels at the same addresses, so a step works on buffers of fixed size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from selfevo.engines.cache import BatchCache

logger = logging.getLogger(__name__)

_NAME = "selfevo_cuda"
# A graph serves this many more columns before the next one is recorded. More of them are fewer
# graphs, but attention reads columns that are not used yet.
_COLUMNS = 256


def speed_up(model: Any) -> None:
    """Changes a `model` on a CUDA device in place. Attention may differ in the last bit."""
    if model.device.type == "cuda" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_NAME)


class Steps:
    """The steps of decoding for one batch. Each call is a step: it takes tokens and returns logits.

    `mask` (rows, columns) tells the columns in use. A step writes the states of its tokens into the
    next column of `cache` and marks it in `mask`. `column` is the first one. Both may have rows after
    those of a call's tokens; what they hold is not used any more, and is overwritten.
    """

    def __init__(self, model: Any, cache: BatchCache, mask: torch.Tensor, column: int) -> None:
        self._model, self._cache, self._mask = model, cache, mask
        self._next = column
        self._column = torch.tensor([column], device=mask.device)
        self._tokens = torch.zeros((len(mask), 1), dtype=torch.long, device=mask.device)
        self._rows = self._columns = 0
        self._logits = torch.empty(0)
        self._graph: Any = None
        self._replay: Callable[[], None] = self._step

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) behind `tokens` (rows), one for each of the first rows."""
        rows = len(tokens)
        self._tokens[:rows, 0] = tokens
        if 2 * rows <= self._rows or self._next >= self._columns:
            self._begin(rows)
        self._replay()
        self._next += 1
        return self._logits[:rows]

    def _begin(self, rows: int) -> None:
        """Records the step for so many rows, and for columns up to the next multiple of _COLUMNS."""
        self._rows = rows
        self._columns = min(self._mask.shape[1], (self._next // _COLUMNS + 1) * _COLUMNS)
        self._cache.fix(rows, self._columns, self._column)
        self._graph = None
        if self._mask.device.type == "cuda":
            self._graph = _record(self._step)
            self._column.fill_(self._next)
        self._replay = self._graph.replay if self._graph is not None else self._step

    def _step(self) -> None:
        mask = self._mask[: self._rows, : self._columns]
        mask.index_fill_(1, self._column, True)
        bias = torch.zeros(mask.shape, dtype=self._model.dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
        self._logits = self._model(
            input_ids=self._tokens[: self._rows],
            attention_mask=bias[:, None, None],
            position_ids=mask.sum(-1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self._column.add_(1)


def _record(step: Callable[[], None]) -> Any:
    """A CUDA graph of `step`, or None where the model does something that cannot be recorded.

    Runs `step` once before, because libraries set up what they need in a first call.
    """
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        logger.warning("a decoding step cannot be recorded as a CUDA graph (%s); decoding is slower", error)
        return None
    return graph


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention that reads each key once for all heads of its group when there is one query a row."""
    rows, heads, columns, size = query.shape
    special = any(kwargs.get(name) is not None for name in ("position_bias", "softcap", "cache", "s_aux"))
    if columns > 1 or attention_mask is None or special:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    grouped = query.reshape(rows, key.shape[1], -1, size)  # the heads of a group as queries of one head
    attended = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return attended.reshape(rows, heads, columns, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
