"""`selfevo ablate`: compares a run with variants of it, over several seeds.

All variants have the same labels, prompts and held-out problems. Stages and models that two runs
have in common are computed once (run.py, `shared`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

from selfevo.config.run_config import RunConfig
from selfevo.errors import ConfigError, DataError, EngineError, RunError, TrainingError
from selfevo.method.names import round_number
from selfevo.pipeline.variants import SFT, VARIANTS, is_variant, settings
from selfevo.rundir.ablation import SELF, Ablation, AblationRow, Answered, Cost, Voted, Votes
from selfevo.rundir.atomic_files import MODEL_MARKER, read_marker, write_atomic
from selfevo.rundir.inspect import costs, is_finished
from selfevo.rundir.layout import Layout
from selfevo.rundir.ownership import locked
from selfevo.rundir.results import (
    AuditCounts,
    ModelResults,
    RoundResults,
    RowCounts,
    Verdicts,
    load_results,
)
from selfevo.rundir.scores import Stored
from selfevo.statistics import natural

Counts = TypeVar("Counts", bound=Stored)


@dataclass(frozen=True, slots=True)
class _Measured:
    """A model of one run, the rounds before it, and the cost of its run if the table shows it."""

    model: ModelResults
    rounds: Sequence[RoundResults]
    cost: Cost | None


def ablate(
    config: RunConfig, names: Sequence[str], seeds: Sequence[int], output: Path, run_one: Callable[..., Path]
) -> Ablation:
    """Runs `self` and the variants in `output`, seed by seed. Returns the content of ablation.json.

    `run_one(config, shared=directories)` does one run. Finished runs are not repeated. One that an
    alarm has stopped did not fail, but is not in the table. If a variant fails in training, engine
    or data, the others still run; a RunError at the end gives the reasons.
    """
    if config.evaluation is None:
        raise ConfigError("evaluation is missing, and an ablation compares on held-out problems; add it")
    # All are parsed before the first run, so that a mistake is found now and not hours later.
    variants = [SELF, *(name for name in names if name != SELF)]
    runs = [(name, seed, settings(config, name, seed, output)) for seed in seeds for name in variants]
    table = Ablation(rows=())
    failed = []
    for name, seed, own in runs:
        others = [other.output for _, of, other in runs if of == seed and other.output != own.output]
        try:
            run_one(own, shared=tuple(folder for folder in others if folder.is_dir()))
        except (TrainingError, EngineError, DataError) as error:
            failed.append(f"{name}, seed {seed}: {error}")
        with locked(output, patience=60):  # several processes with different seeds may share the folder
            table = tabulate(output)
            write_atomic(output / "ablation.json", table.model_dump_json(indent=2))
    if failed:
        raise RunError(f"{len(failed)} of {len(runs)} runs failed; the table has the others: {'; '.join(failed)}")
    return table


def tabulate(output: Path) -> Ablation:
    """The table, from the results of all finished runs in a folder.

    Each row is a model: base, sft, meta and the last round of `self`, and for each variant those
    that differ from `self`. Paired tests compare with the last round of `self`, on the same
    problems of the same seeds. They do not cover the variation between seeds; for that, see the
    accuracies by seed.
    """
    found: dict[str, list[tuple[int, _Measured]]] = {}
    runs = _runs(output)
    for name, seed in runs:
        plain = output / f"{SELF}-seed{seed}" if name != SELF and (SELF, seed) in runs else None
        for label, model in _models(output / f"{name}-seed{seed}", name, plain).items():
            found.setdefault(label, []).append((seed, model))
    return Ablation(rows=tuple(_row(label, dict(of_seeds)) for label, of_seeds in found.items()))


def _runs(output: Path) -> list[tuple[str, int]]:
    """Name and seed of every finished run in a folder, in the order of the table."""
    order, found = [SELF, *VARIANTS], []
    for run in output.glob("*-seed*"):
        name, _, seed = run.name.rpartition("-seed")
        if (name == SELF or is_variant(name)) and seed.isdecimal() and is_finished(run):
            found.append((name, int(seed)))
    return sorted(found, key=lambda run: (order.index(run[0]) if run[0] in order else len(order), natural(run[0]), run))


def _models(run: Path, name: str, plain: Path | None) -> dict[str, _Measured]:
    """The models of a run for the table, by label.

    Its last round has the name of the run. Earlier models are included if they differ from those of
    `plain`, the run `self` of the same seed.
    """
    results = load_results(run)
    measured = load_results(plain) if plain else None
    cost = Cost.model_validate(costs(run)["total"])
    only_sft = SFT.fullmatch(name)  # only its sft differs from `self`, so only sft is shown
    models = {}
    for model in results.models:
        if round_number(model.name):
            models[name] = _Measured(model, results.rounds, cost)
            continue
        theirs = measured.model(model.name) if measured else None
        in_the_same_ways = theirs is not None and model.answers.keys() == theirs.answers.keys()
        if plain and in_the_same_ways and _lineage(run, model.name) == _lineage(plain, model.name):
            continue
        label = model.name if name == SELF else f"{name}, {model.name}"
        models[label] = _Measured(model, (), cost if only_sft else None)
    if only_sft:
        models.pop(name, None)
    return models


def _lineage(run: Path, model: str) -> str | None:
    """The hash of the inputs of a model's training; None for the base."""
    marker = Layout(run).model(model) / MODEL_MARKER
    return read_marker(marker, lineage=str)["lineage"] if marker.exists() else None


def _row(label: str, of_seeds: dict[int, _Measured]) -> AblationRow:
    models = [each.model for each in of_seeds.values()]
    own = [each for each in of_seeds.values() if each.cost is not None]
    rounds = [each for measured in own for each in measured.rounds]
    audits = [each.audit for each in rounds if each.audit]
    return AblationRow(
        name=label,
        answers={
            mode: {seed: each.model.answers[mode] for seed, each in of_seeds.items()} for mode in get_args(Answered)
        },
        votes={
            mode: _votes(models, mode)
            for mode in get_args(Voted)
            if all(mode in each.answers and not each.compared for each in models)
        },
        verdicts=_sum(Verdicts, [each.verdicts for each in models]),
        rounds=tuple(len(each.rounds) for each in own),
        rows=_sum(RowCounts, [each.rows for each in rounds]) if rounds else None,
        audit=_sum(AuditCounts, audits) if audits else None,
        cost=_sum(Cost, [each.cost for each in own if each.cost]) if own else None,
    )


def _votes(models: Sequence[ModelResults], mode: Voted) -> Votes:
    pairs = [pair for each in models for pair in zip(each.answers[mode], each.answers["refined"], strict=True)]
    return Votes(gained=pairs.count(("1", "0")), lost=pairs.count(("0", "1")))


def _sum(kind: type[Counts], each: Sequence[Stored]) -> Counts:
    """The sum of counts, field by field."""
    return kind.model_validate({name: sum(getattr(counts, name) for counts in each) for name in kind.model_fields})
