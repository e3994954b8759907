"""FSDP2 in real groups on the CPU: it trains what one process trains, and leaves plain models."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_processes import ANSWERS, PAIRS, Watching, furthest, process_of, run_config, trained
from transformers import AutoModelForCausalLM, AutoTokenizer

from groups import trained_together
from selfevo.config.loading import parse
from selfevo.config.run_config import RunConfig
from selfevo.config.training import TrainerConfig
from selfevo.errors import ConfigError, TrainingError
from selfevo.method.records import Example
from selfevo.models.loading import load_model
from selfevo.pipeline.build import build_trainer
from selfevo.rundir.atomic_files import CURVE, hash_model
from selfevo.trainers.packages import check_settings
from selfevo.trainers.saving import write_model
from trainings import config, state

cluster = pytest.mark.cluster


# The objective, the examples and further settings of the trainer.
CASES: dict[str, tuple[str, list[Example], dict[str, Any]]] = {
    "sft": ("sft", ANSWERS, {"eval_share": 0.3}),
    "sft of a tied model": ("sft", ANSWERS[:13], {"gradient_checkpointing": True}),
    "merged adapters": ("sft", ANSWERS, {"lora": {"r": 4, "use_dora": True, "modules_to_save": ["norm"]}}),
    "kept adapters": ("sft", ANSWERS, {"lora": {"r": 4, "merge": False}}),
    "dpo": ("dpo", PAIRS[:15], {}),
    "dpo of adapters": ("dpo", PAIRS[:6], {"lora": {"r": 4, "merge": False}}),
}


def configured(base: Path, folder: Path, name: str, **settings: Any) -> RunConfig:
    """The configuration of a case, for four rows a step."""
    return run_config(base, folder, CASES[name][0], **CASES[name][2], learning_rate=1e-3, **settings)


def sharded(base: Path, folder: Path, name: str, progress: Any = None, **settings: Any) -> dict[str, float]:
    config = configured(base, folder, name, processes=2, sharding="fsdp2", **settings)
    figures: dict[str, float] = trained(build_trainer(config, "round-1"), base, folder, CASES[name][1], progress)
    return figures


@pytest.fixture(scope="module")
def small_pieces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Groups compute the loss in several pieces, as they do with the vocabulary of a real model."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "sitecustomize.py").write_text(
        "import os\nif 'RANK' in os.environ:\n    import selfevo.trainers.loss as loss\n    loss.PIECE = 1000\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
        patch.syspath_prepend(str(folder))
        yield


@pytest.fixture(scope="module")
def bases(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model of each case."""
    tied = tmp_path_factory.mktemp("tied")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tied)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tied)
    return {name: tied if "tied" in name else tiny_model for name in CASES}


@pytest.fixture(scope="module")
def together(
    bases: dict[str, Path], small_pieces: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """All cases, trained by one group of two processes with FSDP2."""
    folder = tmp_path_factory.mktemp("sharded")
    trainings: dict[str, Any] = {}
    for name, (_, examples, _) in CASES.items():
        config = configured(bases[name], folder, name, processes=2, sharding="fsdp2")
        trainings[name] = (build_trainer(config, "round-1"), bases[name], examples)
    return folder, trained_together(folder, trainings)


@cluster
@pytest.mark.parametrize("name", CASES)
def test_sharded_training_gives_the_model_of_one_process(
    bases: dict[str, Path], together: tuple[Path, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    folder, found = together
    progress, base = Watching(), bases[name]
    config = configured(base, tmp_path, name, gradient_accumulation_steps=2)
    one = trained(build_trainer(config, "round-1"), base, tmp_path, CASES[name][1], progress)
    two, seen = found[name]
    assert seen.begun == progress.begun
    assert seen.details == progress.losses
    timeless = {"tokens_per_second": 0, "padding_share": 0, "peak_memory_gib": 0}
    assert {**two, **timeless} == pytest.approx({**one, **timeless}, abs=2e-4)
    curves = [(place / "out/training.jsonl").read_text().splitlines() for place in (tmp_path, folder / name)]
    for a, b in zip(*curves, strict=True):
        assert {**json.loads(b), "epoch": 0} == pytest.approx({**json.loads(a), "epoch": 0}, rel=1e-4, abs=1e-6)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {path.name for path in (folder / name / "out").iterdir()} == files
    weights = "model.safetensors" if "model.safetensors" in files else "adapter_model.safetensors"
    a, b = (load_file(place / "out" / weights) for place in (tmp_path, folder / name))
    assert a.keys() == b.keys()
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < 1e-5


class Disturbing(Watching):
    """Does what `acts` say after so many steps, and notes how large the parts of checkpoints are."""

    def __init__(self, work: Path, acts: dict[int, Any]) -> None:
        super().__init__()
        self.work, self.acts = work, acts
        self.parts: dict[str, int] = {}

    def advance(self, amount: int, detail: str = "") -> None:
        super().advance(amount, detail)
        for part in self.work.glob("checkpoint-*/pytorch_model_fsdp_0/*.distcp"):
            with contextlib.suppress(FileNotFoundError):
                self.parts[part.name] = part.stat().st_size
        if act := self.acts.get(len(self.losses)):
            act()


def interrupt() -> None:
    raise KeyboardInterrupt


@cluster
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", ["sft", "kept adapters"])
def test_a_killed_sharded_training_ends_as_if_it_had_not_been(
    tiny_model: Path, together: tuple[Path, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    """kill -9 of each process in turn; for SFT Ctrl-C before, in the first epoch."""
    work = tmp_path / "work"
    if name == "sft":
        with pytest.raises(KeyboardInterrupt):
            sharded(tiny_model, tmp_path, name, Disturbing(work, {2: interrupt}), save_minutes=1e-9)
        assert list(work.glob("checkpoint-*/selfevo.json"))
    kills = {place: partial(kill, work, rank) for place, rank in ((2, 0), (4, 1))}
    watching = Disturbing(work, kills)
    sharded(tiny_model, tmp_path, name, watching, save_minutes=1e-9)
    starts = [done for done, _ in watching.begun]
    assert len(starts) == 3
    assert (starts[0] > 0) == (name == "sft")
    assert starts == sorted(starts)
    assert starts[1] > 0
    undisturbed = together[0] / name / "out"
    for path in set(undisturbed.iterdir()) - {undisturbed / CURVE}:  # a kill just before a held-out loss costs it
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    if name == "sft":  # FSDP2 indeed: each process has written half of the weights
        whole = sum(tensor.nbytes for tensor in state(tiny_model).values())
        zero, one = (watching.parts[f"__{rank}_0.distcp"] for rank in (0, 1))
        assert max(zero, one) < 0.75 * whole < zero + one


def kill(work: Path, rank: int) -> None:
    os.kill(process_of(work, rank), signal.SIGKILL)


@cluster
def test_a_sharded_loss_that_is_no_number_ends_the_training(tiny_model: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, tmp_path, processes=2, sharding="fsdp2", learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"became (nan|inf) at step \d+; lower learning_rate; the rows of "):
        trained(build_trainer(config, "round-1"), tiny_model, tmp_path, ANSWERS)
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
