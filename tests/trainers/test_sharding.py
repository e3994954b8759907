"""FSDP2 in real groups on the CPU: it trains what one process trains, and leaves plain models."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_processes import ANSWERS, PAIRS, Watching, curve, furthest, process_of, run_config, trained
from transformers import AutoModelForCausalLM

from selfevo.config.loading import parse
from selfevo.config.training import TrainerConfig
from selfevo.errors import ConfigError, TrainingError
from selfevo.models.loading import load_model
from selfevo.pipeline.build import build_trainer
from selfevo.rundir.atomic_files import hash_model
from selfevo.trainers.packages import check_settings
from selfevo.trainers.saving import write_model
from trainings import config, state

cluster = pytest.mark.cluster


def sharded(base: Path, folder: Path, kind: str = "sft", progress: Any = None, **settings: Any) -> dict[str, float]:
    """Trains with FSDP2 in two processes, four rows a step."""
    settings = {"processes": 2, "sharding": "fsdp2", **settings}
    trainer = build_trainer(run_config(base, folder, kind, **settings), "round-1")
    figures: dict[str, float] = trained(trainer, base, folder, PAIRS if kind == "dpo" else ANSWERS, progress)
    return figures


def alone(base: Path, folder: Path, kind: str = "sft", progress: Any = None, **settings: Any) -> dict[str, float]:
    """Trains in one process, with the same rows a step."""
    return sharded(
        base, folder, kind, progress, **settings, processes=1, sharding="none", gradient_accumulation_steps=2
    )


class Disturbing(Watching):
    """Does what `acts` say after so many steps, and notes what the checkpoints hold."""

    def __init__(self, work: Path, acts: dict[int, Any]) -> None:
        super().__init__()
        self.work, self.acts = work, acts
        self.parts: dict[str, int] = {}

    def advance(self, amount: int, detail: str = "") -> None:
        super().advance(amount, detail)
        for part in self.work.glob("checkpoint-*/*/*.distcp"):
            self.parts[f"{part.parent.name}/{part.name}"] = part.stat().st_size
        if act := self.acts.get(len(self.losses)):
            act()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups compute the loss in several pieces, as they do with the vocabulary of a real model."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start/sitecustomize.py").write_text(
        "import os\nif 'RANK' in os.environ:\n    import selfevo.trainers.loss as loss\n    loss.PIECE = 1000\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "start"), *sys.path]))


@cluster
@pytest.mark.usefixtures("small_pieces")
def test_sharded_training_gives_the_model_of_one_process_whatever_is_killed(tiny_model: Path, tmp_path: Path) -> None:
    """Ctrl-C in the first epoch, kill -9 of each process in the second; held-out loss, weights per token."""
    first, second = Watching(), Watching()
    settings: dict[str, Any] = {"save_minutes": 1e-9, "eval_share": 0.3}
    one = alone(tiny_model, tmp_path / "one", progress=first, **settings)
    two = sharded(tiny_model, tmp_path / "two", progress=second, **settings)
    assert first.begun == second.begun
    assert first.losses == second.losses
    timing = {"tokens_per_second": 0, "padding_share": 0}  # the last batch of an epoch is filled up
    assert {**one, **timing} == {**two, **timing}
    assert furthest(tmp_path / "one/out", tmp_path / "two/out") < 1e-5
    for a, b in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        assert {**a, "epoch": 0} == pytest.approx({**b, "epoch": 0}, rel=1e-4)
    assert "eval_loss" in curve(tmp_path / "two")[-1]

    folder = tmp_path / "disturbed"
    work = folder / "work"
    with pytest.raises(KeyboardInterrupt):
        sharded(tiny_model, folder, progress=Disturbing(work, {2: interrupt}), **settings)
    assert list(work.glob("checkpoint-*/selfevo.json"))
    kills = {i + 2: lambda rank=i: os.kill(process_of(work, rank), signal.SIGKILL) for i in (0, 1)}
    watching = Disturbing(work, kills)
    sharded(tiny_model, folder, progress=watching, **settings)
    starts = [done for done, _ in watching.begun]
    assert len(starts) == 3
    assert 0 < starts[0] < starts[1] <= starts[2]
    for name in ("model.safetensors", "config.json", "generation_config.json", "training.jsonl"):
        assert (folder / "out" / name).read_bytes() == (tmp_path / "two/out" / name).read_bytes(), name
    # It is FSDP2 indeed: each process has written half of the weights.
    zero, one_ = (watching.parts[f"pytorch_model_fsdp_0/__{rank}_0.distcp"] for rank in (0, 1))
    whole = sum(tensor.nbytes for tensor in state(tiny_model).values())
    assert max(zero, one_) < 0.6 * whole < zero + one_


@cluster
@pytest.mark.parametrize("lora", [None, {"r": 4, "merge": False}])
def test_sharded_dpo_gives_the_model_of_one_process(tiny_model: Path, tmp_path: Path, lora: Any) -> None:
    first, second = Watching(), Watching()
    alone(tiny_model, tmp_path / "one", "dpo", first, lora=lora, max_steps=3, num_train_epochs=3)
    sharded(tiny_model, tmp_path / "two", "dpo", second, lora=lora, max_steps=3, num_train_epochs=3)
    assert first.losses == second.losses
    if lora is None:
        assert furthest(tmp_path / "one/out", tmp_path / "two/out") < 1e-5
    else:
        assert same_adapter(tmp_path / "one/out", tmp_path / "two/out")


def same_adapter(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    return all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


@cluster
def test_sharded_adapters_are_merged_or_kept_and_resumed(tiny_model: Path, tmp_path: Path) -> None:
    lora = {"r": 4, "use_dora": True, "modules_to_save": ["norm"]}
    settings: dict[str, Any] = {"save_minutes": 1e-9, "gradient_checkpointing": True}
    alone(tiny_model, tmp_path / "merged", lora=lora)
    alone(tiny_model, tmp_path / "kept", lora={**lora, "merge": False})
    sharded(tiny_model, tmp_path / "merged-2", lora=lora, **settings)
    work = tmp_path / "kept-2/work"
    watching = Watching(6, lambda: os.kill(process_of(work, 1), signal.SIGKILL))
    sharded(tiny_model, tmp_path / "kept-2", progress=watching, lora={**lora, "merge": False}, **settings)
    assert len(watching.begun) == 2
    assert watching.begun[1][0] > 0
    assert furthest(tmp_path / "merged/out", tmp_path / "merged-2/out") < 1e-5
    assert same_adapter(tmp_path / "kept/out", tmp_path / "kept-2/out")


@cluster
def test_a_sharded_loss_that_is_no_number_ends_the_training(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"became (nan|inf) at step \d+; lower learning_rate; the rows of "):
        sharded(tiny_model, tmp_path, learning_rate=1e30, lr_scheduler_type="constant")
    assert not list((tmp_path / "out").iterdir())


def test_a_large_model_is_saved_in_several_files(tiny_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    write_model(model, tmp_path / "one")
    write_model(model, tmp_path / "several", "60KB")
    files = {path.name for path in (tmp_path / "several").iterdir()}
    index = json.loads((tmp_path / "several/model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert files == shards | {"config.json", "generation_config.json", "model.safetensors.index.json"}
    assert len(shards) > 2
    assert all((tmp_path / "several" / name).stat().st_size < 70_000 for name in files)
    assert furthest(tmp_path / "one", tmp_path / "several") == 0
    assert hash_model(tmp_path / "several") != hash_model(tmp_path / "one")
    load_model(tmp_path / "several", torch.float32)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"processes": 1}, "sharding fsdp2 spreads a model over several processes, and processes is 1; set processes"),
        ({"load_in_4bit": True, "lora": {}}, "sharding fsdp2 cannot spread 4-bit weights; leave load_in_4bit out"),
        ({"optim": "adafactor"}, "optim adafactor does not work with sharding fsdp2; take one of adamw_torch_fused"),
        ({"optim": "paged_adamw_8bit"}, "optim paged_adamw_8bit does not work with sharding fsdp2"),
        ({"sharding": "fsdp"}, "sharding"),
        ({"sharding": "zero3"}, "sharding"),
    ],
)
def test_what_cannot_be_sharded_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml: ") as raised:
        parse(TrainerConfig, {"processes": 2, "sharding": "fsdp2", **settings}, "x.yaml")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_grpo_is_not_sharded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="objective grpo"):
        run_config(tmp_path, tmp_path, "grpo", processes=2, sharding="fsdp2")


def test_a_cpu_beside_gpus_is_not_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    check_settings(config(processes=2, sharding="fsdp2"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(ConfigError, match=r"torch sees a CUDA device; set trainer\.device to cuda, or hide"):
        check_settings(config(processes=2, sharding="fsdp2"))
