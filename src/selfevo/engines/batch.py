"""Rows of prompts that a transformers model continues together, a token a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from selfevo.engines.cache import BatchCache, States, holds_plain_layers
from selfevo.engines.cpu.kernels import takes_windows, windows_of
from selfevo.engines.cuda.decoding import Steps
from selfevo.method.records import Turns

# Tokens of one prefill, padding included. The first number limits the memory of its activations.
# The second keeps the hardware busy: a prefill is not made smaller than this to get rows of equal
# length.
_PREFILL_TOKENS, _LEAST_TOKENS = 4096, 256
_ON_CUDA = 16  # times as many


@dataclass(frozen=True, slots=True)
class Row:
    """A request as tokens. `name` identifies the conversation. The first `known` tokens have states."""

    ids: list[int]
    seed: int = 0
    name: Turns = ()
    states: States | None = None
    known: int = 0


@dataclass(frozen=True, slots=True)
class Batching:
    """How a model's rows are computed together.

    `buffers`: states lie in buffers of our own, so that prompts can be prefilled in groups and
    states kept from call to call. `fixed`: decoding works on buffers of fixed size (CUDA graphs).
    `windows`: attention does not read the columns that its rows do not use (CPU).
    """

    buffers: bool = False
    fixed: bool = False
    windows: bool = False

    @staticmethod
    def candidates(model: Any) -> list[Batching]:
        """From the fastest to the slowest. Which of them is right for a model has to be tried."""
        cuda, found = model.device.type == "cuda", [Batching()]
        if holds_plain_layers(model.config):
            found = [Batching(buffers=True, fixed=cuda, windows=takes_windows(model)), Batching(buffers=True), *found]
        return found


class Batch:
    """Computes the states of the rows' prompts, and then of a token of each row at every step.

    `logits` (rows, vocabulary) belong to the last token of each row. `prefilled` counts the prompt
    tokens that were computed, padding included. `limit` is the largest number of new tokens, and
    `padding` a token.
    """

    def __init__(self, model: Any, rows: Sequence[Row], limit: int, padding: int, batching: Batching) -> None:
        self._model, self._rows, self._batching = model, rows, batching
        self.prefilled = 0
        self._mask: torch.Tensor  # (rows, columns): the columns in use
        self._width: int  # the first column behind the prompts
        self.logits = self._prefill(limit, padding)
        self._steps = Steps(model, self._cache, self._mask, self._width) if batching.fixed else None
        self._step = 0

    def step(self, tokens: torch.Tensor) -> None:
        """Appends `tokens` (rows)."""
        column = self._width + self._step
        self._step += 1
        if self._steps is not None:
            self.logits = self._steps(tokens)
            return
        self._mask[:, column] = True
        mask = self._mask[:, : column + 1]
        self.logits = self._forward(tokens[:, None], mask, mask.sum(-1, keepdim=True) - 1, decoding=True)

    def keep(self, places: torch.Tensor) -> None:
        """Goes on with the rows at `places` alone, in this order."""
        self._mask[: len(places)] = self._mask[places]  # in place: the steps of fixed size hold it too
        self._mask = self._mask[: len(places)]
        self._cache.batch_select_indices(places)

    def states(self, place: int, row: int, written: list[int]) -> States | None:
        """Those of the row that came in at `row` and is at `place` now, with the first of its new tokens."""
        if not self._batching.buffers:
            return None
        columns = self._mask[place, : self._width + len(written)].nonzero()[:, 0]
        return self._cache.take(place, columns, self._rows[row].ids + written)  # type: ignore[no-any-return]

    def _prefill(self, limit: int, padding: int) -> torch.Tensor:
        """Computes the states of the prompts, except for tokens whose states are known.

        All prompts end in the same column, so one column of logits serves all rows. There may be
        unused columns between the known tokens of a prompt and the others.
        """
        rows, device, buffers = self._rows, self._model.device, self._batching.buffers
        sizes = [len(row.ids) - row.known for row in rows]
        groups = group(sizes, _ON_CUDA if device.type == "cuda" else 1) if buffers else [range(len(rows))]
        width = max(max(rows[i].known for i in g) + max(sizes[i] for i in g) for g in groups)
        columns = -(-(width + limit) // 8) * 8  # a multiple of 8, as the kernels of a CUDA device want it
        self._width = width
        self._mask = mask = torch.zeros((len(rows), columns), dtype=torch.bool, device=device)
        self._cache: Any = (
            BatchCache(self._model.config, len(rows), columns) if buffers else DynamicCache(config=self._model.config)
        )
        logits = []
        for part in groups:
            new = max(sizes[i] for i in part)
            known = max(rows[i].known for i in part)
            ids = torch.full((len(part), new), padding, device=device)
            for place, i in enumerate(part):
                row, fresh = rows[i], sizes[i]
                ids[place, new - fresh :] = torch.tensor(row.ids[row.known :], device=device)
                mask[i, width - fresh : width] = True
                if row.states is not None:
                    mask[i, width - new - row.known : width - new] = True
                    self._cache.load(i, width - new, row.states, row.known)
            chosen, start = slice(part[0], part[-1] + 1), width - new - known
            if buffers:
                self._cache.window(chosen, start, width - new)
            self.prefilled += ids.numel()
            positions = (mask[chosen, start:width].cumsum(-1) - 1).clamp(min=0)[:, known:]
            logits.append(self._forward(ids, mask[chosen, start:width], positions))
        if buffers:
            self._cache.window(slice(0, len(rows)), 0, width)
        return torch.cat(logits)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, decoding: bool = False
    ) -> torch.Tensor:
        """Logits (rows, vocabulary) of the last column."""
        more = {"windows": windows_of(mask, self._model.dtype)} if decoding and self._batching.windows else {}
        logits: torch.Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **more,
        ).logits[:, -1]
        return logits


def group(sizes: Sequence[int], times: int = 1) -> list[range]:
    """Groups neighbouring rows for a prefill, within _PREFILL_TOKENS and of similar size if possible."""
    most, least = _PREFILL_TOKENS * times, _LEAST_TOKENS * times
    groups, start = [], 0
    for end in range(1, len(sizes) + 1):
        if end < len(sizes):
            padded = (end + 1 - start) * max(sizes[start : end + 1])
            full = sum(sizes[start:end]) >= least and padded > 1.05 * sum(sizes[start : end + 1])
            if padded <= most and not full:
                continue
        groups.append(range(start, end))
        start = end
    return groups


@torch.inference_mode()
def alone(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits (vocabulary) behind `ids`, with nothing beside them and nothing kept."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
    return logits.float()


@dataclass(frozen=True, slots=True)
class Trial:
    """Two conversations of different length, and the logits of `alone` behind them, to try a Batching with.

    Each is continued by the tokens that the model finds the likeliest: there its logits depend least
    on rounding. `logits` belong to the first prompt, the second, both with one more token, and the
    second with two.
    """

    prompts: tuple[list[int], list[int]]
    tokens: tuple[int, int, int]
    logits: list[torch.Tensor]

    @staticmethod
    def of(model: Any, first: list[int], second: list[int]) -> Trial:
        a, b = alone(model, first), alone(model, second)
        s, t = int(a.argmax()), int(b.argmax())
        after = alone(model, [*second, t])
        u = int(after.argmax())
        logits = [a, b, alone(model, [*first, s]), after, alone(model, [*second, t, u])]
        return Trial((first, second), (s, t, u), logits)


def agrees(model: Any, batching: Batching, trial: Trial) -> bool:
    """Whether `batching` is right for `model`, by a try.

    The first row leaves before the last step, and comes back with its states.
    """
    (first, second), (s, t, u), expected = trial.prompts, trial.tokens, trial.logits
    try:
        with torch.inference_mode():
            batch = Batch(model, [Row(first), Row(second)], 2, s, batching)
            found = [*batch.logits.clone()]
            batch.step(torch.tensor([s, t], device=model.device))
            found += [*batch.logits.clone()]
            states = batch.states(0, 0, [s])
            batch.keep(torch.tensor([1], device=model.device))
            batch.step(torch.tensor([u], device=model.device))
            found += [*batch.logits]
            if states is not None:  # unused columns come between these and the one new token
                rows = [Row([*first, s], states=states, known=len(first)), Row(second)]
                found += [*Batch(model, rows, 1, s, batching).logits]
                expected = [*expected, expected[2], expected[1]]
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model's code raises that was not made for this
        return False
    most = 1e-3 if torch.finfo(model.dtype).bits >= 32 else 0.12
    return all(_apart(a.float(), b) < most for a, b in zip(found, expected, strict=True))


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The distance, as a share of how much the expected logits vary."""
    return float((found - expected).norm() / (expected - expected.mean()).norm().clamp(min=1e-12))
