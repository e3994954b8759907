"""A model small enough to load in milliseconds, with a real tokenizer and chat template; a finished run."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from selfevo.config.run_config import RunConfig

pytest_plugins = ["commands"]

# Tests run side by side, and their models are tiny. More threads would only wait for each other.
for _name, _value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
    os.environ.setdefault(_name, _value)

settings.register_profile("selfevo", deadline=None)  # a busy machine is no failure
settings.load_profile("selfevo")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = (
    "Sort these numbers: 12 45 23 67 89 31",
    "Sort these letters: q w e r t y",
    "Check this answer: name each error, then give your verdict.",
    "Write the improved answer.",
    "Verdict: not qualified",
    "Found: 12 yes 45 no\nOrder: 12 < 45 > 23\nErrors: none",
    "user assistant system",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Signals are handled as in a new Python. A command that a test has run, or the shell that started the tests
    (SIGINT is ignored in the background), would leave them otherwise."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama in float32: two layers, four heads that share two key-value heads, 512 positions."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            # Wide enough that logits are far apart: greedy text is then no matter of the last bit.
            initializer_range=0.4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    folder = tmp_path_factory.mktemp("tiny-model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_remembered(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what the checks of another one have found, or leaves anything in the user's cache."""
    monkeypatch.setattr("selfevo.checks.remembered.cache_directory", lambda: tmp_path_factory.mktemp("cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A finished run of the small demo with scripted parts; not to be changed."""
    from runs import small_demo, student
    from selfevo.engines.scripted import ScriptedEngine
    from selfevo.pipeline.run import run_loop
    from selfevo.report.progress import Silent
    from selfevo.trainers.scripted import ScriptedTrainer

    folder = tmp_path_factory.mktemp("finished")
    config = small_demo(folder, folder / "runs/demo")
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    return config


@pytest.fixture
def copy(finished: RunConfig, tmp_path: Path) -> RunConfig:
    """A copy of `finished` that may be changed."""
    shutil.copytree(finished.output, tmp_path / "run")
    return finished.model_copy(update={"output": tmp_path / "run"})
