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
from transformers import GenerationConfig

from selfevo.engines.batch import Batch, Batching, Row, Trial, agrees
from selfevo.engines.cache import Memory
from selfevo.engines.cpu import kernels
from selfevo.engines.cpu.kernels import argmax
from selfevo.engines.cuda import decoding
from selfevo.errors import EngineError
from selfevo.method.protocols import Finish, Generation, Request, Sampling
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer, pick_device, pick_dtype, quiet
from selfevo.models.loading import check_ids, load_model
from selfevo.models.sampling import Picked, drawn, uniform

# Ended rows are removed from the batch when they are more than this share of it. It is not done at
# every step, because it copies the cache.
_COMPACT_ABOVE = 0.1

_TRIALS = (
    ("Hello", "How many apples are two and three?"),
    ("Name a colour.", "Which month has the fewest days, and how many are they?"),
    ("Why?", "Write a short sentence about the sea."),
)

logger = logging.getLogger(__name__)


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
    _batching: Batching | None = None  # None: a prompt at a time
    _memory: Memory = field(init=False)

    def __post_init__(self) -> None:
        self._memory = Memory(int(self.kv_cache_gib * 2**30))

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        chat = self._load(model)
        positions = int(getattr(self._model.config.get_text_config(), "max_position_embeddings", 0) or 0)
        room = positions if positions > 0 else 2**31  # XLNet says -1: no limit
        prompts = [chat.prompt(request.turns, request.system, room) for request in requests]
        check_ids(model, self._model, prompts)
        results = [Generation("", "overlong", len(ids), 0) for ids in prompts]
        rows: list[tuple[int, Row]] = []
        for i, (request, ids) in enumerate(zip(requests, prompts, strict=True)):
            if len(ids) + sampling.max_new_tokens <= room:
                states, known = self._memory.find(request.beginning, ids)
                rows.append((i, Row(ids, request.seed, request.beginning, states, known)))
        rows.sort(key=lambda row: (len(row[1].ids) - row[1].known, len(row[1].ids)))
        start, size = 0, self.batch_size if self._batching else 1
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
        self._path = self._model = self._chat = self._batching = None
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
            chat = Chat(load_tokenizer(path))
            self._model = self._load_model(path, device)
            pairs = [tuple(chat.prompt((words,)) for words in pair) for pair in _TRIALS]
            check_ids(path, self._model, [ids for pair in pairs for ids in pair])
            # In half precision one trial may fail by rounding alone, for example where it sends a
            # token to another expert.
            exact = torch.finfo(self._model.dtype).bits >= 32
            trials = [Trial.of(self._model, *pair) for pair in (pairs[:1] if exact else pairs)]
            kernels.speed_up(self._model)
            decoding.speed_up(self._model)
            self._batching = self._find_batching(trials)
            if self._batching is None:
                self._model = self._load_model(path, device)  # as it was before speed_up
                self._batching = self._find_batching(trials)
        except BaseException:
            self.release()
            raise
        if self._batching is None:
            logger.warning(
                "%s is asked one prompt at a time, which is slow: prompts of different length cannot share a batch "
                "with its kind of model (%s)",
                path,
                self._model.config.model_type,
            )
        self._stops = chat.stop_ids(self._model.generation_config.eos_token_id)
        self._path, self._chat = path, chat
        return chat

    def _load_model(self, path: Path, device: torch.device) -> Any:
        return load_model(path, pick_dtype(self.dtype, device)).to(device).eval()

    def _find_batching(self, trials: Sequence[Trial]) -> Batching | None:
        """The fastest way to compute rows together that is right for the model."""
        candidates = Batching.candidates(self._model)
        return next((b for b in candidates if any(agrees(self._model, b, trial) for trial in trials)), None)

    @torch.inference_mode()
    def _decode(self, rows: Sequence[Row], sampling: Sampling) -> list[tuple[list[int], Finish]]:
        """Continues each prompt. Returns its new tokens without the stop token, and why it ended."""
        if self._batching is None:
            return [self._continue_alone(row, sampling) for row in rows]
        device, limit = self._model.device, sampling.max_new_tokens
        stops = torch.tensor(self._stops, device=device)
        # One column of uniform numbers per step. Each row has its own stream, from its own seed.
        draws = torch.tensor(np.stack([uniform(row.seed, limit) for row in rows]), device=device)
        batch = Batch(self._model, rows, limit, min(self._stops), self._batching)
        self.prefilled += batch.prefilled
        written = torch.empty((len(rows), limit), dtype=torch.long, device=device)
        ended = torch.full((len(rows),), -1, dtype=torch.long, device=device)  # step at which a row stopped
        active = torch.arange(len(rows), device=device)
        seen = _seen(rows, batch.logits) if sampling.repetition_penalty != 1 else None
        for step in range(limit):
            logits = penalised(batch.logits, seen, sampling, active)
            tokens = _pick(logits, draws[active, step], sampling)
            if seen is not None:
                seen[active, tokens] = True
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
                        self._remember(rows[row], batch, place, row, written[row, :length].tolist())
                if last:
                    break
                keep = _closed_up(going)
                active, tokens = active[keep], tokens[keep]
                batch.keep(keep)
            batch.step(tokens)
        return [_cut(row, end) for row, end in zip(written.tolist(), ended.tolist(), strict=True)]

    def _continue_alone(self, row: Row, sampling: Sampling) -> tuple[list[int], Finish]:
        """As _decode, with transformers' own generate."""
        ids = torch.tensor([row.ids], device=self._model.device)
        settings = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=self._stops,
            pad_token_id=self._stops[0],
        )
        draws = torch.tensor(uniform(row.seed, sampling.max_new_tokens))[None]
        processors = [Picked(draws, ids.shape[1], sampling)]
        out = self._model.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=settings, logits_processor=processors
        )
        self.prefilled += ids.numel()
        written = out[0, ids.shape[1] :].tolist()
        return _cut(written, next((i for i, token in enumerate(written) if token in self._stops), -1))

    def _remember(self, row: Row, batch: Batch, place: int, number: int, written: list[int]) -> None:
        """Keeps the states of a row that leaves the batch: those of its prompt and of its new text."""
        states = batch.states(place, number, written) if self._memory.budget else None
        if states is not None:
            self._memory.keep(row.name, states)


def _cut(written: list[int], end: int) -> tuple[list[int], Finish]:
    return (written[:end], "stop") if end >= 0 else (written, "length")


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _closed_up(going: torch.Tensor) -> torch.Tensor:
    """The rows that go on. The last ones fill the places of ended rows, so that few are copied."""
    count = int(going.sum())
    order = torch.arange(count, device=going.device)
    order[~going[:count]] = going[count:].nonzero()[:, 0] + count
    return order


def _seen(rows: Sequence[Row], logits: torch.Tensor) -> torch.Tensor:
    """The tokens of each row's prompt, as a mask (rows, vocabulary)."""
    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    for place, row in enumerate(rows):
        seen[place, torch.tensor(row.ids, device=logits.device)] = True
    return seen


def penalised(
    logits: torch.Tensor, seen: torch.Tensor | None, sampling: Sampling, active: torch.Tensor
) -> torch.Tensor:
    """Logits in which the tokens of each conversation so far are less likely, as transformers does it."""
    if seen is None:
        return logits
    penalty = sampling.repetition_penalty
    return torch.where(seen[active], torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def _pick(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Next token per row from logits (rows, vocabulary) and one uniform number per row: greedy, or inverse-CDF."""
    if sampling.temperature == 0:
        return argmax(logits)
    return drawn(logits, draws, sampling)
