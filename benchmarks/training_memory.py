"""Peak memory and speed of a training with adapters: as it is, and as it would be without what saves memory.

    python benchmarks/training_memory.py [--model FOLDER] [--json FILE]

Each side trains a few steps in a process of its own, the two in turn. "before" has the squares of attention, the logits
of all labelled tokens at once, and the float32 copy that LoRA makes of each input. Measured is the peak of resident
memory in training, and tokens per second. A side is left out where less memory is free than --least says.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selfevo.cli.demo import demo_model
from selfevo.config.training import TrainerConfig
from selfevo.method.records import Example
from selfevo.models.device import quiet
from selfevo.pipeline.build import describe_platform
from selfevo.report.progress import Silent
from selfevo.trainers.memory import free_memory_of_cpu

SIDES = ("before", "after")
WORDS = "apple sort the number before after because list check tree river stone seven nine".split()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder; default: the model of the demo")
    parser.add_argument("--rows", type=int, default=8, help="sequences of a batch")
    parser.add_argument("--words", type=int, default=420, help="words of a sequence, of which 0.6 are learnt")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--least", type=float, default=22, help="GiB that must be free for the side before")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    model = given.model or demo_model()
    if given.side:
        child(given.side, model, given.rows, given.words, given.steps)
        return
    case = {name: str(getattr(given, name)) for name in ("rows", "words", "steps")}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for side in SIDES * given.repeats:
        free = free_memory_of_cpu() / 2**30
        if side == "before" and free < given.least:
            print(f"before: left out, {free:.1f} GiB are free", file=sys.stderr)
            continue
        runs[side].append(measured(side, model, case))
        print(f"{side}: {runs[side][-1]}", file=sys.stderr, flush=True)
    found: dict[str, Any] = {"model": model.name, **case, "platform": describe_platform()}
    table = Table(title=f"LoRA, r 32, {model.name}: {given.rows} sequences of some {given.words} words")
    for column in ("", "tokens/step", "peak, GiB", "tokens/s", "loss of the first step"):
        table.add_column(column)
    for side, each in runs.items():
        if each:
            found[side] = {name: statistics.median(run[name] for run in each) for name in each[0]}
            table.add_row(side, *(f"{value:.4g}" for value in found[side].values()))
    Console().print(table)
    if given.json:
        given.json.write_text(json.dumps({**found, "runs": runs}, indent=2) + "\n", encoding="utf-8")


def measured(side: str, model: Path, case: dict[str, str]) -> dict[str, float]:
    options = [text for name, value in case.items() for text in (f"--{name}", value)]
    done = subprocess.run(
        [sys.executable, __file__, "--side", side, "--model", str(model), *options],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(side: str, model: Path, rows: int, words: int, steps: int) -> None:
    from selfevo.trainers import loss, sft

    quiet()
    if side == "before":
        loss.PIECE = 2**60
        sft.casts_inputs = lambda *_: True
    drawn = random.Random(0)
    asked, answered = (
        [" ".join(drawn.choices(WORDS, k=round(share * words))) for _ in range(rows * steps)] for share in (0.4, 0.6)
    )
    examples = [Example(str(i), each, (1.0,), "self") for i, each in enumerate(zip(asked, answered, strict=True))]
    config = TrainerConfig(
        lora={"r": 32, "lora_alpha": 64},
        per_device_train_batch_size=rows,
        max_steps=steps,
        learning_rate=1e-4,
        device="cpu",
        attn_implementation="eager" if side == "before" else None,
    )
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("out", "work"):
            (Path(scratch) / name).mkdir()
        figures = sft.TRLTrainer(config).train(
            model, examples, Path(scratch) / "out", work=Path(scratch) / "work", seed=0, progress=Silent()
        )
    names = ("peak_memory_gib", "tokens_per_second", "loss_first")
    print(json.dumps({"tokens_per_step": figures["tokens"] / steps, **{name: figures[name] for name in names}}))


if __name__ == "__main__":
    main()
