"""Batched generation with a transformers model: CPU or CUDA, bf16 where the hardware has it.

Differences from `model.generate`:

- Key-value states of an earlier stage are reused (cache.py), and their buffers are allocated once.
- Prompts are prefilled together with prompts of similar length, and finished rows leave the batch.
- Each row has its own stream of random numbers, so its text does not depend on the other rows of the
  batch. This is exact in float32; in bf16 the last bit still varies with the batch.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from selfevo.engines.cache import BatchCache, Memory, States, holds_plain_layers
from selfevo.engines.cpu import kernels
from selfevo.engines.cpu.kernels import argmax, takes_windows, windows_of
from selfevo.engines.cuda import decoding
from selfevo.errors import EngineError
from selfevo.method.protocols import Finish, Generation, Request, Sampling
from selfevo.method.records import Turns
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer, pick_device, pick_dtype, quiet

# Ended rows are removed from the batch when they are more than this share of it. It is not done at
# every step, because it copies the cache.
_COMPACT_ABOVE = 0.1
# Tokens of one prefill, padding included. The first number limits the memory of its activations.
# The second keeps the hardware busy: a prefill is not made smaller than this to get rows of equal
# length.
_PREFILL_TOKENS, _LEAST_TOKENS = 4096, 256
_ON_CUDA = 16  # times as many

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Row:
    """A request as tokens. `name` identifies the conversation. The first `known` tokens have states."""

    ids: list[int]
    seed: int
    name: Turns
    states: States | None
    known: int


@dataclass(slots=True)
class TransformersEngine:
    """Generates with transformers. Loads one model at a time.

    `dtype` is "auto", "bfloat16", "float16" or "float32"; `device` is "auto", "cpu" or "cuda".
    `kv_cache_gib` is the memory for key-value states that are kept from call to call; 0 keeps none.
    `prefilled` counts the prompt tokens computed so far, padding included.
    """

    batch_size: int = 128
    dtype: str = "auto"
    device: str = "auto"
    kv_cache_gib: float = 2.0
    prefilled: int = 0
    _path: Path | None = None
    _model: Any = None
    _chat: Chat | None = None
    _stops: list[int] = field(default_factory=list)
    _plain: bool = False
    _fixed: bool = False  # whether decoding works on buffers of fixed size
    _takes_windows: bool = False
    _memory: Memory = field(init=False)

    def __post_init__(self) -> None:
        self._memory = Memory(int(self.kv_cache_gib * 2**30))

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        chat = self._load(model)
        room = int(getattr(self._model.config, "max_position_embeddings", 0) or 2**31)
        prompts = [chat.prompt(request.turns, request.system, room) for request in requests]
        results = [Generation("", "overlong", len(ids), 0) for ids in prompts]
        rows: list[tuple[int, _Row]] = []
        for i, (request, ids) in enumerate(zip(requests, prompts, strict=True)):
            if len(ids) + sampling.max_new_tokens <= room:
                states, known = self._memory.find(request.beginning, ids) if self._plain else (None, 0)
                rows.append((i, _Row(ids, request.seed, request.beginning, states, known)))
        rows.sort(key=lambda row: (len(row[1].ids) - row[1].known, len(row[1].ids)))
        start, size = 0, self.batch_size
        while start < len(rows):
            batch = rows[start : start + size]
            try:
                written = self._decode([row for _, row in batch], sampling)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise EngineError(
                        f"out of memory with one prompt of {len(batch[0][1].ids)} tokens; give shorter "
                        "prompts, a smaller model or a larger device"
                    ) from error
                size = len(batch) // 2
                logger.warning("out of memory with %d rows in parallel; continuing with %d", len(batch), size)
                self._memory.clear()
                rows[start:] = [(i, replace(row, states=None, known=0)) for i, row in rows[start:]]
                continue
            for (i, row), (tokens, finish) in zip(batch, written, strict=True):
                text = chat.text(tokens)
                if finish == "stop" and not text:
                    finish = "empty"
                results[i] = Generation(text, finish, len(row.ids), len(tokens))
            start += len(batch)
        return results

    def release(self) -> None:
        self._path = self._model = self._chat = None
        self._memory.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self, path: Path) -> Chat:
        if self._path == path and self._chat is not None:
            return self._chat
        self.release()
        quiet()
        device = pick_device(self.device)
        try:
            tokenizer = load_tokenizer(path)
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=pick_dtype(self.dtype, device), use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise EngineError(f"cannot load a model from {path}: {error}") from error
        self._model = model.to(device).eval()
        kernels.speed_up(self._model)
        decoding.speed_up(self._model)
        self._plain = holds_plain_layers(model.config)
        self._fixed = self._plain and device.type == "cuda"
        self._takes_windows = self._plain and takes_windows(model)
        self._chat = Chat(tokenizer)
        self._stops = self._chat.stop_ids(model.generation_config.eos_token_id)
        self._path = path
        return self._chat

    @torch.inference_mode()
    def _decode(self, batch: Sequence[_Row], sampling: Sampling) -> list[tuple[list[int], Finish]]:
        """Continues each prompt. Returns its new tokens without the stop token, and why it ended."""
        device, rows, limit = self._model.device, len(batch), sampling.max_new_tokens
        stops = torch.tensor(self._stops, device=device)
        # One column of uniform numbers per step. Each row has its own stream, from its own seed.
        draws = torch.tensor(
            np.stack([np.random.default_rng(row.seed).random(limit, dtype=np.float32) for row in batch]), device=device
        )
        cache, mask, width, logits = self._prefill(batch, limit)
        written = torch.empty((rows, limit), dtype=torch.long, device=device)
        ended = torch.full((rows,), -1, dtype=torch.long, device=device)  # step at which a row stopped
        active = torch.arange(rows, device=device)
        steps = decoding.Steps(self._model, cache, mask, width) if self._fixed else None
        for step in range(limit):
            tokens = _pick(logits, draws[active, step], sampling)
            written[active, step] = tokens
            stopped = torch.isin(tokens, stops) & (ended[active] < 0)
            ended[active[stopped]] = step
            going = ended[active] < 0
            alive = int(going.sum())
            last = alive == 0 or step == limit - 1
            if last or alive < len(active) * (1 - _COMPACT_ABOVE):
                for place, (row, end) in enumerate(zip(active.tolist(), ended[active].tolist(), strict=True)):
                    if last or end >= 0:
                        length = end if end >= 0 else step  # tokens whose states have been computed
                        self._remember(batch[row], cache, place, mask[place, : width + length], written[row, :length])
                if last:
                    break
                keep = _closed_up(going)
                mask[: len(keep)] = mask[keep]  # in place: `steps` holds it too
                active, mask, tokens = active[keep], mask[: len(keep)], tokens[keep]
                cache.batch_select_indices(keep)
            if steps is not None:
                logits = steps(tokens)
                continue
            mask[:, width + step] = True
            positions = mask[:, : width + step + 1].sum(-1, keepdim=True) - 1
            logits = self._forward(tokens[:, None], mask[:, : width + step + 1], positions, cache)
        lengths = ended.tolist()
        return [
            (row[:length], "stop") if length >= 0 else (row, "length")
            for row, length in zip(written.tolist(), lengths, strict=True)
        ]

    def _prefill(self, batch: Sequence[_Row], limit: int) -> tuple[Any, torch.Tensor, int, torch.Tensor]:
        """Computes the states of the prompts, except for tokens whose states are known.

        Returns the cache, the mask (rows, columns) of the columns in use, the first column after
        the prompts, and the logits (rows, vocabulary) of each prompt's last token. All prompts end
        in the same column, so one column of logits serves all rows. There may be unused columns
        between the known tokens of a prompt and the others.
        """
        device = self._model.device
        sizes = [len(row.ids) - row.known for row in batch]
        groups = _groups(sizes, _ON_CUDA if device.type == "cuda" else 1) if self._plain else [range(len(batch))]
        width = max(max(batch[i].known for i in g) + max(len(batch[i].ids) - batch[i].known for i in g) for g in groups)
        columns = -(-(width + limit) // 8) * 8  # a multiple of 8, as the kernels of a CUDA device want it
        mask = torch.zeros((len(batch), columns), dtype=torch.bool, device=device)
        cache: Any = BatchCache(self._model.config, len(batch), columns) if self._plain else None
        logits = []
        for group in groups:
            new = max(len(batch[i].ids) - batch[i].known for i in group)
            known = max(batch[i].known for i in group) if self._plain else 0
            ids = torch.full((len(group), new), min(self._stops), device=device)
            for place, i in enumerate(group):
                row = batch[i]
                fresh = len(row.ids) - row.known
                ids[place, new - fresh :] = torch.tensor(row.ids[row.known :], device=device)
                mask[i, width - fresh : width] = True
                if row.states is not None:
                    mask[i, width - new - row.known : width - new] = True
                    cache.load(i, width - new, row.states, row.known)
            rows, start = slice(group[0], group[-1] + 1), width - new - known
            if self._plain:
                cache.window(rows, start, width - new)
            else:
                cache = DynamicCache(config=self._model.config)
            self.prefilled += ids.numel()
            positions = (mask[rows, start:width].cumsum(-1) - 1).clamp(min=0)[:, known:]
            logits.append(self._forward(ids, mask[rows, start:width], positions, cache))
        if self._plain:
            cache.window(slice(0, len(batch)), 0, width)
        return cache, mask, width, torch.cat(logits)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Logits (rows, vocabulary) of the last column."""
        decoding = ids.shape[1] == 1 and self._takes_windows
        more = {"windows": windows_of(mask, self._model.dtype)} if decoding else {}
        logits: torch.Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **more,
        ).logits[:, -1]
        return logits

    def _remember(self, row: _Row, cache: Any, place: int, mask: torch.Tensor, written: torch.Tensor) -> None:
        """Keeps the states of a row that leaves the batch: those of its prompt and of its new text."""
        if self._plain and self._memory.budget:
            states = cache.take(place, mask.nonzero()[:, 0], row.ids + written.tolist())
            self._memory.keep(row.name, states)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _groups(sizes: Sequence[int], times: int = 1) -> list[range]:
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


def _closed_up(going: torch.Tensor) -> torch.Tensor:
    """The rows that go on. The last ones fill the places of ended rows, so that few are copied."""
    count = int(going.sum())
    order = torch.arange(count, device=going.device)
    order[~going[:count]] = going[count:].nonzero()[:, 0] + count
    return order


def _pick(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Next token per row from logits (rows, vocabulary) and one uniform number per row: greedy, or inverse-CDF."""
    if sampling.temperature == 0:
        return argmax(logits)
    probabilities = torch.softmax(logits.float() / sampling.temperature, -1)
    if sampling.top_p == 1:  # then no sorting is needed, which would be most of the work
        return _invert(probabilities.cumsum(-1), draws)
    ordered, order = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    within = ordered * (before < sampling.top_p)  # includes the token that crosses top_p
    return order.gather(-1, _invert(within.cumsum(-1), draws)[:, None])[:, 0]


def _invert(cumulative: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The column into which each row's number in [0, 1) falls, never one with probability 0."""
    total = cumulative[:, -1:].contiguous()
    columns = torch.searchsorted(cumulative, draws[:, None] * total, right=True)
    return columns.minimum(torch.searchsorted(cumulative, total))[:, 0]
