"""A folder that does not hold the whole model it describes is refused, by whatever loads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from selfevo.config.sections import DPOObjective, GRPOObjective, SkillsConfig
from selfevo.config.training import TrainerConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.engines.transformers import TransformersEngine
from selfevo.errors import DataError
from selfevo.method.protocols import Request, Sampling, Trainer
from selfevo.method.records import Judged
from selfevo.method.training_examples import preference_examples, prompt_examples
from selfevo.models.loading import load_model
from selfevo.report.progress import Silent
from selfevo.trainers.dpo import PreferenceTrainer
from selfevo.trainers.grpo import VerdictRewardTrainer
from trainings import train

LAYER = "model.layers.0.mlp.up_proj.weight"


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def settings(**changes: object) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "blobs" / "gone")


def shard_missing(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    where = {name: f"model-0000{1 + (name == LAYER)}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a tensor is missing": (weights(lambda t: t.pop(LAYER)), f"has no weights for {LAYER}; give a folder"),
    "many are missing": (
        weights(lambda t: [t.pop(name) for name in list(t) if "layers.0" in name]),
        r"has no weights for model\.layers\.0\.[a-z._]*, .* and 6 more",
    ),
    "one too many": (weights(lambda t: t.update(extra=torch.zeros(2))), "does not know: extra"),
    "a layer too many": (settings(num_hidden_layers=1), r"does not know: model\.layers\.1\..* and 6 more"),
    "a layer too few": (settings(num_hidden_layers=3), r"has no weights for model\.layers\.2\..* and 6 more"),
    "another shape": (weights(lambda t: t.update({LAYER: torch.zeros(3, 3)})), "cannot load a model from"),
    "another size": (settings(intermediate_size=48), "cannot load a model from"),
    "cut off": (cut("model.safetensors"), "cannot load a model from"),
    "cut off after its head": (lambda f: (f / "model.safetensors").write_bytes(b"\x08"), "cannot load a model from"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot load a model from"),
    "a dangling link": (dangling, "cannot load a model from"),
    "a shard is missing": (shard_missing, "cannot load a model from"),
    "a config that is no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot load a"),
    "a config that is a list": (lambda f: (f / "config.json").write_text("[]"), "cannot load a"),
    "an unknown kind": (settings(model_type="nonsense"), "cannot load a"),
    "no kind": (lambda f: (f / "config.json").write_text("{}"), "cannot load a"),
    "a tokenizer that is cut off": (cut("tokenizer.json"), "cannot load a tokenizer from"),
    "a tokenizer that is a list": (lambda f: (f / "tokenizer.json").write_text("[]"), "cannot load a tokenizer from"),
    "its code is not run": (
        settings(auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil"),
        "cannot load",
    ),
}


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(name: str, model: Path, tmp_path: Path) -> None:
    damage, message = DAMAGES[name]
    damage(model)
    for use in (
        lambda: TransformersEngine(device="cpu").generate(model, [Request(("Hello",), 0)], Sampling(2)),
        lambda: train(model, tmp_path),
    ):
        with pytest.raises(DataError, match=message) as caught:
            use()
        assert str(model) in str(caught.value)
        assert "; give " in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_whole_folder_is_loaded(model: Path) -> None:
    assert load_model(model, torch.float32).num_parameters() > 0


def test_a_tokenizer_with_tokens_beyond_the_embedding_is_named(model: Path, tmp_path: Path) -> None:
    """Only where such a token is written: the tokenizers of some models hold more tokens than are ever used."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(model)
    engine = TransformersEngine(device="cpu", dtype="float32")
    engine.generate(model, [Request(("Hello",), 0)], Sampling(2))
    size = len(tokenizer) - 1
    with pytest.raises(DataError, match=rf"writes token {size}, but the model's embedding has {size} rows; give the"):
        engine.generate(model, [Request(("a zebra",), 0)], Sampling(2))


@pytest.mark.parametrize("objective", ["dpo", "grpo"])
def test_no_training_takes_tokens_beyond_the_embedding(model: Path, tmp_path: Path, objective: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(model)
    rows = [Judged(str(i), f"a zebra {i}", "one", "f", "two", "v") for i in range(4)]
    config = TrainerConfig(device="cpu", dtype="float32")
    trainer: Trainer = PreferenceTrainer(config, DPOObjective())
    examples = preference_examples(rows)
    if objective == "grpo":
        trainer = VerdictRewardTrainer(config, GRPOObjective(), SkillsConfig(), lambda: ScriptedEngine(lambda *_: ""))
        examples = prompt_examples(rows)
    with pytest.raises(DataError, match=r"but the model's embedding has .* rows; give the tokenizer"):
        trainer.train(model, examples, tmp_path / "out", work=tmp_path / "work", seed=0, progress=Silent())


def test_a_quantised_model_is_not_trained(model: Path, tmp_path: Path) -> None:
    settings = json.loads((model / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (model / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"is quantised \(gptq\); give the model before quantisation"):
        train(model, tmp_path)
