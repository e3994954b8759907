"""`selfevo ablate`: the run of a configuration beside the same run with one thing changed, over several seeds.

Every variant has the same labels, prompts and held-out problems; what two of them have in common is computed once
(run.py, `shared`). The questions are those that reviewers of the paper asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfevo.claim import locked
from selfevo.config import RunConfig
from selfevo.config_file import apply_overrides, parse_config
from selfevo.errors import ConfigError, DataError, EngineError, RunError, TrainingError
from selfevo.evaluate import compare, natural, rate, wilson
from selfevo.files import MODEL_MARKER, read_marker, write_atomic
from selfevo.filters import JUDGING
from selfevo.ledger import costs, summarise

SELF = "self"
_LABELS = re.compile(r"labels-(\d+)")
_SFT = re.compile(r"sft-(\d+)")


@dataclass(frozen=True, slots=True)
class Variant:
    """What is changed, as `--set` would, and the question that it answers."""

    overrides: tuple[str, ...]
    question: str


VARIANTS = {
    "no-filter": Variant(("filter=none",), "does the filter matter?"),
    "no-refinement": Variant(("refine=false",), "is refinement needed, or is filtering r enough?"),
    "no-language": Variant(("corpus.words=false",), "do the words of the feedback matter, or its verdict alone?"),
    "answer-agreement": Variant(("filter=answer-agreement",), "is self-consistency as good a filter?"),
    "self-consistency": Variant(
        ("refine=false", "filter=answer-agreement"), "is self-consistency enough, without any feedback on the pool?"
    ),
    "votes": Variant(("filter=verdict-votes",), "are several verdicts better than one?"),
    "gold": Variant(("filter=gold",), "what would a perfect filter bring?"),
    "one-round": Variant(("rounds=1",), "do several rounds beat one with all the prompts?"),
    "six-rounds": Variant(("rounds=6",), "when to stop?"),
    # From the base, what meta-skill learning needs: with an epoch less the critic is not learnt (docs/lab-notebook.md).
    "restart": Variant(
        ("policy=restart", "trainer.round_epochs=null", "trainer.round_learning_rate=null"), "which policy?"
    ),
    "continual-mixed": Variant(("policy=continual-mixed",), "which policy?"),
    "continual-latest": Variant(("policy=continual-latest",), "which policy?"),
    "quarter-labels": Variant(("corpus.share=0.25",), "how much D_meta is needed, at as many steps?"),
    "half-labels": Variant(("corpus.share=0.5",), "how much D_meta is needed, at as many steps?"),
    "flipped-10": Variant(("corpus.flipped=0.1",), "how do wrong verdicts in D_meta hurt?"),
    "flipped-30": Variant(("corpus.flipped=0.3",), "how do wrong verdicts in D_meta hurt?"),
    "flipped-50": Variant(("corpus.flipped=0.5",), "how do wrong verdicts in D_meta hurt?"),
    "dpo": Variant(
        ("objective=dpo", "policy=continual-latest", "trainer.round_learning_rate=2.0e-5"),
        "does preference learning on the same rows do better?",
    ),
    "grpo": Variant(
        ("objective=grpo", "policy=continual-latest", "filter=none", "trainer.round_learning_rate=1.0e-5"),
        "does reinforcement learning with the verdict as reward do better (the paper's comparison)?",
    ),
    "consistency": Variant(
        ("evaluation.consistency=5", "evaluation.stages=[sft, meta, rounds]"),
        "what do refining, voting and both bring at inference?",
    ),
    "lora": Variant(("trainer.lora={}",), "are low-rank adapters enough?"),
}


def find(name: str, config: RunConfig) -> Variant:
    """A variant by its name. `labels-N` is the run with N of the labels, with its own SFT beside it; `sft-N` is
    another SFT, with as many more labels as make N.

    Raises ConfigError where there is none of the name.
    """
    if match := _SFT.fullmatch(name):
        return Variant(
            (f"evaluation.sft_labels={match[1]}", "evaluation.stages=[sft, meta, rounds]"),
            "how many labels does SFT need to reach SELF?",
        )
    if match := _LABELS.fullmatch(name):
        count = int(match[1])
        if config.corpus.path:
            raise ConfigError(f"variant {name}: a recorded D_meta has no labels to count; give --set corpus.share=...")
        if not 0 < count <= config.corpus.labels:
            raise ConfigError(f"variant {name}: there are {config.corpus.labels} labels; raise corpus.labels")
        fewer = f"corpus.labels={count}" if config.corpus.prompts else f"corpus.share={count / config.corpus.labels}"
        return Variant(
            (fewer, "evaluation.stages=[sft, meta, rounds]", *_as_many_steps(config, count / config.corpus.labels)),
            "how many labels does SFT need, how many SELF?",
        )
    if name not in VARIANTS:
        raise ConfigError(f"there is no variant {name!r}; there are {', '.join(VARIANTS)}, labels-N, sft-N")
    variant = VARIANTS[name]
    for override in variant.overrides:
        key, _, value = override.partition("=")
        if key == "corpus.share":
            return replace(variant, overrides=(override, *_as_many_steps(config, float(value))))
        if key == "filter":  # what is no judgement of the rows, such as length, stays
            judging = {each.model_fields["kind"].default for each in JUDGING}
            others = [each.model_dump(mode="json") for each in config.filter if each.kind not in judging]
            filters = f"filter={json.dumps([{'kind': value}, *others])}"
            return replace(
                variant, overrides=tuple(filters if each == override else each for each in variant.overrides)
            )
    return variant


def _as_many_steps(config: RunConfig, share: float) -> tuple[str, ...]:
    """What makes a share of D_meta train as long as all of it, so that labels are compared and not optimizer steps;
    the rounds keep their epochs."""
    trainer = config.trainer
    return (
        f"corpus.warmup_epochs={config.corpus.warmup_epochs / share}",
        f"trainer.num_train_epochs={trainer.num_train_epochs / share}",
        f"trainer.round_epochs={trainer.round_epochs or trainer.num_train_epochs}",
    )


def applicable(config: RunConfig) -> tuple[list[str], list[str]]:
    """The variants that a configuration can be changed into, and why the others cannot."""
    names, refused = [], []
    for name in VARIANTS:
        try:
            settings(config, name, 0, Path("nowhere"))
            names.append(name)
        except ConfigError as error:
            refused.append(str(error))
    return names, refused


def settings(config: RunConfig, name: str, seed: int, output: Path) -> RunConfig:
    """The configuration of a variant, or of `self`. Raises ConfigError where the change does not go with the rest."""
    data = config.model_dump(mode="json")
    if config.prompts is not None and config.prompts.task and config.prompts.count is None:
        data["prompts"]["count"] = 300 * config.round_count  # another number of rounds must not change the pool
    stages = "base, sft, meta, rounds" if name == SELF else "meta, rounds"
    overrides = () if name == SELF else find(name, config).overrides
    data = apply_overrides(data, [f"evaluation.stages=[{stages}]", *overrides])
    return parse_config({**data, "seed": seed, "output": str(output / f"{name}-seed{seed}")}, f"variant {name}")


def ablate(
    config: RunConfig, names: Sequence[str], seeds: Sequence[int], output: Path, launch: Callable[..., Path]
) -> dict[str, Any]:
    """Runs `self` and the variants in `output`, each seed in turn; returns what output/ablation.json holds.

    `launch(config, shared=directories)` does one run. What was finished before is not done again. A variant that fails
    does not stop the others: raises RunError at the end, with the reason of each.
    """
    if config.evaluation is None:
        raise ConfigError("an ablation compares on held-out problems; give the configuration an evaluation")
    # All are parsed before the first is run: a mistake in the last must not come to light hours later.
    variants = [SELF, *(name for name in names if name != SELF)]
    runs = [(name, seed, settings(config, name, seed, output)) for seed in seeds for name in variants]
    failed = []
    for name, seed, own in runs:
        others = [other.output for _, of, other in runs if of == seed and other.output != own.output]
        try:
            launch(own, shared=tuple(folder for folder in others if folder.is_dir()))
            if own.output.is_dir() and summarise(own.output).status != "finished":
                failed.append(f"{name}, seed {seed}: stopped by an alarm of its monitors")
        except (TrainingError, EngineError, DataError) as error:
            failed.append(f"{name}, seed {seed}: {error}")
        table = json.dumps(tabulate(output), indent=2)
        with locked(output):  # several processes, each with seeds of its own, may share the folder
            write_atomic(output / "ablation.json", table)
    if failed:
        raise RunError(f"{len(failed)} of {len(runs)} runs failed, the others are in the table: {'; '.join(failed)}")
    return tabulate(output)


def tabulate(output: Path) -> dict[str, Any]:
    """The rows of the table, from the results of all the finished runs in a folder: each seed, and all together.

    A row is a model: base, sft, meta and the last round of `self`, and of each variant those of them that are not the
    same as of `self`. Paired tests are against the last round of `self`, on the same problems of the same seeds. Over
    several seeds they are about these models: how much another seed would give is what the accuracies of the seeds say.
    """
    results: dict[tuple[str, int], dict[str, Any]] = {}
    for path in sorted(output.glob("*-seed*/results.json"), key=lambda each: _place(each.parent.name)):
        name, _, number = path.parent.name.rpartition("-seed")
        if _is_variant(name) and number.isdecimal() and summarise(path.parent).status == "finished":
            results[name, int(number)] = read_marker(path)

    def same(name: str, seed: int, stage: str) -> bool:
        """Whether a model of a variant is that of `self`."""
        markers = [output / f"{run}-seed{seed}" / "models" / stage / MODEL_MARKER for run in (name, SELF)]
        lineages = {read_marker(marker)["lineage"] for marker in markers if marker.exists()}
        return len(lineages) <= 1

    found: dict[str, dict[int, dict[str, Any]]] = {}
    for (name, seed), result in results.items():
        models = _models(result)
        plain = _models(results[SELF, seed]) if (SELF, seed) in results else {}
        for stage, outcome in models.items():
            last = stage == "last round"
            if name == SELF:
                label = SELF if last else stage
            elif last and not _SFT.fullmatch(name):  # the rounds of sft-N are those of self
                label = name
            elif (
                stage in plain
                and outcome["answers"].keys() == plain[stage]["answers"].keys()
                and same(name, seed, stage)
            ):
                continue
            else:
                label = f"{name}, {stage}"
            rounds = result["rounds"] if last else []
            cost = costs(output / f"{name}-seed{seed}")["total"] if last else None
            found.setdefault(label, {})[seed] = {"stage": outcome, "cost": cost, "rounds": rounds}
    reference = found.get(SELF, {})
    seeds = sorted({seed for of_seeds in found.values() for seed in of_seeds})
    return {"seeds": seeds, "rows": [_row(label, of_seeds, reference) for label, of_seeds in found.items()]}


def _is_variant(name: str) -> bool:
    return name == SELF or name in VARIANTS or bool(_LABELS.fullmatch(name) or _SFT.fullmatch(name))


def _place(folder: str) -> tuple[int, list[Any]]:
    """Where the rows of a run stand in the table."""
    name, order = folder.rpartition("-seed")[0], [SELF, *VARIANTS]
    return order.index(name) if name in order else len(order), natural(folder)


def _models(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The models of a run that stand in the table, the last round under this name."""
    stages = {stage["name"]: stage for stage in results["stages"]}
    models = {name: stages[name] for name in ("base", "sft", "meta") if name in stages}
    rounds = [stage for name, stage in stages.items() if name.startswith("round-")]
    return {**models, "last round": rounds[-1]} if rounds else models


def _row(label: str, of_seeds: dict[int, dict[str, Any]], reference: dict[int, dict[str, Any]]) -> dict[str, Any]:
    stages = [each["stage"] for each in of_seeds.values()]
    row: dict[str, Any] = {"name": label, "seeds": sorted(of_seeds)}
    for mode in ("direct", "refined"):
        row[mode] = _compared(label, of_seeds, reference, mode)
        row[mode]["by_seed"] = {
            str(seed): _compared(label, {seed: each}, reference, mode) for seed, each in of_seeds.items()
        }
    for mode in ("consistency", "both"):
        if all(mode in stage["answers"] for stage in stages):
            row[mode] = _compared(label, of_seeds, of_seeds, mode, "refined")
    row["transitions"] = {key: sum(stage["transitions"][key] for stage in stages) for key in stages[0]["transitions"]}
    yes = sum(stage["verdict"]["qualified"] for stage in stages)
    right = sum(round((stage["verdict"]["precision"] or 0) * stage["verdict"]["qualified"]) for stage in stages)
    row["verdict"] = {
        "precision": right / yes if yes else None,
        "precision_ci": list(wilson(right, yes)),
        "qualified": yes,
        "unparsed": sum(stage["verdict"]["unparsed"] for stage in stages),
    }
    own = [each for each in of_seeds.values() if each["cost"]]
    rows = [round_["rows"] for each in own for round_ in each["rounds"]]
    row["kept"] = sum(each["kept"] for each in rows) / max(1, sum(each["in"] for each in rows)) if rows else None
    audits = [round_["audit"] for each in own for round_ in each["rounds"] if round_["audit"]]
    counts = ("judged", "response_right", "right", "kept", "kept_right")
    row["audit"] = {key: sum(audit[key] for audit in audits) for key in counts} if audits else None
    row["rounds"] = [len(each["rounds"]) for each in own]
    row["cost"] = {key: sum(each["cost"][key] for each in own) for key in own[0]["cost"]} if own else None
    return row


def _compared(
    label: str,
    of_seeds: dict[int, dict[str, Any]],
    reference: dict[int, dict[str, Any]],
    mode: str,
    other: str | None = None,
) -> dict[str, Any]:
    """Accuracy over the problems of these seeds, and the paired test `against` the reference on those that it has too,
    whose mode is `other` where that is another one."""
    found = rate([right for each in of_seeds.values() for right in _answers(each, mode)])
    both = [seed for seed in of_seeds if seed in reference]
    if both and (label != SELF or other):
        ours = [right for seed in both for right in _answers(of_seeds[seed], mode)]
        theirs = [right for seed in both for right in _answers(reference[seed], other or mode)]
        found["against"] = compare(label, ours, f"{label}, {other}" if other else SELF, theirs, mode)
    return found


def _answers(run: dict[str, Any], mode: str) -> list[bool]:
    return [bit == "1" for bit in run["stage"]["answers"][mode]]
