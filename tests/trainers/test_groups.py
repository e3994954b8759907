"""What training has beside the loop is the same with two processes as with one, at the same global batch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from test_processes import ANSWERS, PAIRS, ROWS, Watching, process_of, trained

from groups import Seen, trained_together
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.errors import TrainingError
from selfevo.method.records import Example
from selfevo.pipeline.build import build_trainer

pytestmark = pytest.mark.cluster

PROMPTS = [Example(str(i), (f"Sort: {row}",), (), "prompt") for i, row in enumerate(ROWS)]
HELD_OUT = {"eval_share": 0.3}
GRPO = {"kind": "grpo", "num_generations": 4}
ADAPTED = "kept adapters that an earlier training has made"
# The objective, the examples, settings of the trainer, and how many batches of a process make a step.
CASES: dict[str, tuple[Any, list[Example], dict[str, Any], int]] = {
    "last batch of one row": ("sft", ANSWERS[:13], {}, 1),
    "last batch of three rows": ("sft", ANSWERS[:15], {}, 2),
    "one row": ("sft", ANSWERS[:1], {}, 2),
    "max_steps": ("sft", ANSWERS, {"max_steps": 5}, 1),
    "packing": ("sft", ANSWERS, {"packing": True, "max_length": 64}, 1),
    "held out": ("sft", ANSWERS, HELD_OUT, 1),
    "held out, by steps": ("sft", ANSWERS, {**HELD_OUT, "eval_strategy": "steps", "eval_steps": 2}, 1),
    "held-out pairs": ("dpo", PAIRS, HELD_OUT, 1),
    "merged adapters": ("sft", ANSWERS, {"lora": {}}, 1),
    "kept adapters": ("sft", ANSWERS, {"lora": {"merge": False}}, 1),
    ADAPTED: ("sft", ANSWERS, {"lora": {"merge": False}}, 1),
    # Plain SGD, so that the weights show the gradients: Adam would make rounding as large as they are.
    "grpo": (GRPO, PROMPTS[:8], {"optim": "sgd"}, 1),
    "grpo, several batches a step": (GRPO, PROMPTS[:8], {"optim": "sgd"}, 2),
    "grpo with a reference": ({**GRPO, "beta": 0.1}, PROMPTS[:8], {"optim": "sgd"}, 1),
    "grpo of adapters": (GRPO, PROMPTS[:8], {"optim": "sgd", "lora": {"merge": False}}, 1),
    "grpo, a prompt left over": (GRPO, PROMPTS[:7], {"optim": "sgd"}, 1),
}


@pytest.fixture(scope="module")
def ending_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, which comes to an end soon: a third of all tokens end a turn."""
    folder = tmp_path_factory.mktemp("ending") / "model"
    shutil.copytree(tiny_model, folder)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "eos_token_id": [settings["eos_token_id"], *range(4, 400, 3)]}))
    return folder


def configured(base: Path, folder: Path, objective: Any, trainer: dict[str, Any]) -> RunConfig:
    settings = {
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 2,
        "warmup_ratio": 0,
        "dtype": "float32",
        "device": "cpu",
        **({} if "max_steps" in trainer else {"num_train_epochs": 2}),
        **trainer,
    }
    return parse_config(
        {
            "model": str(base),
            "output": str(folder / "run"),
            "prompts": {"task": {"name": "demo"}},
            "corpus": {"task": {"name": "demo"}},
            "policy": "continual-latest",
            "objective": objective,
            "engine": {"kind": "judges:ByLength"},
            "skills": {"respond": {"temperature": 1.0, "top_p": 0.95, "repetition_penalty": 1.1, "max_new_tokens": 6}},
            "trainer": settings,
        },
        "test",
    )


@pytest.fixture(scope="module")
def adapter(ending_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a round trains on with a continual policy."""
    folder = tmp_path_factory.mktemp("adapter")
    config = configured(ending_model, folder, "sft", {"lora": {"merge": False}, "max_steps": 2})
    trained(build_trainer(config, "round-1"), ending_model, folder, ANSWERS)
    return folder / "out"


@pytest.fixture(scope="module")
def together(
    ending_model: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """All cases, trained by one group of two processes."""
    folder = tmp_path_factory.mktemp("group")
    trainings: dict[str, Any] = {}
    for name, (objective, examples, trainer, batches) in CASES.items():
        settings = {**trainer, "processes": 2, "gradient_accumulation_steps": batches}
        config = configured(ending_model, folder, objective, settings)
        trainings[name] = (build_trainer(config, "round-1"), adapter if name == ADAPTED else ending_model, examples)
    return folder, trained_together(folder, trainings)


def weights(output: Path) -> dict[str, Any]:
    return dict(load_file(next(path for path in output.glob("*.safetensors"))))


def curve(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "training.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_do_what_one_does(
    ending_model: Path, adapter: Path, together: tuple[Path, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    folder, found = together
    objective, examples, trainer, batches = CASES[name]
    config = configured(ending_model, tmp_path, objective, {**trainer, "gradient_accumulation_steps": 2 * batches})
    progress = Seen()
    base = adapter if name == ADAPTED else ending_model
    one = trained(build_trainer(config, "round-1"), base, tmp_path, examples, progress)
    two, seen = found[name]
    assert seen.begun == progress.begun
    assert len(seen.details) == len(progress.details)
    timeless = {"tokens_per_second", "padding_share", "peak_memory_gib"}
    assert {key: value for key, value in two.items() if key not in timeless} == pytest.approx(
        {key: value for key, value in one.items() if key not in timeless}, abs=2e-4
    )
    for step, other in zip(curve(tmp_path / "out"), curve(folder / name / "out"), strict=True):
        assert {**other, "epoch": 0} == pytest.approx({**step, "epoch": 0}, rel=1e-4, abs=1e-6)
    assert max(step["grad_norm"] for step in curve(tmp_path / "out")) > 0.01
    alone, shared = weights(tmp_path / "out"), weights(folder / name / "out")
    assert alone.keys() == shared.keys()
    assert max(float((alone[key] - shared[key]).abs().max()) for key in alone) < 1e-5


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of tests can be named in the configuration of other processes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.mark.usefixtures("judges")
def test_grpo_goes_on_after_a_kill(ending_model: Path, tmp_path: Path) -> None:
    """The responses that a step still needs are in no checkpoint, so it goes on where new ones are sampled."""
    settings = {"optim": "sgd", "save_minutes": 1e-9}
    config = configured(ending_model, tmp_path, GRPO, {**settings, "gradient_accumulation_steps": 2})
    trained(build_trainer(config, "round-1"), ending_model, tmp_path / "one", PROMPTS)
    work = tmp_path / "two/work"
    watching = Watching(20, lambda: os.kill(process_of(work, 1), signal.SIGKILL))
    config = configured(ending_model, tmp_path, GRPO, {**settings, "processes": 2})
    trained(build_trainer(config, "round-1"), ending_model, tmp_path / "two", PROMPTS, watching)
    assert watching.begun == [(0, 32), (16, 32)]
    a, b = weights(tmp_path / "one/out"), weights(tmp_path / "two/out")
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < 1e-5


def test_a_loss_that_is_no_number_ends_the_group(ending_model: Path, tmp_path: Path) -> None:
    config = configured(ending_model, tmp_path, "sft", {"processes": 2, "learning_rate": 1e30})
    with pytest.raises(
        TrainingError, match=r"became (nan|inf) at step \d+; lower learning_rate; the rows of the batch"
    ):
        trained(build_trainer(config, "round-1"), ending_model, tmp_path, ANSWERS)
    assert not list(tmp_path.glob("out/*.safetensors"))
