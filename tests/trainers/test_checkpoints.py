"""What a kill costs a training, and what it goes on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from selfevo.engines.transformers import TransformersEngine
from selfevo.errors import DataError, RunError
from selfevo.method.protocols import Request, Sampling
from selfevo.rundir.ownership import locked
from trainings import EXAMPLES, Killing, state, train


def test_the_same_seed_trains_the_same_model(tiny_model: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiny_model, tmp_path / name, EXAMPLES * 3, seed=seed, per_device_train_batch_size=1)
        weights.append((tmp_path / name / "out/model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


SHORT = EXAMPLES * 2  # 6 steps of one sequence each


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_weights(
    tiny_model: Path, tmp_path: Path, device: str
) -> None:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 1,
        "save_minutes": 1e-9,
        "lr_scheduler_type": "linear",
        "device": device,
    }
    train(tiny_model, tmp_path / "whole", SHORT, **settings)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path / "killed", SHORT, progress=Killing(4), **settings)
    assert not any((tmp_path / "killed/out").iterdir())
    second = Killing(100)
    figures = train(tiny_model, tmp_path / "killed", SHORT, progress=second, **settings)
    assert second.begun == [(3, 6)]
    assert figures["steps"] == 6
    whole, killed = state(tmp_path / "whole/out"), state(tmp_path / "killed/out")
    for name in whole:
        assert torch.equal(killed[name], whole[name]), name


def test_a_checkpoint_torn_by_a_kill_does_not_end_the_run(tiny_model: Path, tmp_path: Path) -> None:
    """Killed while saving: the folder is there, half of its files are not."""
    (tmp_path / "work/checkpoint-2").mkdir(parents=True)
    (tmp_path / "work/checkpoint-2/config.json").write_text("{}")
    figures = train(tiny_model, tmp_path, SHORT, per_device_train_batch_size=1)
    assert figures["steps"] == 6


class Moving(Killing):
    """Progress that moves the run directory away after `steps` optimizer steps."""

    def __init__(self, steps: int, run: Path, to: Path) -> None:
        super().__init__(steps)
        self.run, self.to = run, to

    def advance(self, amount: int, detail: str = "") -> None:
        self.steps -= amount
        if self.steps == 0:
            self.run.rename(self.to)


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_a_run_directory_that_goes_away_ends_the_training_and_is_not_made_anew(
    tiny_model: Path, tmp_path: Path, steps: int
) -> None:
    """transformers would make it with each checkpoint."""
    run, moving = tmp_path / "run", Moving(steps, tmp_path / "run", tmp_path / "elsewhere")
    settings: dict[str, Any] = {"per_device_train_batch_size": 1, "save_minutes": 1e-9}
    with pytest.raises(RunError, match="run has gone while it was in use"), locked(run):
        train(tiny_model, run, SHORT, progress=moving, **settings)
    assert not run.exists()
    moving.to.rename(run)
    with locked(run):
        assert train(tiny_model, run, SHORT, **settings)["steps"] == 6


@pytest.mark.parametrize("plant", ["trainer_state.json.bak", "more.safetensors", "deep/x.bin"])
def test_a_checkpoint_with_a_planted_file_is_not_used(tiny_model: Path, tmp_path: Path, plant: str) -> None:
    settings: dict[str, Any] = {"per_device_train_batch_size": 1, "save_minutes": 1e-9}
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path, SHORT, progress=Killing(4), **settings)
    (checkpoint,) = (tmp_path / "work").glob("checkpoint-*")
    (checkpoint / plant).parent.mkdir(exist_ok=True)
    (checkpoint / plant).write_text("planted")
    again = Killing(100)
    train(tiny_model, tmp_path, SHORT, progress=again, **settings)
    assert again.begun == [(0, 6)]


class Canary:
    """Pickled, it touches a file when someone unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickles_and_code_beside_a_model_are_not_run(tiny_model: Path, tmp_path: Path) -> None:
    base, canary = tmp_path / "base", tmp_path / "fired"
    shutil.copytree(tiny_model, base)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save(Canary(canary), base / name)
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    for name in ("modeling_llama.py", "tokenization.py", "configuration.py", "custom_generate.py"):
        (base / name).write_text(code)
    train(base, tmp_path)
    TransformersEngine(dtype="float32", device="cpu").generate(base, [Request(("Sort: 2 1",), 0)], Sampling(4))
    assert not canary.exists()
    settings = json.loads((base / "config.json").read_text())
    settings["model_type"] = "unheard-of"
    settings["auto_map"] = {
        "AutoConfig": "configuration.Config",
        "AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM",
    }
    (base / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="cannot load a model from"):
        train(base, tmp_path)
    with pytest.raises(DataError, match="cannot load a model from"):
        TransformersEngine(device="cpu").generate(base, [Request(("Sort: 2 1",), 0)], Sampling(4))
    assert not canary.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
def test_a_checkpoint_that_was_changed_is_not_loaded(tiny_model: Path, tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"per_device_train_batch_size": 1, "save_minutes": 1e-9}
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path, SHORT, progress=Killing(4), **settings)
    (checkpoint,) = (tmp_path / "work").glob("checkpoint-*")
    assert (checkpoint / name).is_file()
    torch.save(Canary(tmp_path / "fired"), checkpoint / name)
    second = Killing(100)
    train(tiny_model, tmp_path, SHORT, progress=second, **settings)
    assert second.begun == [(0, 6)]
    assert not (tmp_path / "fired").exists()


def test_no_checkpoint_is_written_before_its_time(tiny_model: Path, tmp_path: Path) -> None:
    train(tiny_model, tmp_path, SHORT, per_device_train_batch_size=1)
    assert not list((tmp_path / "work").glob("checkpoint-*"))
