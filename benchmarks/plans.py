"""The tables of docs/guides/clusters.md: what `selfevo doctor --plan` says of four sizes of models.

    python benchmarks/plans.py PRICE

PRICE is in dollars for one device and hour. The shapes and configurations are those in examples/clusters; only their
config.json is read. The work is the same for all: D_meta of 2,000 trajectories of 900 tokens, 10,000 prompts a round,
for each of which the skills write 800 tokens, and micro-batches of 2,048 columns, half of them labelled.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfevo.checks.machine import parse_machine
from selfevo.checks.plan import make_plan
from selfevo.checks.workload import Workload
from selfevo.config.loading import load_config
from selfevo.trainers.training_memory import Batch

FOLDER = Path("examples/clusters")
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("one-gpu", "1.5b", "H100 80GB", {"lora": None}),
    ("one-gpu", "7b", "H100 80GB", {}),
    ("one-gpu", "7b", "H100 80GB", {"lora": None}),
    ("one-gpu", "32b", "H100 80GB", {}),
    ("one-gpu-4bit", "32b", "H100 80GB", {}),
    ("one-gpu-4bit", "70b", "H100 80GB", {}),
    ("one-gpu-4bit", "70b", "B200", {}),
    ("eight-gpus", "1.5b", "8 x H100 80GB", {"lora": None}),
    ("eight-gpus", "7b", "8 x H100 80GB", {}),
    ("eight-gpus-fsdp2", "7b", "8 x H100 80GB", {}),
    ("eight-gpus-fsdp2", "32b", "8 x H100 80GB", {"per_device_train_batch_size": 2}),
    ("eight-gpus-fsdp2", "32b", "8 x H200", {"per_device_train_batch_size": 2}),
    ("two-nodes", "70b", "2 nodes x 8 x H100 80GB", {}),
]


def work_of(rows: int) -> Workload:
    """The work that the tables are about, in micro-batches of so many rows."""
    batch = Batch(rows, 2048, rows * 1024)
    return Workload(d_meta=2000, trajectory=900, pair=400, pool=10_000, written=800, measured=0, batch=batch)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("price", type=float)
    given = parser.parse_args(arguments)
    print(
        "| model | machine | configuration | trained | training, GiB | generation, GiB | rows at a time | round 1, h | "
        "dollars | fits |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, shape, described, changes in CASES:
        config = load_config(FOLDER / f"{name}.yaml")
        config = config.model_copy(update={"trainer": config.trainer.model_copy(update=changes)})
        work = work_of(config.trainer.per_device_train_batch_size)
        plan = make_plan(config, FOLDER / "shapes" / shape, parse_machine(described), work, given.price)
        first = next(stage for stage in plan.stages if stage.name == "round-1")
        how = "4 bit, LoRA" if config.trainer.load_in_4bit else "LoRA" if config.trainer.lora else "all weights"
        costs = f"{first.generate_hours + first.train_hours:.2f} | {first.dollars:,.2f}"
        print(
            f"| {shape.upper()} | {plan.machine} | {name} | {how} | {plan.training.total / 2**30:.1f} | "
            f"{plan.generation.total / 2**30:.1f} | {plan.generation.rows} | {'– | –' if plan.fault else costs} | "
            f"{said(plan.fault)} |"
        )


def said(fault: str) -> str:
    """The remedy of a plan that does not fit."""
    return f"no: {fault.partition('; ')[2]}".replace("|", r"\|") if fault else "yes"


if __name__ == "__main__":
    main()
