"""The variants of `selfevo ablate`. Each is one change of the configuration.

docs/guides/ablations.md explains the question behind each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from selfevo.config.loading import apply_overrides, parse_config
from selfevo.config.run_config import RunConfig
from selfevo.config.sources import FileCorpus, PromptsCorpus, TaskCorpus, TaskPrompts
from selfevo.errors import ConfigError
from selfevo.method.filters import BY_FORM
from selfevo.rundir.ablation import SELF

LABELS = re.compile(r"labels-(\d+)")
SFT = re.compile(r"sft-(\d+)")
PROMPTS = re.compile(r"prompts-(\d+)")
Change = Callable[[RunConfig], list[str]]  # gives the changes, as for `--set`

_WITH_SFT = "evaluation.models=[sft, meta, rounds]"


def _set(*overrides: str) -> Change:
    return lambda config: list(overrides)


def _judge(kind: str, *overrides: str) -> Change:
    """Replaces the filters that judge. Filters by form, such as length, stay."""

    def change(config: RunConfig) -> list[str]:
        by_form = [each.model_dump(mode="json") for each in config.filter if isinstance(each, BY_FORM)]
        return [f"filter={json.dumps([{'kind': kind}, *by_form])}", *overrides]

    return change


def _share(share: float) -> Change:
    return lambda config: [f"ablation.label_share={share}", *_as_many_steps(config, share)]


def _as_many_steps(config: RunConfig, share: float) -> list[str]:
    """Settings that train a share of D_meta for as many steps as all of it.

    So the comparison is about labels, not optimizer steps. The rounds keep their epochs.
    """
    trainer, corpus = config.trainer, config.corpus
    warm_up = [f"corpus.warmup_epochs={corpus.warmup_epochs / share}"] if isinstance(corpus, TaskCorpus) else []
    return [
        *warm_up,
        f"trainer.num_train_epochs={trainer.num_train_epochs / share}",
        f"trainer.round_epochs={trainer.round_epochs or trainer.num_train_epochs}",
    ]


def _half_rate(config: RunConfig) -> list[str]:
    trainer = config.trainer
    return [f"trainer.round_learning_rate={(trainer.round_learning_rate or trainer.learning_rate) / 2}"]


VARIANTS = {
    "no-filter": _judge("none"),
    "no-refinement": _set("ablation.refine=false"),
    "no-language": _set("ablation.verdict_only=true"),
    "answer-agreement": _judge("answer-agreement"),
    "self-consistency": _judge("answer-agreement", "ablation.refine=false"),
    "votes": _judge("verdict-votes"),
    "gold": _set("ablation.gold_filter=true"),
    "one-round": _set("rounds=1"),
    "six-rounds": _set("rounds=6"),
    # As many epochs as meta-skill learning needs from the base: with one epoch less the critic is
    # not learnt (experiments/notebook.md).
    "restart": _set("policy=restart", "trainer.round_epochs=null", "trainer.round_learning_rate=null"),
    "continual-mixed": _set("policy=continual-mixed"),
    "continual-latest": _set("policy=continual-latest"),
    "half-rate": _half_rate,
    "quarter-labels": _share(0.25),
    "half-labels": _share(0.5),
    "flipped-10": _set("ablation.flipped_verdicts=0.1"),
    "flipped-30": _set("ablation.flipped_verdicts=0.3"),
    "flipped-50": _set("ablation.flipped_verdicts=0.5"),
    "dpo": _set("objective=dpo", "policy=continual-latest", "trainer.round_learning_rate=1.0e-4"),
    "grpo": _judge("none", "objective=grpo", "policy=continual-latest", "trainer.round_learning_rate=1.0e-5"),
    "consistency": lambda config: [
        "evaluation.consistency=5",
        _WITH_SFT if config.corpus else "evaluation.models=[base, rounds]",
    ],
    "lora": _set("trainer.lora={}"),
}


def is_variant(name: str) -> bool:
    return name in VARIANTS or any(pattern.fullmatch(name) for pattern in (LABELS, SFT, PROMPTS))


def find(name: str, config: RunConfig) -> list[str]:
    """The changes that a variant makes in a configuration.

    `labels-N` uses only N labels, also for its sft. `sft-N` trains sft on N labels, more than the
    run has. `prompts-N` uses N unlabelled prompts.

    Raises ConfigError if there is no such variant, or not enough labels or prompts.
    """
    if match := SFT.fullmatch(name):
        return [f"ablation.sft_labels={match[1]}", _WITH_SFT]
    if match := LABELS.fullmatch(name):
        count, corpus = int(match[1]), config.corpus
        if corpus is None:
            raise ConfigError(f"variant {name}: the run has no corpus, so it has no labels; add a corpus")
        if isinstance(corpus, FileCorpus):
            raise ConfigError(
                f"variant {name}: corpus.path has no count of labels; give --set ablation.label_share=..."
            )
        if not 0 < count <= corpus.labels:
            raise ConfigError(f"variant {name}: there are {corpus.labels} labels; raise corpus.labels")
        share = count / corpus.labels
        fewer = f"corpus.labels={count}" if isinstance(corpus, PromptsCorpus) else f"ablation.label_share={share}"
        return [fewer, *_as_many_steps(config, share), _WITH_SFT]
    if match := PROMPTS.fullmatch(name):
        if config.prompts is None:
            raise ConfigError(f"variant {name}: each round has its own prompts; give one pool, `prompts`")
        pool = config.prompts.count or (config.default_pool if isinstance(config.prompts, TaskPrompts) else None)
        if pool and not 0 < int(match[1]) <= pool:
            raise ConfigError(f"variant {name}: there are {pool} prompts; raise prompts.count")
        return [f"prompts.count={match[1]}"]
    if name not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ConfigError(f"there is no variant {name!r}; use one of {known}, labels-N, sft-N, prompts-N")
    return VARIANTS[name](config)


def settings(config: RunConfig, name: str, seed: int, output: Path) -> RunConfig:
    """The configuration of a variant, or of `self`.

    Raises ConfigError if the change does not fit the configuration, or changes nothing.
    """
    data = config.model_dump(mode="json")
    if isinstance(config.prompts, TaskPrompts) and config.prompts.count is None:
        data["prompts"]["count"] = config.default_pool  # so that another number of rounds keeps the pool
    trained, all_before = ("meta, rounds", "base, sft, meta, rounds") if config.corpus else ("rounds", "base, rounds")
    data = apply_overrides(data, [f"evaluation.models=[{trained}]"])
    changes = [f"evaluation.models=[{all_before}]"] if name == SELF else find(name, config)
    place = {"seed": seed, "output": str(output / f"{name}-seed{seed}")}
    changed = parse_config({**apply_overrides(data, changes), **place}, f"variant {name}")
    if changed == parse_config({**data, **place}, f"variant {name}"):
        raise ConfigError(
            f"variant {name} changes nothing in this configuration, so it would equal {SELF}; leave it out"
        )
    return changed


def applicable(config: RunConfig) -> tuple[list[str], list[str]]:
    """The variants that fit a configuration, and the reasons why the others do not."""
    names, refused = [], []
    for name in VARIANTS:
        try:
            settings(config, name, 0, Path("nowhere"))
            names.append(name)
        except ConfigError as error:
            refused.append(str(error))
    return names, refused
