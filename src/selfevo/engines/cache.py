"""Key-value states: in buffers for a batch, and kept from stage to stage of a conversation.

A conversation grows: (p, r) is the start of (p, r, critique?, f), so its states need not be
computed again. Reuse changes values only in the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from selfevo.method.records import Turns


def holds_plain_layers(config: Any) -> bool:
    """Whether every layer attends to all earlier tokens. Else (sliding window, recurrent) no reuse."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@dataclass(slots=True)
class States:
    """Keys and values of the tokens `ids`, each (layers, key-value heads, tokens, head size)."""

    ids: list[int]
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def shared(self, ids: Sequence[int]) -> int:
        """The number of tokens at the start of `ids` that are the same here."""
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, ids, strict=False)))


@dataclass(slots=True)
class Memory:
    """The states of conversations, by their beginning, up to `budget` bytes. The rest is not kept."""

    budget: int
    used: int = 0
    _kept: dict[Turns, States] = field(default_factory=dict)

    def find(self, name: Turns, ids: Sequence[int]) -> tuple[States | None, int]:
        """States for the start of `ids`, and how many tokens they cover, never the last one."""
        states = self._kept.get(name)
        known = min(states.shared(ids), len(ids) - 1) if states else 0
        return (states, known) if known else (None, 0)

    def keep(self, name: Turns, states: States) -> None:
        before = self._kept.get(name)
        used = self.used - (before.bytes if before else 0) + states.bytes
        if used <= self.budget:
            self._kept[name], self.used = states, used

    def clear(self) -> None:
        self._kept.clear()
        self.used = 0


class BatchCache(DynamicCache):  # type: ignore[misc]
    """States of a batch in buffers of (rows, key-value heads, columns, head size), allocated once.

    A forward pass sees a window: some rows, and the columns from `start` to `filled`. It writes
    after `filled`.
    """

    def __init__(self, config: Any, rows: int, columns: int) -> None:
        super().__init__(config=config)
        self.layers: list[_Layer] = [_Layer(rows, columns) for _ in range(len(self.layers))]

    def window(self, rows: slice, start: int, filled: int) -> None:
        for layer in self.layers:
            layer.rows, layer.start, layer.filled = rows, start, filled

    def fix(self, rows: int, columns: int, column: torch.Tensor) -> None:
        """From now on a forward pass sees the first `rows` and `columns`, and writes at `column`, a tensor of one."""
        for layer in self.layers:
            layer.rows, layer.start, layer.filled, layer.column = slice(0, rows), 0, columns, column

    def load(self, row: int, column: int, states: States, count: int) -> None:
        """Puts the first `count` tokens of `states` into the columns of `row` that end before `column`."""
        for layer, keys, values in zip(self.layers, states.keys, states.values, strict=True):
            layer.write(slice(row, row + 1), column - count, keys[None, :, :count], values[None, :, :count])

    def take(self, row: int, columns: torch.Tensor, ids: list[int]) -> States:
        """A copy of the states of a row in some columns."""
        return States(
            ids,
            torch.stack([layer.key_buffer[row].index_select(1, columns) for layer in self.layers]),
            torch.stack([layer.value_buffer[row].index_select(1, columns) for layer in self.layers]),
        )


class _Layer(DynamicLayer):  # type: ignore[misc]
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.shape = (rows, columns)
        self.rows, self.start, self.filled = slice(0, rows), 0, 0
        self.column: torch.Tensor | None = None
        self.key_buffer: Any = None
        self.value_buffer: Any = None
        self.is_initialized = True

    def write(self, rows: slice, column: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        if self.key_buffer is None:
            (count, columns), heads = self.shape, keys.shape[1]
            # Zeros: a masked value must be a finite number, or NaN would spread through the
            # softmax.
            self.key_buffer = keys.new_zeros((count, heads, columns, keys.shape[-1]))
            self.value_buffer = values.new_zeros((count, heads, columns, values.shape[-1]))
        self.key_buffer[rows, :, column : column + keys.shape[2]] = keys
        self.value_buffer[rows, :, column : column + keys.shape[2]] = values

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.column is not None:
            self.key_buffer[self.rows].index_copy_(2, self.column, key_states)
            self.value_buffer[self.rows].index_copy_(2, self.column, value_states)
        else:
            self.write(self.rows, self.filled, key_states, value_states)
            self.filled += key_states.shape[2]
        view = (self.rows, slice(None), slice(self.start, self.filled))
        return self.key_buffer[view], self.value_buffer[view]

    def get_seq_length(self) -> int:
        return self.filled - self.start

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        if len(moved):
            for buffer in (self.key_buffer, self.value_buffer):
                buffer[moved] = buffer[indices[moved]]
        if self.column is None:
            self.rows = slice(0, len(indices))
