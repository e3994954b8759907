"""An adapter and its base become one model that answers as both did together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import selfevo
from commands import Selfevo, one_line
from selfevo.errors import ConfigError, DataError, RunError, SelfevoError, TrainingError
from selfevo.models.loading import load_model
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import hash_file, hash_model
from selfevo.sharing import merge as merging
from selfevo.sharing.merge import merge_adapter


def make_adapter(base: Path, folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
    """An adapter with random weights, as PEFT saves it, and a tokenizer."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    wanted = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **settings}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **wanted))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    return make_adapter(tiny_model, tmp_path / "adapter")


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=torch.tensor([ids])).logits.float()
    return found


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_the_merged_model_has_the_logits_of_adapter_and_base(
    tiny_model: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", **settings)
    found = merge_adapter(str(adapter), tmp_path / "merged", Silent())
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    plain = logits(base, [5, 9, 11, 40])
    together = logits(PeftModel.from_pretrained(base, adapter), [5, 9, 11, 40])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged, [5, 9, 11, 40]), together, atol=1e-3)
    assert not torch.allclose(plain, together, atol=1e-2), "the adapter of this test must change something"
    assert max(found.merging, found.saving) < 1e-4
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert not any(name.startswith("adapter") for name in names)
    template = AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_it_is_saved_in_the_precision_of_the_base(tiny_model: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(half)
    found = merge_adapter(str(make_adapter(half, tmp_path / "adapter", torch.bfloat16)), tmp_path / "merged", Silent())
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == "bfloat16"
    assert 0 < found.saving < 0.08


def test_the_card_and_the_end_tokens_go_with_it(adapter: Path, tmp_path: Path) -> None:
    (adapter / "README.md").write_text(
        "---\nlibrary_name: peft\ntags: [selfevo, lora]\n---\n# My adapter\n\nIts words.\n"
    )
    (adapter / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    merge_adapter(str(adapter), tmp_path / "merged", Silent())
    card = (tmp_path / "merged/README.md").read_text()
    assert "library_name: transformers" in card
    assert "peft" not in card.partition("# My adapter")[0]
    assert "# My adapter\n\nMerged by `selfevo merge` from the adapter adapter" in card
    assert "Its words." in card
    assert str(tmp_path) not in card
    assert json.loads((tmp_path / "merged/generation_config.json").read_text())["eos_token_id"] == [2, 7]


def test_what_is_there_is_not_overwritten(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    with pytest.raises(ConfigError, match="merged exists; give the name of a new folder"):
        merge_adapter(str(adapter), tmp_path / "merged", Silent())


def test_another_base_is_refused(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    marker = {"weights": hash_model(adapter), "files": {path.name: hash_file(path) for path in adapter.iterdir()}}
    (adapter / "selfevo.json").write_text(json.dumps(marker))
    merge_adapter(str(adapter), tmp_path / "merged", Silent())
    (other / "generation_config.json").write_text('{"temperature": 0.5}')
    with pytest.raises(RunError, match=r"is not the model that .* was trained on"):
        merge_adapter(str(adapter), tmp_path / "again", Silent(), base=str(other))
    assert not (tmp_path / "again").exists()


def test_a_base_that_lies_elsewhere_now_can_be_given(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "moved"
    shutil.copytree(tiny_model, base)
    config = json.loads((adapter / "adapter_config.json").read_text())
    gone = {**config, "base_model_name_or_path": str(tmp_path / "gone")}
    (adapter / "adapter_config.json").write_text(json.dumps(gone))
    marker = {"weights": hash_model(adapter, base), "files": {path.name: hash_file(path) for path in adapter.iterdir()}}
    (adapter / "selfevo.json").write_text(json.dumps(marker))
    with pytest.raises(SelfevoError, match=r"gone, which is not there; .*merge .*adapter NEW --base FOLDER$"):
        merge_adapter(str(adapter), tmp_path / "merged", Silent())
    assert merge_adapter(str(adapter), tmp_path / "merged", Silent(), base=str(base)).base == base.resolve()


def test_logits_that_change_leave_nothing_behind(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "TOLERANCE", -1.0)
    with pytest.raises(TrainingError, match=r"merging changes logits by .* load the adapter with PEFT instead"):
        merge_adapter(str(adapter), tmp_path / "merged", Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
    monkeypatch.setattr(merging, "TOLERANCE", 1e-4)

    def altered(path: Path, dtype: torch.dtype) -> Any:
        model = load_model(path, dtype)
        if path.name.endswith(".tmp"):
            model.get_output_embeddings().weight.data += 0.01 * torch.randn_like(model.get_output_embeddings().weight)
        return model

    monkeypatch.setattr(merging, "load_model", altered)
    with pytest.raises(TrainingError, match=r"gives other logits when it is loaded again, by .* with PEFT instead"):
        merge_adapter(str(adapter), tmp_path / "merged", Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
    monkeypatch.setattr(merging, "load_model", lambda path, dtype: (_ for _ in ()).throw(DataError("damaged")))
    with pytest.raises(DataError, match="damaged"):
        merge_adapter(str(adapter), tmp_path / "merged", Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "has no base_model_name_or_path"),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"base_model_name_or_path": null}'),
            "has no base_model_name_or_path",
        ),
        (lambda folder: (folder / "adapter_config.json").unlink(), "is no adapter; give a folder with"),
        (lambda folder: (folder / "generation_config.json").write_text("{"), "generation_config.json cannot be read"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "cannot load the adapter"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\x00" * 50), "cannot load the adapter"),
    ],
)
def test_a_damaged_adapter_is_one_line(adapter: Path, tmp_path: Path, damage: Any, said: str) -> None:
    damage(adapter)
    with pytest.raises(SelfevoError, match=said) as caught:
        merge_adapter(str(adapter), tmp_path / "merged", Silent())
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_an_adapter_of_a_deeper_model_is_refused(adapter: Path, tmp_path: Path) -> None:
    """PEFT passes over the layers that the base has not."""
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    save_file(
        {**weights, **{name.replace("layers.1", "layers.7"): weight.clone() for name, weight in weights.items()}}, path
    )
    with pytest.raises(DataError, match=r"has other layers than .*layers\.7"):
        merge_adapter(str(adapter), tmp_path / "merged", Silent())


def test_weights_that_are_no_numbers_are_refused(adapter: Path, tmp_path: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({name: torch.full_like(weight, torch.nan) for name, weight in load_file(path).items()}, path)
    with pytest.raises(TrainingError, match="merging changes logits by nan%"):
        merge_adapter(str(adapter), tmp_path / "merged", Silent())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["adapter"]


def test_an_adapter_that_is_no_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(ConfigError, match=r"of the kind .*PROMPT_TUNING, which no weights can hold; load it with PEFT"):
        merge_adapter(str(tmp_path / "adapter"), tmp_path / "merged", Silent())


def test_a_base_that_ties_its_embeddings_stays_tied(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "tied"
    model = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=True)
    model.tie_weights()
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(base)
    found = merge_adapter(str(make_adapter(base, tmp_path / "adapter")), tmp_path / "merged", Silent())
    assert found.saving < 1e-4
    assert json.loads((tmp_path / "merged/config.json").read_text())["tie_word_embeddings"] is True


def test_the_command(selfevo: Selfevo, adapter: Path, tiny_model: Path) -> None:
    code, out, _ = selfevo("merge", adapter, "merged")
    assert code == 0
    assert "wrote merged" in out
    assert "logits differ by" in out
    assert AutoModelForCausalLM.from_pretrained("merged") is not None
    code, _, err = selfevo("merge", tiny_model, "again")
    assert (code, "is a whole model, so there is nothing to merge" in one_line(err)) == (2, True)


def test_python_has_it_too(adapter: Path, tmp_path: Path) -> None:
    assert selfevo.merge(adapter, tmp_path / "merged", progress=False) == tmp_path / "merged"
