"""Which size of the demo ends in 15 minutes with the same kind of evidence, on development seeds.

    python experiments/demo_size.py [--sizes full,half] [--seeds 106,107,108] [--output runs/demo-size] [--json FILE]

Runs the demo in each size with each seed, one after the other, on all cores: nothing else should run. The same command
goes on where it was stopped, but the minutes of a run that was stopped are those of all its parts. A size will do if on
every seed it ends in 15 minutes and its last round beats SFT and meta, direct, with p < 0.01 each, and if over all
seeds its SFT is not below that of the full size, asked the same problems. SFT keeps all labels in each size, and trains
on at least as many tokens as meta. The size that will do becomes DEFAULT in src/selfevo/cli/demo.py; then it is run on
seeds 0, 1 and 2 (experiments/demo_seeds.sh).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import selfevo
from selfevo.cli.demo import FULL, Size, demo_config, demo_model
from selfevo.models.threads import share_processors
from selfevo.rundir.results import Results
from selfevo.statistics import compare

# On seeds 0 to 2 the rounds of the full size beat SFT and meta so clearly that half of the problems show it, and two of
# the three rounds. The steps of meta are what its critic needs, so four epochs become three and not fewer.
SIZES = {
    "full": FULL,
    "half": replace(FULL, prompts=360, problems=150),
    "two-rounds": replace(FULL, rounds=2, prompts=360, problems=150),
    "three-epochs": replace(FULL, prompts=360, problems=150, num_train_epochs=3),
    "two-rounds-three-epochs": replace(FULL, rounds=2, prompts=320, problems=150, num_train_epochs=3),
}
MINUTES, P_VALUE, PROBLEMS = 15.0, 0.01, 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. `sft_right` are the answers of its SFT to the problems that every size is asked, "1" for right."""

    minutes: float
    direct: Mapping[str, float]
    p_values: Mapping[str, float]
    sft_right: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--seeds", default="106,107,108", help="100 and above: 0, 1 and 2 are for the results")
    parser.add_argument("--output", type=Path, default=Path("runs/demo-size"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    share_processors(os.environ)  # as `selfevo demo` does
    names, seeds = given.sizes.split(","), [int(seed) for seed in given.seeds.split(",")]
    found: dict[str, list[Outcome]] = {}
    for name in ["full", *(name for name in names if name != "full")]:
        for seed in seeds:
            outcome = run(SIZES[name], seed, given.output / f"{name}-seed{seed}")
            found.setdefault(name, []).append(outcome)
            print(f"{name}, seed {seed}: {outcome.minutes:.1f} min, {asdict(outcome)['direct']}, {outcome.p_values}")
    for name, outcomes in found.items():
        print(f"{name}: {'; '.join(faults(outcomes, found['full'])) or 'will do'}")
    if given.json:
        result: dict[str, Any] = {
            name: {"size": asdict(SIZES[name]), "seeds": seeds, "runs": [asdict(each) for each in outcomes]}
            for name, outcomes in found.items()
        }
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


def run(size: Size, seed: int, folder: Path) -> Outcome:
    results = selfevo.run(demo_config(demo_model(), folder, seed, size).model_dump(mode="json")).results
    asked = selfevo.evaluate(
        folder / "models/sft", "demo", count=PROBLEMS, seed=seed, output=folder.with_name(f"{folder.name}-sft")
    )
    return outcome_of(results, asked)


def outcome_of(results: Results, sft: Results) -> Outcome:
    last = f"round-{len(results.rounds)}"
    return Outcome(
        results.seconds / 60,
        {model.name: model.direct.accuracy or 0 for model in results.models},
        {c.b: c.p_value for c in results.comparisons if c.a == last and c.mode == "direct" and c.difference > 0},
        sft.models[0].answers["direct"],
    )


def faults(outcomes: Sequence[Outcome], full: Sequence[Outcome]) -> list[str]:
    """Why a size will not do."""
    slow = [f"{each.minutes:.1f} minutes" for each in outcomes if each.minutes > MINUTES]
    unseen = [
        f"p = {each.p_values.get(other, 1):.2g} against {other}"
        for each in outcomes
        for other in ("sft", "meta")
        if each.p_values.get(other, 1) >= P_VALUE
    ]
    ours, theirs = (list(map(float, "".join(each.sft_right for each in some))) for some in (outcomes, full))
    below = compare(ours, theirs).difference < 0
    return [*slow, *unseen, *(["its SFT is below that of the full size"] if below else [])]


if __name__ == "__main__":
    main()
