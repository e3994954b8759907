"""lora.merge: false: an adapter is saved as PEFT does, and PEFT, the engine and the next training take it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import chat_templates as shapes
from selfevo.engines.transformers import TransformersEngine
from selfevo.errors import ConfigError, DataError
from selfevo.method.protocols import Request, Sampling
from selfevo.models.resolve import resolve_model
from selfevo.models.template_settings import write_base
from selfevo.rundir.adapter_folder import base_reference, is_adapter
from selfevo.rundir.atomic_files import hash_model
from trainings import EXAMPLES, Killing, train

KEPT: dict[str, Any] = {"r": 4, "merge": False}


def texts(folder: Path) -> list[str]:
    requests = [Request((prompt,), seed) for seed, prompt in enumerate(["Sort: 2 1", "Sort: 9 3 5", "Check."])]
    engine = TransformersEngine(dtype="float32", device="cpu")
    return [generation.text for generation in engine.generate(folder, requests, Sampling(12))]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(5, 40)[None]).logits
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 64}},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "norm"]},
        {"exclude_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    ],
)
def test_peft_and_the_engine_load_what_a_merged_training_gives(
    tiny_model: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    for name, merge in (("kept", False), ("merged", True)):
        train(tiny_model, tmp_path / name, EXAMPLES * 4, lora={**KEPT, **options, "merge": merge})
    kept, merged = tmp_path / "kept/out", tmp_path / "merged/out"
    assert is_adapter(kept)
    assert {path.name for path in kept.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not {"README.md", "config.json", "model.safetensors"} & {path.name for path in kept.iterdir()}
    expected = logits(AutoModelForCausalLM.from_pretrained(merged))
    before = logits(AutoModelForCausalLM.from_pretrained(tiny_model))
    assert float((expected - before).norm()) > 0.01 * float(before.norm())
    assert torch.allclose(logits(AutoPeftModelForCausalLM.from_pretrained(kept)), expected, atol=1e-3)
    assert texts(kept) == texts(merged)


def test_the_adapter_says_what_it_sits_on(tiny_model: Path, tmp_path: Path) -> None:
    train(tiny_model, tmp_path, lora=KEPT)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model.resolve())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert resolve_model(str(tmp_path / "out")) == (tmp_path / "out").resolve()


def test_a_base_from_the_hub_is_named_by_its_id_and_revision(tmp_path: Path) -> None:
    folder = tmp_path / "models--owner--a.name" / "snapshots" / "0123abc"
    assert base_reference(folder) == ("owner/a.name", "0123abc")
    assert base_reference(tmp_path / "models--one" / "snapshots" / "0123abc")[1] is None


def test_the_base_of_a_run_with_a_template_of_its_own_is_the_model_that_it_links_to(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The folder of that base is the run's: an adapter that named it would break when the run is moved or pushed."""
    base = write_base(tiny_model, tmp_path / "run/base", shapes.QWEN3, None)
    train(base, tmp_path, lora=KEPT)
    before, digest = texts(tmp_path / "out"), hash_model(tmp_path / "out")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "out").rename(tmp_path / "moved")
    assert texts(tmp_path / "moved") == before
    assert hash_model(tmp_path / "moved") == digest
    assert AutoTokenizer.from_pretrained(tmp_path / "moved").chat_template == shapes.QWEN3


def test_such_a_base_is_named_by_the_hub_id_too(tiny_model: Path, tmp_path: Path) -> None:
    folder, blobs = tmp_path / "models--owner--name/snapshots/0123abc", tmp_path / "models--owner--name/blobs"
    shutil.copytree(tiny_model, folder)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):  # as huggingface_hub keeps them
        path.rename(blobs / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    base = write_base(folder, tmp_path / "run/base", shapes.QWEN3, None)
    assert base_reference(base) == base_reference(folder) == ("owner/name", "0123abc")
    assert AutoModelForCausalLM.from_pretrained(base) is not None


def test_links_of_somebody_else_are_followed_only_to_a_whole_model(tiny_model: Path, tmp_path: Path) -> None:
    mixed, lost = tmp_path / "mixed", tmp_path / "lost"
    for folder in (mixed, lost):
        folder.mkdir()
        for path in tiny_model.iterdir():
            (folder / path.name).symlink_to(path)
    (mixed / "config.json").unlink()
    shutil.copy(tiny_model / "config.json", mixed)
    assert base_reference(mixed) == (str(mixed.resolve()), None)
    (lost / "config.json").unlink()
    (lost / "config.json").symlink_to(tmp_path / "nowhere/config.json")
    assert base_reference(lost) == (str(lost.resolve()), None)


def test_the_id_changes_with_the_base_and_not_with_its_place(tiny_model: Path, tmp_path: Path) -> None:
    base, elsewhere = tmp_path / "base", tmp_path / "elsewhere"
    for folder in (base, elsewhere):
        shutil.copytree(tiny_model, folder)
    ids = []
    for folder in (base, elsewhere):
        train(folder, tmp_path / f"from-{folder.name}", lora=KEPT)
        ids.append(hash_model(tmp_path / f"from-{folder.name}/out"))
    assert ids[0] == ids[1]
    (base / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert hash_model(tmp_path / "from-base/out") != ids[0]
    shutil.rmtree(base)
    with pytest.raises(DataError, match=r"is an adapter on .*base, which is not there; put that model back, or merge"):
        hash_model(tmp_path / "from-base/out")


def test_a_training_goes_on_with_the_same_adapter(tiny_model: Path, tmp_path: Path) -> None:
    """From the base two epochs are one training; from the adapter the second is another, on the same base."""
    train(tiny_model, tmp_path / "1", lora=KEPT)
    train(tmp_path / "1/out", tmp_path / "2", lora=KEPT)
    first, second = tmp_path / "1/out", tmp_path / "2/out"
    config = json.loads((second / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model.resolve())
    assert config["r"] == 4
    at, then, base = (
        logits(AutoPeftModelForCausalLM.from_pretrained(folder)) if is_adapter(folder) else
        logits(AutoModelForCausalLM.from_pretrained(folder)) for folder in (first, second, tiny_model)
    )  # fmt: skip
    assert float((then - at).norm()) > 0.01 * float(at.norm())
    assert float((at - base).norm()) > 0.01 * float(at.norm())


def test_other_settings_do_not_go_on_with_it(tiny_model: Path, tmp_path: Path) -> None:
    train(tiny_model, tmp_path / "1", lora=KEPT)
    with pytest.raises(ConfigError, match=r"is an adapter with r: 4, and trainer\.lora has 8; give the same, or set"):
        train(tmp_path / "1/out", tmp_path / "2", lora={**KEPT, "r": 8})


@pytest.mark.parametrize("lora", [None, {"r": 8}])
def test_without_merge_false_the_adapter_is_merged_first(
    tiny_model: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    train(tiny_model, tmp_path / "1", lora=KEPT)
    train(tmp_path / "1/out", tmp_path / "2", lora=lora, learning_rate=1e-9)
    assert (tmp_path / "2/out/config.json").is_file()
    assert texts(tmp_path / "2/out") == texts(tmp_path / "1/out")


def test_a_killed_training_of_a_kept_adapter_ends_with_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lora": KEPT, "per_device_train_batch_size": 1, "save_minutes": 1e-9}
    train(tiny_model, tmp_path / "whole", EXAMPLES * 2, **settings)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path / "killed", EXAMPLES * 2, progress=Killing(4), **settings)
    train(tiny_model, tmp_path / "killed", EXAMPLES * 2, **settings)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "killed/out" / name).read_bytes() == (tmp_path / "whole/out" / name).read_bytes()


@pytest.mark.parametrize("damage", ["another base", "a weight missing", "no base", "no config"])
def test_a_damaged_adapter_is_one_line(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    train(tiny_model, tmp_path, lora=KEPT)
    out = tmp_path / "out"
    config = json.loads((out / "adapter_config.json").read_text())
    if damage == "a weight missing":
        weights = load_file(out / "adapter_model.safetensors")
        weights.pop(min(weights))
        save_file(weights, out / "adapter_model.safetensors")
    elif damage == "no base":
        (out / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    elif damage == "no config":
        (out / "adapter_config.json").write_text("{")
    else:
        (tmp_path / "base").mkdir()
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        model.config.num_hidden_layers = 1
        type(model)(model.config).save_pretrained(tmp_path / "base")
        config["base_model_name_or_path"] = str(tmp_path / "base")
        (out / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError) as raised:
        texts(out)
    assert "\n" not in str(raised.value)
