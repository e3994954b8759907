"""TRL's GRPOTrainer, in steps that depend on the seed, the epoch and the global batch, not on the number of processes.

TRL draws the tokens of a batch from one stream per process, and each process shuffles what it has
generated. Here each response has a stream of its own, and the responses of all processes are dealt
to the steps in one order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation

from selfevo.method.protocols import Sampling
from selfevo.method.records import Turns, content_id
from selfevo.models.chat_template import Chat
from selfevo.models.sampling import Picked, uniform
from selfevo.trainers.order import InOrder

PROMPTS_AT_ONCE = 32  # most prompts whose responses are sampled together


class StepsOfAll(InOrder, GRPOTrainer):  # type: ignore[misc]
    """A GRPOTrainer that writes its responses with `chat` and `sampling`."""

    _buffered_inputs: list[dict[str, Any]] | None

    def __init__(self, chat: Chat, sampling: Sampling, **settings: Any) -> None:
        super().__init__(**settings)
        self.chat, self.sampling = chat, sampling
        self.rollout_func = lambda prompts, _: self._responses(prompts)

    def _responses(self, prompts: Sequence[Sequence[Mapping[str, str]]]) -> dict[str, Any]:
        """A response to each row of this process, drawn from the seed, the epoch, the prompt and its place among them.

        It is as TRL does it, but for the random numbers.
        """
        asked = [self.chat.prompt(*conversation(prompt)) for prompt in prompts]
        first, epoch = self.accelerator.process_index * len(prompts), int(self.state.epoch or 0)
        seeds = [
            int(content_id(self.args.seed, epoch, prompt, (first + row) % self.num_generations), 16)
            for row, prompt in enumerate(prompts)
        ]
        device, width = self.accelerator.device, max(map(len, asked))
        padding, limit = self._tokenizer.pad_token_id, self.sampling.max_new_tokens
        ids = torch.tensor([[padding] * (width - len(row)) + row for row in asked], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in asked], device=device)
        draws = torch.tensor(np.stack([uniform(seed, limit) for seed in seeds]), device=device)
        settings = GenerationConfig(
            max_new_tokens=limit,
            do_sample=False,  # Picked draws
            repetition_penalty=1.0,  # and penalises
            pad_token_id=padding,
            eos_token_id=self.eos_token_ids,
            disable_compile=True,
        )
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model, torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=mask,
                generation_config=settings,
                logits_processor=[Picked(draws, width, self.sampling, mask)],
            )
        written = [self._ended(row) for row in out[:, width:].tolist()]
        return {"prompt_ids": asked, "completion_ids": written, "logprobs": None}

    def _ended(self, tokens: list[int]) -> list[int]:
        """The tokens up to the first that ends a response."""
        end = next((place for place, token in enumerate(tokens) if token in self.eos_token_ids), len(tokens))
        return tokens[: end + 1]

    def _prepare_inputs(self, batch: Any) -> dict[str, Any]:
        """The rows of this process for a micro-batch."""
        every = self.args.steps_per_generation
        if self._step % every == 0 or self._buffered_inputs is None:  # none after a resume
            self._buffered_inputs = self._dealt(self._generate_and_score_completions(batch))
        inputs: dict[str, Any] = self._buffered_inputs[self._step % every]
        return inputs

    def _dealt(self, rows: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """This process's part of each micro-batch. The rows of all processes are shuffled together."""
        whole = {name: self._of_all(name, value) for name, value in rows.items()}
        generator = torch.Generator().manual_seed(self.args.seed)
        order = torch.randperm(len(whole["advantages"]), generator=generator)
        parts = order.view(self.args.steps_per_generation, self.accelerator.num_processes, -1)
        return [
            {name: value[part.to(value.device)] if value.dim() else value for name, value in whole.items()}
            for part in parts[:, self.accelerator.process_index]
        ]

    def _of_all(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, in the order of the processes. A number is the same in all of them."""
        if value.dim() > 1:
            index = self._tokenizer.pad_token_id if name.endswith("_ids") else 0
            value = self.accelerator.pad_across_processes(value, 1, index, pad_first=name.startswith("prompt"))
        gathered: torch.Tensor = self.accelerator.gather(value) if value.dim() else value
        return gathered


def conversation(messages: Sequence[Mapping[str, str]]) -> tuple[Turns, str]:
    """The turns and the system prompt of a list of messages."""
    system = "".join(message["content"] for message in messages if message["role"] == "system")
    return tuple(message["content"] for message in messages if message["role"] != "system"), system


def at_once(count: int, num_generations: int, batch: int) -> int:
    """The number of prompts, out of `count`, whose responses are sampled together.

    TRL drops the last prompts if they do not fill such a batch, so the size is chosen to drop few. The
    responses are whole steps of `batch` responses; if all prompts do not give one, a part of a step.
    """
    sizes = range(min(PROMPTS_AT_ONCE, count), max(0, min(PROMPTS_AT_ONCE, count) // 2), -1)
    steps = [size for size in sizes if size * num_generations % batch == 0]
    parts = [size for size in sizes if batch % (size * num_generations) == 0]
    return min(steps or parts or sizes, key=lambda size: (count % size, -size))
