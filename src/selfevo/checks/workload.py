"""How much a run generates and trains, from its configuration and files, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from selfevo.checks.preview import largest, lessons_of
from selfevo.config.run_config import RunConfig
from selfevo.config.sources import TaskCorpus
from selfevo.inputs.splits import Splits
from selfevo.method import prompts
from selfevo.method.names import META, SFT, round_name
from selfevo.method.records import Refined
from selfevo.models.device import load_tokenizer
from selfevo.pipeline.build import trainer_of
from selfevo.trainers.training_memory import Batch

KEPT = 0.5  # share of the rows of a round that its filters keep; not known before the run
_TURN = 5  # tokens that a chat template writes around a turn


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows, and their mean lengths in tokens.

    `d_meta` trajectories of `trajectory` tokens, with a pair (p, r^) of `pair` tokens each; `pool`
    rows in each round, for which the skills write `written` tokens in all; `measured` problems for
    each model, the same way. `batch`: the largest micro-batch. `exact`: counted with the tokenizer.
    """

    d_meta: int
    trajectory: float
    pair: float
    pool: int
    written: float
    measured: int
    batch: Batch
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Stage:
    """One model of a run: the rows that are generated before its training and measured after it, and what it trains."""

    name: str
    rows: int
    trained: float  # tokens, over all epochs


def workload_of(config: RunConfig, folder: Path, splits: Splits) -> Workload:
    """Lengths are counted with the tokenizer in `folder`; without one, four characters are a token.

    Before D_meta is written, a text is as long as max_new_tokens allows.
    """
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))
    tokenizer = load_tokenizer(folder) if has_tokenizer else None

    def tokens(text: str) -> int:
        if tokenizer is None:
            return math.ceil(len(text.encode()) / 4)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    known = bool(splits.d_meta) or isinstance(config.corpus, TaskCorpus)
    rows = [_lengths(config, row, tokens, known) for row in lessons_of(config, splits)[:1000]]
    sizes = [(whole, labelled) for whole, labelled, _, _ in rows]
    return Workload(
        d_meta=len(lessons_of(config, splits)) if config.corpus else 0,
        trajectory=mean(whole for whole, *_ in rows),
        pair=mean(pair for _, _, pair, _ in rows),
        pool=math.ceil(len(splits.pool) * config.samples_per_prompt / config.round_count),
        written=mean(written for *_, written in rows),
        measured=len(splits.evaluation) + len(splits.dev),
        batch=largest(config.trainer, sizes),
        exact=tokenizer is not None,
    )


def _lengths(config: RunConfig, row: Refined, tokens: Callable[[str], int], known: bool) -> tuple[int, int, int, int]:
    """Tokens of a trajectory, those in the loss, those of its pair (p, r^), and those that the skills write."""
    skills, turns = config.skills, (*prompts.refine(row, row.response, row.feedback, config.wording), row.refinement)
    whole = sum(tokens(turn) + _TURN for turn in (row.system, *turns))
    r, f, refined = (tokens(text) + 1 for text in (row.response, row.feedback, row.refinement))
    if not known:
        whole -= r + f + refined
        r, f, refined = (s.max_new_tokens for s in (skills.respond, skills.critique, skills.refine))
        whole = min(whole + r + f + refined, config.trainer.max_length)
    asked = sum(tokens(turn) + _TURN for turn in (row.system, *row.conversation[1:]))
    return whole, f + refined, asked + refined, r + f + refined + f


def stages_of(config: RunConfig, work: Workload) -> list[Stage]:
    """The models of a run in their order."""
    measured = config.evaluation.models if config.evaluation else ()

    def trained(name: str, rows: Sequence[tuple[float, float]]) -> float:
        trainer, count = trainer_of(config, name), sum(number for number, _ in rows)
        tokens = sum(number * length for number, length in rows)
        if trainer.max_steps is None:
            return tokens * trainer.num_train_epochs
        batch = trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps * trainer.processes
        return trainer.max_steps * batch * tokens / max(1, count)

    meta = [(work.d_meta, work.trajectory), (work.d_meta * (config.beta > 0), work.pair)]
    found = []
    if SFT in measured:
        found.append(Stage(SFT, work.measured, trained(SFT, [(work.d_meta, work.pair)])))
    if config.corpus:
        found.append(Stage(META, work.measured * (META in measured), trained(META, meta)))
    for number in range(1, config.round_count + 1):
        name, latest = round_name(number), config.policy == "continual-latest"
        kept = KEPT * work.pool * (1 if latest else number)
        rows = [(kept, work.pair), *([] if latest else meta)]
        found.append(Stage(name, work.pool + work.measured * ("rounds" in measured), trained(name, rows)))
    return found
