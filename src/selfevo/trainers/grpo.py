"""GRPO with TRL (arXiv 2402.03300). The reward is the model's own verdict. A baseline, not SELF.

The paper compares SELF with reinforcement learning on the same feedback. A frozen copy of the model
that the round starts from judges: the reward is 1 if its feedback ends in "qualified".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOConfig

from selfevo.config.sections import GRPOObjective, SkillsConfig
from selfevo.config.training import TrainerConfig
from selfevo.errors import TrainingError
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Engine, Progress, Request, generate_all
from selfevo.method.records import Drafted, Example, Prompt, content_id, extended
from selfevo.method.skills import CRITIQUE
from selfevo.method.thinking import is_open, spoken
from selfevo.method.verdicts import Verdict
from selfevo.models.chat_template import Chat, messages
from selfevo.models.device import load_tokenizer
from selfevo.models.loading import check_ids
from selfevo.trainers._trl import Watched, figures, free_memory, load, run, save, settings
from selfevo.trainers.adapters import lora
from selfevo.trainers.grpo_steps import StepsOfAll, at_once, conversation
from selfevo.trainers.tracking import UNNAMED, Training


@dataclass(slots=True)
class VerdictRewardTrainer:
    """Trains on the prompts of its examples.

    `judge` makes the engine that runs the start model, which gives the feedback.
    """

    config: TrainerConfig
    objective: GRPOObjective
    skills: SkillsConfig
    judge: Callable[[], Engine]
    wording: Wording = ENGLISH
    training: Training = UNNAMED

    def key(self) -> str:
        settings = self.config.deciding()
        objective, skills = (each.model_dump(mode="json") for each in (self.objective, self.skills))
        return content_id(settings, objective, skills, *self.wording.identity)

    def tokens(self, base: Path, examples: Sequence[Example]) -> int:
        """The number of tokens in the prompts; the length of the responses is not known yet."""
        chat = Chat(load_tokenizer(base))
        return sum(len(chat.prompt(example.turns, example.system)) for example in examples)

    def train(
        self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, seed: int, progress: Progress
    ) -> dict[str, float]:
        config, objective, judge = self.config, self.objective, self.judge()
        model, tokenizer, half = load(base, config, seed)
        rewards: list[float] = []

        chat = Chat(tokenizer)
        check_ids(base, model, (chat.prompt(example.turns, example.system) for example in examples))
        stops = set(chat.stop_ids(model.generation_config.eos_token_id))

        def verdict(prompts: list[Any], completions: list[Any], completion_ids: list[Any], **_: Any) -> list[float]:
            # A cut text gets reward 0, because no filter would keep it.
            ended = [bool(ids) and int(ids[-1]) in stops for ids in completion_ids]
            given = self._rewards(judge, base, prompts, [chat.text(ids) for ids in completion_ids], ended, seed)
            rewards.extend(gather_object(given))
            return given

        rows = config.per_device_train_batch_size * config.processes  # of a micro-batch, in all processes
        together = at_once(len(examples), objective.num_generations, rows * config.gradient_accumulation_steps)
        fitting = math.lcm(rows, objective.num_generations)  # the fewest responses that TRL can share out
        micro_batches = max(1, together * objective.num_generations // fitting) * fitting // rows
        if len(examples) * objective.num_generations < micro_batches * rows:
            raise TrainingError(
                f"{len(examples)} prompts with {objective.num_generations} responses each do not fill one batch of "
                f"{micro_batches * rows}; give more prompts, or lower trainer.per_device_train_batch_size"
            )
        steps = math.lcm(micro_batches, config.gradient_accumulation_steps) // config.gradient_accumulation_steps
        sampling = self.skills.respond.to_sampling()
        sampling = replace(sampling, temperature=sampling.temperature or 1.0)
        trainer = StepsOfAll(
            chat,
            sampling,
            model=model,
            args=GRPOConfig(
                **settings(config, work, seed, half),
                num_generations=objective.num_generations,
                steps_per_generation=micro_batches,
                temperature=sampling.temperature,
                beta=objective.beta,
            ),
            reward_funcs=verdict,
            train_dataset=Dataset.from_list(
                [{"prompt": messages(example.turns, example.system)} for example in examples]
            ),
            processing_class=tokenizer,
            callbacks=[Watched(progress, config.save_minutes, whole=steps)],
            peft_config=lora(config, model),
        )
        seconds, losses, memory = run(trainer, work, config, self.training)
        judge.release()
        save(trainer, tokenizer, base, output, config)
        tokens = float(trainer.state.num_input_tokens_seen or 0)
        del trainer, model
        free_memory()
        tenth = max(1, len(rewards) // 10)
        return {
            "sequences": float(len(rewards)),
            "tokens": tokens,
            "reward_first": round(sum(rewards[:tenth]) / tenth, 4),
            "reward_last": round(sum(rewards[-tenth:]) / tenth, 4),
            **figures(losses, memory),
            "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        }

    def _rewards(
        self,
        judge: Engine,
        base: Path,
        asked: Sequence[Any],
        completions: Sequence[str],
        ended: Sequence[bool],
        seed: int,
    ) -> list[float]:
        """1 if the feedback on a response says qualified, else 0. Empty or cut responses get 0."""
        texts = [spoken(text).strip() for text in completions]
        whole = [i for i, text in enumerate(texts) if text and ended[i] and not is_open(text)]
        requests = [_about(asked[i], texts[i], seed, self.wording) for i in whole]
        feedback = generate_all(judge, base, requests, self.skills.judge.to_sampling()) if requests else []
        yes = {
            i
            for i, generation in zip(whole, feedback, strict=True)
            if generation.finish == "stop" and self.wording.parse(generation.text) is Verdict.QUALIFIED
        }
        return [float(i in yes) for i in range(len(texts))]


def _about(asked: Sequence[Mapping[str, str]], text: str, seed: int, wording: Wording) -> Request:
    """The request for feedback on `text`, a response to the messages `asked`."""
    (*history, last), system = conversation(asked)
    prompt = Prompt.of(last, system=system, history=tuple(history))
    return CRITIQUE.request(extended(Drafted, prompt, text), seed, wording)
