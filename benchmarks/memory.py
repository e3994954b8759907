"""Peak memory of training, measured in a child process, against what `selfevo doctor` says before it.

    python benchmarks/memory.py [--model FOLDER] [--json FILE]
    python benchmarks/memory.py --show docs/results/benchmark-memory.json

Each case trains four steps on sequences of like length and saves the model. Measured is the peak of the child's
resident memory beyond what it had when all was imported and no model loaded. Models: the demo's, two of other shapes
that are built here with random weights (a large vocabulary; GPT-2's blocks), and each `--model`, which is trained with
adapters only. The estimate is that of `selfevo.trainers.training_memory`, as `doctor` calls it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfevo.checks.preview import largest
from selfevo.cli.demo import demo_model
from selfevo.config.training import TrainerConfig
from selfevo.method.records import Example
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer, pick_device, pick_dtype, quiet
from selfevo.pipeline.build import describe_platform
from selfevo.report.progress import Silent
from selfevo.trainers.training_memory import training_memory

STEPS = 4
MODES: dict[str, dict[str, Any]] = {"full": {}, "LoRA": {"lora": {}}}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", default=[], help="a further model folder; repeatable")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", type=Path, help="print the table of a JSON file, measure nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        child(json.loads(given.child))
        return
    if given.show:
        show(json.loads(given.show.read_text(encoding="utf-8")))
        return
    with tempfile.TemporaryDirectory() as scratch:
        cases = [
            {"model": str(folder), "name": name, "mode": mode, "rows": 8, "words": 60, "settings": {}}
            for folder, name, modes in models(Path(scratch), given.model)
            for mode in modes
        ]
        cases[2:2] = [
            {**cases[0], "settings": {"dtype": "float32"}},
            {**cases[0], "settings": {"gradient_checkpointing": True}},
            {**cases[0], "settings": {"optim": "adafactor", "gradient_accumulation_steps": 2}},
            {**cases[1], "rows": 2, "words": 200},
        ]
        found = {"cases": [measured(case) for case in cases], "platform": describe_platform()}
    show(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def models(scratch: Path, further: Sequence[Path]) -> list[tuple[Path, str, tuple[str, ...]]]:
    """Folders with their names, and how each is trained."""
    from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

    demo = demo_model()
    wide = Qwen2Config(
        vocab_size=151936,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    shapes = {"Qwen2 shape, 104 M, random": wide, "GPT-2 shape, 80 M, random": GPT2Config(n_layer=6, vocab_size=49152)}
    found: list[tuple[Path, str, tuple[str, ...]]] = [(demo, "SmolLM2-135M-Instruct", ("full", "LoRA"))]
    for name, shape in shapes.items():
        folder = scratch / shape.model_type
        AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
        for file in TOKENIZER:
            if (demo / file).is_file():
                shutil.copy(demo / file, folder)
        found.append((folder, name, ("full", "LoRA")))
    return [*found, *((folder, folder.name, ("LoRA",)) for folder in further)]


def measured(case: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(case)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{case['name']}, {case['mode']}: {found}", file=sys.stderr, flush=True)
    return {**{key: case[key] for key in ("name", "mode", "settings")}, **found}


def child(case: dict[str, Any]) -> None:
    """Trains, and prints what was estimated and what was measured, in bytes."""
    from selfevo.trainers.sft import TRLTrainer

    quiet()
    folder, rows = Path(case["model"]), case["rows"]
    trainer = TrainerConfig(
        device="cpu", per_device_train_batch_size=rows, max_steps=STEPS, **MODES[case["mode"]], **case["settings"]
    )
    answer = "one two three four five six seven eight nine ten " * (case["words"] // 10)
    examples = [
        Example(str(i), (f"Count: {i} " + answer, answer, "Check.", answer), (0.0, 1.0), "skills")
        for i in range(rows * STEPS * trainer.gradient_accumulation_steps)
    ]
    chat = Chat(load_tokenizer(folder))
    sequences = [loss for e in examples for _, loss in chat.sequences(e.turns, e.weights, e.system)]
    batch = largest(trainer, [(len(loss), sum(weight > 0 for weight in loss)) for loss in sequences])
    need = training_memory(folder, trainer, batch, "cpu", pick_dtype(trainer.dtype, pick_device("cpu")))
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("out", "work"):
            (Path(scratch) / name).mkdir()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew from here
        TRLTrainer(trainer).train(
            folder, examples, Path(scratch) / "out", work=Path(scratch) / "work", seed=0, progress=Silent()
        )
        peak = resident("VmHWM") - before
    size = {"rows": batch.rows, "columns": batch.columns, "labelled": batch.labelled}
    print(json.dumps({**size, "estimated": round(need.total), "measured": peak}))


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def show(found: dict[str, Any]) -> None:
    print("| model | trained | settings | micro-batch, tokens | labelled | estimated, GiB | measured, GiB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for case in found["cases"]:
        settings = ", ".join(f"{key}: {value}" for key, value in case["settings"].items())
        sizes = (f"{case[key] / 2**30:.2f}" for key in ("estimated", "measured"))
        print(
            f"| {case['name']} | {case['mode']} | {settings} | {case['rows']} x {case['columns']} | "
            f"{case['labelled']} | {' | '.join(sizes)} | {case['estimated'] / case['measured']:.2f} |"
        )


if __name__ == "__main__":
    main()
