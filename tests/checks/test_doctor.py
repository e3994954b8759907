"""The checks before a run: they pass on a sound model, and each one fails on what it is there for."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import chat_templates as shapes
from chat_templates import model_with_template
from selfevo.checks import doctor, generation, tokens
from selfevo.checks.check import Check
from selfevo.checks.doctor import checks_of, examine
from selfevo.checks.preview import preview
from selfevo.cli import app as cli
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.engines.transformers import TransformersEngine
from selfevo.errors import ConfigError, DataError
from selfevo.inputs.splits import draw_splits
from selfevo.method.records import Refined
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer

ROW = Refined("1", "Sort: 3 2", "3 2", "Wrong order.\nVerdict: not qualified", "2 3")


def configuration(model: Path, folder: Path, **more: Any) -> RunConfig:
    row = {"prompt": "Sort: 9 8", "response": "9 8", "feedback": ROW.feedback, "refinement": "8 9"}
    (folder / "d_meta.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "pool.jsonl").write_text("".join(json.dumps({"prompt": f"Sort: {i} 1"}) + "\n" for i in range(6)))
    data: dict[str, Any] = {
        "model": str(model),
        "output": str(folder / "out"),
        "prompts": {"path": str(folder / "pool.jsonl")},
        "corpus": {"path": str(folder / "d_meta.jsonl")},
        "rounds": 2,
        "skills": {name: {"max_new_tokens": 64} for name in ("respond", "critique", "refine", "judge")},
        "trainer": {"device": "cpu", "dtype": "float32"},
        "engine": {"device": "cpu", "dtype": "float32"},
    }
    return parse_config({**data, **more}, "test")


def found(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks}


def finding(checks: list[Check], name: str) -> str:
    return next(f"{check.finding}; {check.remedy}" for check in checks if check.name == name)


def changed(model: Path, folder: Path, template: str) -> Path:
    """The model with another chat template."""
    copy = folder / "model"
    shutil.copytree(model, copy)
    (copy / "chat_template.jinja").write_text(template)
    return copy


def test_a_sound_model_passes_every_check_and_nothing_is_left_behind(tiny_model: Path, tmp_path: Path) -> None:
    config = configuration(tiny_model, tmp_path)
    before = sorted(tmp_path.iterdir())
    checks = examine(config)
    assert found(checks) == {
        "versions": "pass",
        "disk": "pass",
        "memory": "pass",
        "rows": "pass",
        "verdicts": "pass",
        "D_meta": "pass",
        "conversations": "pass",
        "chat template": "pass",
        "unknown tokens": "pass",
        "stop token trained": "pass",
        "max_length": "pass",
        "context": "pass",
        "stop token emitted": found(checks)["stop token emitted"],  # a random model may or may not
        "engine": "pass",
        "time": "pass",
    }
    assert "3 conversations" in finding(checks, "chat template")
    assert finding(checks, "engine").startswith("7 of 7 greedy answers")
    assert sorted(tmp_path.iterdir()) == before


def test_a_template_that_changes_earlier_turns_makes_more_sequences(tiny_model: Path, tmp_path: Path) -> None:
    """Like those that leave out earlier reasoning, this one marks the last turn alone."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ('!' if loop.last else '') + '\n' + m['content'] + "
        "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    checks = examine(configuration(changed(tiny_model, tmp_path, template), tmp_path))
    assert found(checks)["chat template"] == "pass"
    assert "a trajectory is 2 sequences" in finding(checks, "chat template")


def test_a_turn_that_is_not_trained_behind_its_prompt_fails(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Chat.sequences

    def shifted(self: Chat, turns: Any, weights: Any, system: str = "") -> list[tuple[list[int], list[float]]]:
        found = whole(self, turns, weights, system)
        return [([*ids[:-9], 5, *ids[-9:]], [*loss[:-9], 0.0, *loss[-9:]]) for ids, loss in found]

    monkeypatch.setattr(Chat, "sequences", shifted)
    checks = examine(configuration(tiny_model, tmp_path))
    assert found(checks)["chat template"] == "fail"
    assert "training and inference differ in front of turn" in finding(checks, "chat template")


def test_a_template_without_a_place_for_a_system_prompt_fails_before_a_run_asks_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Far behind in the pool, where nothing that is tried comes to it."""
    path = tmp_path / "more.jsonl"
    rows = [{"prompt": f"Sort: {i} 1"} for i in range(90)] + [{"prompt": "Sort: 1 0", "history": ["a", "b"]}]
    config, chat = configuration(tiny_model, tmp_path, prompts={"path": str(path)}), Chat(load_tokenizer(tiny_model))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    check = tokens.conversations(chat, draw_splits(config))
    assert check.finding == "of 92 prompts 0 have a system prompt and 1 have earlier turns"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "Sort: 1 0", "system": "s"}]))
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace(
        "{% for message in messages %}", "{% for message in messages if message['role'] != 'system' %}"
    )
    check = tokens.conversations(chat, draw_splits(config))
    assert check.status == "fail" and "a system prompt" in check.finding


def test_what_a_run_would_raise_is_raised(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        examine(configuration(tmp_path / "nowhere", tmp_path))
    copy = changed(tiny_model, tmp_path, "")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="has no chat template"):
        examine(configuration(copy, tmp_path))


def test_a_stop_token_without_a_weight_fails(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    chat = Chat(AutoTokenizer.from_pretrained(tiny_model))
    assert tokens.stop_token(chat, [ROW]).status == "pass"
    whole = Chat.sequences

    def careless(self: Chat, turns: Any, weights: Any, system: str) -> list[tuple[list[int], list[float]]]:
        return [
            (ids, [0.0 if token == self.stop_id else weight for token, weight in zip(ids, loss, strict=True)])
            for ids, loss in whole(self, turns, weights, system)
        ]

    monkeypatch.setattr(Chat, "sequences", careless)
    check = tokens.stop_token(chat, [ROW])
    assert check.status == "fail"
    assert "has no weight in the loss after 2 labelled turns" in check.finding


def test_rows_that_are_set_aside_and_verdicts_that_are_all_the_same_are_said(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "d_meta.jsonl"
    (tmp_path / "eval.jsonl").write_text('{"prompt": "Sort: 3 1", "answer": "1 3", "system": "Be brief."}\n')
    evaluation = {"task": {"name": "exact", "path": str(tmp_path / "eval.jsonl")}}
    config = configuration(
        tiny_model, tmp_path, corpus={"path": str(path), "max_bad_share": 0.4}, evaluation=evaluation
    )
    good = json.loads(path.read_text())
    bad = {**good, "prompt": "Sort: 3 2", "feedback": "Hm.\nVerdict: perhaps"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, {**good, "prompt": "Sort: 5 4"}, bad)))
    checks = examine(config)
    assert found(checks)["rows"] == found(checks)["verdicts"] == "warn"
    assert finding(checks, "rows").startswith(f"1 row was set aside, the first is line 3 of {path}: column 'feedback'")
    assert finding(checks, "evaluation").startswith("1 of 1 questions of the evaluation are in the pool or in D_meta")
    assert finding(checks, "verdicts").startswith("all of D_meta: 2 not qualified; add rows with the other verdict")


def test_characters_without_a_token_are_said(tiny_model: Path, tmp_path: Path) -> None:
    """A tokenizer of whole words, without an alphabet to fall back on."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "<|im_end|>": 1, "Sort": 2, ":": 3, "9": 4, "8": 5}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    names = {"unk_token": "[UNK]", "eos_token": "<|im_end|>"}
    chat = Chat(PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template, **names))
    row = replace(ROW, prompt="Sort: 9 8", response="9 8", feedback="9 ð 8", refinement="8 9")
    splits = draw_splits(configuration(tiny_model, tmp_path))
    check = tokens.unknown_tokens(chat, replace(splits, unlabelled=[]), [row])
    assert (check.status, check.finding) == ("warn", "1 of 4 texts have parts that the tokenizer writes as [UNK]: 'ð'")
    known = tokens.unknown_tokens(chat, replace(splits, unlabelled=[]), [replace(row, feedback="9")])
    assert (known.status, known.finding) == ("pass", "every character of 4 texts has a token")


def test_an_engine_that_writes_something_else_fails(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TransformersEngine.generate

    def sloppy(self: Any, model: Any, requests: Any, sampling: Any) -> Any:
        return [replace(g, text=g.text[::-1]) for g in whole(self, model, requests, sampling)]

    monkeypatch.setattr(TransformersEngine, "generate", sloppy)
    checks = examine(configuration(tiny_model, tmp_path))
    assert found(checks)["engine"] == "fail"
    assert finding(checks, "engine").startswith("0 of 7 greedy answers")


def test_sequences_that_are_too_long_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    checks = examine(configuration(tiny_model, tmp_path, trainer={"device": "cpu", "max_length": 10}))
    assert found(checks)["max_length"] == "fail"
    assert "2 of 2 sequences are longer than max_length=10" in finding(checks, "max_length")
    assert "trainer.max_length: " in finding(checks, "max_length")


def test_conversations_beyond_the_context_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    """The tiny model has 512 positions."""
    checks = examine(configuration(tiny_model, tmp_path, skills={"critique": {"max_new_tokens": 480}}))
    assert found(checks)["context"] == "fail"
    assert finding(checks, "context").startswith("1 of 1 trajectories plus max_new_tokens do not fit into 512 tokens")


def test_what_a_model_comes_with_for_generation_is_no_difference(tiny_model: Path, tmp_path: Path) -> None:
    """Such as the penalties of some chat models, and a second stop token."""
    copy = changed(tiny_model, tmp_path, (tiny_model / "chat_template.jinja").read_text())
    path = copy / "generation_config.json"
    settings = json.loads(path.read_text()) | {"repetition_penalty": 5.0, "eos_token_id": [0, 2]}
    path.write_text(json.dumps(settings))
    assert found(examine(configuration(copy, tmp_path)))["engine"] == "pass"


def test_a_full_disk_and_a_small_memory_fail(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    monkeypatch.setattr(doctor, "_free_memory", lambda: 1000)
    checks = examine(configuration(tiny_model, tmp_path))
    assert (found(checks)["disk"], found(checks)["memory"]) == ("fail", "fail")
    assert "free in" in finding(checks, "disk")
    assert "trainer.lora" in finding(checks, "memory")


def test_an_old_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch>=99", "nowhere; extra == 'x'"])
    check = doctor.versions()
    assert check.status == "fail"
    assert " is not >=99" in check.finding


@pytest.mark.parametrize("command", ["doctor", "run"])
def test_a_failed_check_is_exit_code_2_and_run_does_not_start(
    command: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configuration(tiny_model, tmp_path, trainer={"device": "cpu", "max_length": 10})
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    monkeypatch.setattr("sys.argv", ["selfevo", command, str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert "checks failed: max_length" in err
    assert "fail  max_length: 2 of 2 sequences" in out
    assert "pass  chat template" in out
    assert not (tmp_path / "out").exists()


def test_adapters_for_no_layer_are_found_before_a_run(tiny_model: Path, tmp_path: Path) -> None:
    trainer = {"device": "cpu", "dtype": "float32", "lora": {"target_modules": ["nope"]}}
    with pytest.raises(ConfigError, match=r"trainer\.lora\.target_modules: 'nope' means no layer"):
        examine(configuration(tiny_model, tmp_path, trainer=trainer))


def test_what_took_long_is_remembered_until_the_model_or_the_prompts_change(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfevo.checks.remembered.cache_directory", lambda: tmp_path / "cache")
    ran: list[int] = []
    whole = generation._generation

    def counted(*arguments: Any) -> list[Check]:
        ran.append(1)
        return whole(*arguments)

    monkeypatch.setattr(generation, "_generation", counted)
    copy = changed(tiny_model, tmp_path, (tiny_model / "chat_template.jinja").read_text())
    config = configuration(copy, tmp_path)
    first, second = examine(config), examine(config)
    assert found(first) == found(second)
    assert len(ran) == 1
    assert finding(second, "engine").startswith("7 of 7 greedy answers equal those of transformers, up to rounding (fo")
    (copy / "model.safetensors").touch()
    examine(config)
    assert len(ran) == 2
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps({"prompt": f"Sort: {i} 2"}) + "\n" for i in range(6)))
    examine(config)
    assert len(ran) == 3
    for path in (tmp_path / "cache/checks").iterdir():
        path.write_text("[{]")
    assert found(examine(config)) == found(first), "what cannot be read is found anew"


def test_a_failure_is_not_remembered(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfevo.checks.remembered.cache_directory", lambda: tmp_path / "cache")
    config = configuration(tiny_model, tmp_path)
    monkeypatch.setattr(generation, "agreement", lambda *arguments: 0)
    assert found(examine(config))["engine"] == "fail"
    monkeypatch.undo()
    assert found(examine(config))["engine"] == "pass"


def test_checks_come_one_by_one_with_their_time(tiny_model: Path, tmp_path: Path) -> None:
    checks = checks_of(configuration(tiny_model, tmp_path))
    assert next(checks).name == "versions"
    assert all(check.seconds >= 0 for check in checks)


def test_your_own_parts_are_made(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_checked.py").write_text("def keep(row, least=1):\n    return True\n")
    config = configuration(tiny_model, tmp_path, filter=[{"kind": "mine_checked:keep"}])
    with pytest.raises(ConfigError, match="mine_checked:keep does not take these options"):
        examine(config)


def test_doctor_as_json_and_quiet(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(**more: Any) -> tuple[Any, str, str]:
        config = configuration(tiny_model, tmp_path, **more)
        (tmp_path / "run.yaml").write_text(json.dumps(config.model_dump(mode="json")))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    monkeypatch.setattr("sys.argv", ["selfevo", "doctor", str(tmp_path / "run.yaml"), "--json"])
    code, out, err = call(trainer={"device": "cpu", "max_length": 10})
    assert code == 2
    assert err.startswith("selfevo: checks failed: max_length")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert checks["max_length"]["status"] == "fail"
    assert set(checks["engine"]) == {"name", "status", "finding", "remedy", "seconds"}
    monkeypatch.setattr("sys.argv", ["selfevo", "doctor", str(tmp_path / "run.yaml"), "--quiet"])
    code, out, _ = call()
    assert code == 0
    assert "pass" not in out


def shaped(model: Path, folder: Path, template: str) -> Path:
    return model_with_template(model, folder / "shaped", template)


@pytest.mark.parametrize(
    ("template", "status", "said"),
    [
        (
            shapes.QWEN3,
            "warn",
            r"the template itself writes '<think>\n\n</think>\n\n' between a prompt and its last answer",
        ),
        ("{% set enable_thinking = false %}" + shapes.QWEN3, "pass", "a trajectory is 2 sequences, because"),
        (shapes.GPT_OSS, "warn", "the template itself writes '<|channel|>final<|message|>' between"),
        (shapes.DEEPSEEK_R1, "warn", r"each prompt opens thinking with '<think>\n'; '</think>\n\n' stands between it"),
        (shapes.GEMMA3, "pass", "agree token by token on 3 conversations"),
    ],
)
def test_it_says_which_tokens_stand_between_a_prompt_and_its_answer(
    tiny_model: Path, tmp_path: Path, template: str, status: str, said: str
) -> None:
    chat = Chat(load_tokenizer(shaped(tiny_model, tmp_path, template)))
    check = tokens.template(chat, [ROW])
    assert (check.status, said in check.finding) == (status, True), check.finding
    wanted = "chat_template_kwargs: {enable_thinking: false}" if "enable_thinking" in template else ""
    assert wanted in check.remedy or status == "pass"


def test_thinking_in_channels_cannot_be_kept(tiny_model: Path, tmp_path: Path) -> None:
    chat = Chat(load_tokenizer(shaped(tiny_model, tmp_path, shapes.GPT_OSS)))
    check = tokens.template(chat, [ROW], thinking="keep")
    assert (check.status, check.remedy) == ("fail", "set thinking to drop or show instead of keep")
    assert tokens.template(chat, [ROW], thinking="show").status == "warn"


def test_the_dry_run_shows_each_sequence_of_a_trajectory(tiny_model: Path, tmp_path: Path) -> None:
    template = "{% set enable_thinking = false %}" + shapes.QWEN3
    config = configuration(shaped(tiny_model, tmp_path, template), tmp_path)
    console = Console(record=True, width=200)
    preview(config, console)
    shown = console.export_text()
    assert shown.count(" in the loss]") == 2 + 1, "two sequences of the trajectory, one of the answer"
    assert shown.count("<think>⏎") == 3 + 6, "each of them, and what the skills are asked, is behind an empty thought"
