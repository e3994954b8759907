"""Training on D_meta: the trainer against TRL's SFTTrainer with its defaults, as many steps on the same trajectories.

    python benchmarks/training.py [--trajectories 64] [--repeats 5] [--json FILE]

TRL's side is what its documentation shows: conversations as prompt and completion, one for each of log P(f | p, r),
log P(r^ | p, r, f) and log P(r^ | p), defaults for everything but batch size, learning rate, schedule and precision,
which are ours. TRL takes one epoch of them; ours takes as many steps of its own sequences, which hold f and r^ at
once. The two alternate; the loss is that of the same held-out trajectories under the weights each has saved.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from selfevo.cli.demo import demo_model
from selfevo.config.task import TaskConfig
from selfevo.config.training import TrainerConfig
from selfevo.method.prompts import CRITIQUE, REFINE
from selfevo.method.records import Example, Refined, Turns
from selfevo.method.training_examples import meta_examples
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer, pick_device, pick_dtype, quiet
from selfevo.pipeline.build import describe_platform
from selfevo.report.progress import Silent
from selfevo.tasks import load_task
from selfevo.trainers.sft import TRLTrainer

CONFIG = TrainerConfig(learning_rate=2e-4, num_train_epochs=1, per_device_train_batch_size=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", type=Path, help="a model folder; default: the model of the demo")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    quiet()
    model, console = given.model or demo_model(), Console()
    rows = trajectories(given.trajectories + 32)
    d_meta, held_out = rows[:-32], meta_examples(rows[-32:], 1.0)
    examples, conversations = meta_examples(d_meta, 1.0), as_conversations(d_meta)
    steps = steps_of(conversations)
    trainers = {
        "ours": partial(train_ours, examples=examples, steps=steps),
        "TRL defaults": partial(train_trl, conversations=conversations),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in trainers}
    for repeat in range(given.repeats):
        for name, train in trainers.items():
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                begun = time.perf_counter()
                train(model, folder, repeat)
                seconds = time.perf_counter() - begun
                runs[name].append({"seconds": seconds, "loss": loss(folder / "out", held_out)})
            console.print(f"repeat {repeat + 1}, {name}: {seconds:.1f} s", highlight=False)
    chat = Chat(load_tokenizer(model))
    read = {
        "ours": steps
        / steps_of(examples)
        * sum(len(ids) for e in examples for ids, _ in chat.sequences(e.turns, e.weights)),
        "TRL defaults": sum(len(ids) for t in conversations for ids, _ in chat.sequences(t, (1.0,) * (len(t) // 2))),
    }
    result: dict[str, Any] = {"trajectories": len(d_meta), "steps": steps, "repeats": given.repeats}
    result["platform"] = describe_platform()
    for name, measured in runs.items():
        seconds = statistics.median(run["seconds"] for run in measured)
        result[name] = {
            "seconds": seconds,
            "all_seconds": [run["seconds"] for run in measured],
            "tokens_per_second": read[name] / seconds,
            "held_out_loss": statistics.mean(run["loss"] for run in measured),
        }
    result["ratio_vs_trl"] = result["TRL defaults"]["seconds"] / result["ours"]["seconds"]
    table = Table(
        title=f"{steps} steps on {len(d_meta)} trajectories, medians of {given.repeats}", title_justify="left"
    )
    for column in ("", "seconds", "tokens/s", "held-out loss"):
        table.add_column(column, justify="right" if column else "left")
    for name in trainers:
        row = result[name]
        table.add_row(name, *(f"{row[k]:.3g}" for k in ("seconds", "tokens_per_second", "held_out_loss")))
    console.print(table)
    console.print(f"ratio {result['ratio_vs_trl']:.2f}", highlight=False)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


def trajectories(count: int) -> list[Refined]:
    """Annotated wrong answers: the solution of another problem."""
    task = load_task(TaskConfig(name="demo"))
    problems = task.problems(count + 1, 0, frozenset())
    rows = []
    for problem, other in itertools.pairwise(problems):
        prompt, response = problem.prompt, task.solution(other)
        feedback, refinement = task.explain(problem, response), task.solution(problem)
        rows.append(Refined(prompt.id, prompt.prompt, response, feedback, refinement))
    return rows


def steps_of(sequences: Sequence[object]) -> int:
    """Steps of one epoch."""
    return math.ceil(len(sequences) / CONFIG.per_device_train_batch_size)


def train_ours(model: Path, folder: Path, seed: int, examples: Sequence[Example], steps: int) -> None:
    for name in ("out", "work"):
        (folder / name).mkdir()
    config = CONFIG.model_copy(update={"num_train_epochs": (steps - 0.5) / steps_of(examples)})
    trainer = TRLTrainer(config)
    figures = trainer.train(model, examples, folder / "out", work=folder / "work", seed=seed, progress=Silent())
    assert figures["steps"] == steps, figures


def as_conversations(d_meta: Sequence[Refined]) -> list[Turns]:
    """One conversation for each term of L_meta; the last turn is what is learnt."""
    return [
        turns
        for row in d_meta
        for turns in (
            (row.prompt, row.response, CRITIQUE, row.feedback),
            (row.prompt, row.response, CRITIQUE, row.feedback, REFINE, row.refinement),
            (row.prompt, row.refinement),
        )
    ]


def train_trl(model: Path, folder: Path, seed: int, conversations: Sequence[Turns]) -> None:
    device = pick_device("auto")
    half = pick_dtype("auto", device) is torch.bfloat16
    messages = [
        [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(turns)]
        for turns in conversations
    ]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        processing_class=load_tokenizer(model),
        train_dataset=Dataset.from_list([{"prompt": m[:-1], "completion": m[-1:]} for m in messages]),
        args=SFTConfig(
            output_dir=str(folder / "work"),
            per_device_train_batch_size=CONFIG.per_device_train_batch_size,
            learning_rate=CONFIG.learning_rate,
            warmup_steps=CONFIG.warmup_ratio,
            num_train_epochs=CONFIG.num_train_epochs,
            bf16=half,
            use_cpu=device.type == "cpu",
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.train()
    trainer.save_model(str(folder / "out"))


@torch.inference_mode()
def loss(folder: Path, examples: Sequence[Example]) -> float:
    """Mean cross-entropy of the labelled tokens, in float32."""
    chat, model = Chat(load_tokenizer(folder)), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total = count = 0.0
    for example in examples:
        for ids, weights in chat.sequences(example.turns, example.weights):
            logits = model(torch.tensor([ids])).logits[0, :-1]
            nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
            total += float((nll * torch.tensor(weights[1:])).sum())
            count += sum(weights[1:])
    return total / count


if __name__ == "__main__":
    main()
