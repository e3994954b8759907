"""Batched generation with a transformers model: CPU or CUDA, bf16 where the hardware has it.

Differs from `model.generate`: the key-value cache is allocated once instead of grown by concatenation, finished rows
leave the batch, and sampling draws from a stream per row, so that a row's text does not depend on its batch mates
(exactly in float32; bf16 arithmetic still varies in the last bit with the batch).
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer

from selfevo.chat import Chat
from selfevo.errors import EngineError
from selfevo.protocols import Finish, Generation, Request, Sampling
from selfevo.torch_setup import load_tokenizer, pick_device, pick_dtype, quiet

# Rows that ended are dropped from the batch when they are more than this share of it: gathering the cache costs a
# copy, so not at every step.
_COMPACT_ABOVE = 0.25


@dataclass(slots=True)
class TransformersEngine:
    """`dtype`: "auto", "bfloat16", "float32"; `device`: "auto", "cpu", "cuda". Loads one model at a time."""

    batch_size: int = 128
    dtype: str = "auto"
    device: str = "auto"
    _path: Path | None = None
    _model: Any = None
    _chat: Chat | None = None
    _stops: frozenset[int] = field(default_factory=frozenset)
    _longest: int = 1  # characters of the longest token

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        chat = self._load(model)
        room = int(getattr(self._model.config, "max_position_embeddings", 0) or 2**31)
        # A text that is too long in its longest tokens is not tokenised: megabytes would take minutes.
        least = [sum(map(len, request.turns)) // self._longest for request in requests]
        prompts = [
            chat.prompt(request.turns) if count <= room else [0] * count
            for request, count in zip(requests, least, strict=True)
        ]
        fits = [i for i, ids in enumerate(prompts) if len(ids) + sampling.max_new_tokens <= room]
        fits.sort(key=lambda i: len(prompts[i]))
        results = [Generation("", "overlong", len(ids), 0) for ids in prompts]
        for start in range(0, len(fits), self.batch_size):
            batch = fits[start : start + self.batch_size]
            seeds = [requests[i].seed for i in batch]
            for i, (tokens, finish) in zip(
                batch, self._decode([prompts[i] for i in batch], seeds, sampling), strict=True
            ):
                text = chat.text(tokens)
                if finish == "stop" and not text:
                    finish = "empty"
                results[i] = Generation(text, finish, len(prompts[i]), len(tokens))
        return results

    def release(self) -> None:
        self._path = self._model = self._chat = None
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
        self._chat = Chat(tokenizer)
        eos = model.generation_config.eos_token_id
        self._stops = frozenset(
            [self._chat.stop_id, *(eos if isinstance(eos, list) else [eos] if eos is not None else [])]
        )
        self._longest = max(map(len, tokenizer.get_vocab()))
        self._path = path
        return self._chat

    @torch.inference_mode()
    def _decode(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> list[tuple[list[int], Finish]]:
        """Continues each prompt; returns the new tokens without the stop token, and why the row ended."""
        device, rows, longest, limit = self._model.device, len(prompts), len(prompts[-1]), sampling.max_new_tokens
        stops = torch.tensor(sorted(self._stops), device=device)
        # Left padding: every row's last token is in the last column, so one column of logits serves all rows.
        ids = torch.full((rows, longest), int(stops[0]), device=device)
        mask = torch.ones((rows, longest + limit), dtype=torch.long, device=device)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=device)
            mask[row, : longest - len(prompt)] = 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        # One column of uniform numbers per step, one stream per row, drawn from the row's own seed.
        draws = torch.tensor(
            np.stack([np.random.default_rng(seed).random(limit, dtype=np.float32) for seed in seeds]), device=device
        )
        cache = _preallocated_cache(self._model.config, limit)
        written = torch.empty((rows, limit), dtype=torch.long, device=device)
        ended = torch.full((rows,), -1, dtype=torch.long, device=device)  # step at which a row stopped
        active = torch.arange(rows, device=device)
        inputs, past = ids, 0
        for step in range(limit):
            width = longest + step
            logits = self._model(
                input_ids=inputs,
                attention_mask=mask[:, :width],
                position_ids=positions[:, past:width],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            tokens = _pick(logits, draws[active, step], sampling)
            written[active, step] = tokens
            stopped = torch.isin(tokens, stops) & (ended[active] < 0)
            ended[active[stopped]] = step
            going = ended[active] < 0
            alive = int(going.sum())
            if alive == 0:
                break
            if alive < len(active) * (1 - _COMPACT_ABOVE):
                keep = going.nonzero()[:, 0]
                active, mask, positions, tokens = active[keep], mask[keep], positions[keep], tokens[keep]
                cache.batch_select_indices(keep)
            inputs, past = tokens[:, None], width
        lengths = ended.tolist()
        return [
            (row[:length], "stop") if length >= 0 else (row, "length")
            for row, length in zip(written.tolist(), lengths, strict=True)
        ]


def _pick(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Next token per row from logits (rows, vocabulary) and one uniform number per row: greedy, or inverse-CDF."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / sampling.temperature, -1)
    ordered, order = probabilities.sort(-1, descending=True)
    cumulative = ordered.cumsum(-1)
    total = cumulative[:, -1:]
    if sampling.top_p < 1:  # the smallest set whose mass reaches top_p, the token that crosses it included
        within = (cumulative - ordered) < sampling.top_p
        total = (ordered * within).sum(-1, keepdim=True)
    rank = (cumulative < draws[:, None] * total).sum(-1).clamp(max=logits.shape[-1] - 1)
    return order.gather(-1, rank[:, None])[:, 0]


class _PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """Room for the prompt and every new token from the start: a step writes one column instead of copying them all.

    Buffers are (rows, key-value heads, columns, head size); `keys` and `values` are views of the filled columns.
    """

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra, self.filled = extra, 0
        self.keys: Any
        self.values: Any
        self.is_initialized: bool

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows, heads, columns, size = key_states.shape
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.key_buffer = key_states.new_empty((rows, heads, columns + self.extra, size))
            self.value_buffer = value_states.new_empty((rows, heads, columns + self.extra, value_states.shape[-1]))
            self.is_initialized = True
        self.key_buffer[:, :, self.filled : self.filled + columns] = key_states
        self.value_buffer[:, :, self.filled : self.filled + columns] = value_states
        self.filled += columns
        self._view()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.key_buffer, self.value_buffer = self.key_buffer[indices], self.value_buffer[indices]
        self._view()

    def _view(self) -> None:
        self.keys, self.values = self.key_buffer[:, :, : self.filled], self.value_buffer[:, :, : self.filled]


def _preallocated_cache(config: Any, extra: int) -> DynamicCache:
    """A cache whose plain layers are preallocated; sliding-window and other layers stay as transformers has them."""
    cache = DynamicCache(config=config)
    cache.layers = [_PreallocatedLayer(extra) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
