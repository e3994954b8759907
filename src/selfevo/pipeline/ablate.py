"""`selfevo ablate`: the run of a configuration beside the same run with one thing changed, over several seeds.

Every variant has the same labels, prompts and held-out problems; what two of them have in common is computed once
(run.py, `shared`). The questions are those that reviewers of the paper asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selfevo.config.run_config import RunConfig
from selfevo.errors import ConfigError, DataError, EngineError, RunError, TrainingError
from selfevo.evaluation.statistics import compare, natural, rate, wilson
from selfevo.pipeline.variants import SELF, SFT, VARIANTS, is_variant, settings
from selfevo.rundir.files import MODEL_MARKER, read_marker, write_atomic
from selfevo.rundir.inspect import costs, is_finished, read_results
from selfevo.rundir.ownership import locked


def ablate(
    config: RunConfig, names: Sequence[str], seeds: Sequence[int], output: Path, launch: Callable[..., Path]
) -> dict[str, Any]:
    """Runs `self` and the variants in `output`, each seed in turn; returns what output/ablation.json holds.

    `run_loop(config, shared=directories)` does one run. What was finished before is not done again. A variant whose
    training, engine or data fail does not stop the others: raises RunError at the end, with the reason of each.
    """
    if config.evaluation is None:
        raise ConfigError("an ablation compares on held-out problems; give the configuration an evaluation")
    # All are parsed before the first is run: a mistake in the last must not come to light hours later.
    variants = [SELF, *(name for name in names if name != SELF)]
    runs = [(name, seed, settings(config, name, seed, output)) for seed in seeds for name in variants]
    table: dict[str, Any] = {}
    failed = []
    for name, seed, own in runs:
        others = [other.output for _, of, other in runs if of == seed and other.output != own.output]
        try:
            launch(own, shared=tuple(folder for folder in others if folder.is_dir()))
            if not is_finished(own.output):
                failed.append(f"{name}, seed {seed}: stopped by an alarm of its monitors")
        except (TrainingError, EngineError, DataError) as error:
            failed.append(f"{name}, seed {seed}: {error}")
        with locked(output):  # several processes, each with seeds of its own, may share the folder
            table = tabulate(output)
            write_atomic(output / "ablation.json", json.dumps(table, indent=2))
    if failed:
        raise RunError(f"{len(failed)} of {len(runs)} runs failed, the others are in the table: {'; '.join(failed)}")
    return table


def tabulate(output: Path) -> dict[str, Any]:
    """The rows of the table, from the results of all the finished runs in a folder: each seed, and all together.

    A row is a model: base, sft, meta and the last round of `self`, and of each variant those of them that are not the
    same as of `self`. Paired tests are against the last round of `self`, on the same problems of the same seeds. Over
    several seeds they are about these models: how much another seed would give is what the accuracies of the seeds say.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    runs = _runs(output)
    for name, seed in runs:
        plain = output / f"{SELF}-seed{seed}" if name != SELF and (SELF, seed) in runs else None
        for label, model in _models(output / f"{name}-seed{seed}", name, plain).items():
            found.setdefault(label, {})[seed] = model
    reference = found.get(SELF, {})
    seeds = sorted({seed for of_seeds in found.values() for seed in of_seeds})
    return {"seeds": seeds, "rows": [_row(label, of_seeds, reference) for label, of_seeds in found.items()]}


def _runs(output: Path) -> list[tuple[str, int]]:
    """Name and seed of every finished run of a folder, in the order of the table."""
    order, found = [SELF, *VARIANTS], []
    for run in output.glob("*-seed*"):
        name, _, seed = run.name.rpartition("-seed")
        if (name == SELF or is_variant(name)) and seed.isdecimal() and is_finished(run):
            found.append((name, int(seed)))
    return sorted(found, key=lambda run: (order.index(run[0]) if run[0] in order else len(order), natural(run[0]), run))


def _models(run: Path, name: str, plain: Path | None) -> dict[str, dict[str, Any]]:
    """The models of a run that stand in the table: its last round under the name of the run, and those before it
    where they are not those of `plain`, the run `self` of the same seed."""
    content = read_results(run)
    measured = {stage["name"]: stage for stage in read_results(plain)["stages"]} if plain else {}
    cost = costs(run)["total"]
    only_sft = SFT.fullmatch(name)  # its rounds are those of `self`, and its SFT is all that it costs
    models = {}
    for stage in content["stages"]:
        if stage["name"].startswith("round-"):
            models[name] = {"stage": stage, "rounds": content["rounds"], "cost": cost}
            continue
        theirs = measured.get(stage["name"], {"answers": {}})
        in_the_same_ways = stage["answers"].keys() == theirs["answers"].keys()
        if plain and in_the_same_ways and _lineage(run, stage["name"]) == _lineage(plain, stage["name"]):
            continue
        label = stage["name"] if name == SELF else f"{name}, {stage['name']}"
        models[label] = {"stage": stage, "rounds": [], "cost": cost if only_sft else None}
    if only_sft:
        models.pop(name, None)
    return models


def _lineage(run: Path, model: str) -> str | None:
    """None of the base, which no run has made."""
    marker = run / "models" / model / MODEL_MARKER
    return read_marker(marker)["lineage"] if marker.exists() else None


def _row(label: str, of_seeds: dict[int, dict[str, Any]], reference: dict[int, dict[str, Any]]) -> dict[str, Any]:
    stages = [each["stage"] for each in of_seeds.values()]
    row: dict[str, Any] = {"name": label, "seeds": sorted(of_seeds)}
    for mode in ("direct", "refined"):
        row[mode] = _compared(label, of_seeds, reference, mode)
        row[mode]["by_seed"] = {
            str(seed): {
                **_compared(label, {seed: each}, reference, mode),
                "answers": each["stage"]["answers"][mode],  # 1 for right: any two rows can be tested in pairs
            }
            for seed, each in of_seeds.items()
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
