"""Settings of the chat template are part of the template, so that every reader of a model has them."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import chat_templates as shapes
from chat_templates import model_with_template, with_template
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.errors import ConfigError, DataError, RunError
from selfevo.models.chat_template import Chat, messages
from selfevo.models.device import load_tokenizer
from selfevo.models.template_settings import base_of, run_template, saved_template, start_day, write_base
from selfevo.pipeline.build import thinking_of
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent

DAY = date(2026, 3, 9)
ROW = {"prompt": "Sort: 9 8", "response": "9 8", "feedback": "No.\nVerdict: not qualified", "refinement": "8 9"}


def configuration(model: Path, folder: Path, **more: Any) -> RunConfig:
    (folder / "d_meta.jsonl").write_text(json.dumps(ROW) + "\n")
    (folder / "pool.jsonl").write_text("".join(json.dumps({"prompt": f"Sort: {i} 1"}) + "\n" for i in range(4)))
    data: dict[str, Any] = {
        "model": str(model),
        "output": str(folder / "run"),
        "prompts": {"path": str(folder / "pool.jsonl")},
        "corpus": {"path": str(folder / "d_meta.jsonl")},
        "rounds": 1,
        "filter": "none",
        "skills": {name: {"max_new_tokens": 8} for name in ("respond", "critique", "refine", "judge")},
        "trainer": {"device": "cpu", "dtype": "float32", "num_train_epochs": 1},
        "engine": {"device": "cpu", "dtype": "float32"},
    }
    return parse_config({**data, **more}, "test")


def base(tiny_model: Path, folder: Path, template: str) -> Path:
    return model_with_template(tiny_model, folder / "base", template)


def prepared(tiny_model: Path, folder: Path, template: str, **settings: Any) -> Any:
    """The tokenizer of a base with this template under these settings."""
    model = base(tiny_model, folder, template)
    config = configuration(model, folder, **settings)
    found = run_template(model, config, DAY)
    assert found is not None
    return load_tokenizer(write_base(model, folder / "prepared", found, config.eos_token))


def asked(tokenizer: Any, *turns: str) -> str:
    return str(tokenizer.apply_chat_template(messages(turns), tokenize=False, add_generation_prompt=True))


def test_a_model_without_settings_is_used_as_it_stands(tiny_model: Path, tmp_path: Path) -> None:
    config = configuration(tiny_model, tmp_path)
    assert run_template(tiny_model, config, DAY) is None
    assert base_of(config) == tiny_model.resolve()


def test_variables_hold_wherever_the_template_is_used(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = prepared(tiny_model, tmp_path, shapes.QWEN3, chat_template_kwargs={"enable_thinking": False})
    assert asked(tokenizer, "p").endswith("assistant\n<think>\n\n</think>\n\n")
    assert Chat(tokenizer).between == ""
    again = tmp_path / "saved"
    tokenizer.save_pretrained(again)
    assert asked(AutoTokenizer.from_pretrained(again), "p") == asked(tokenizer, "p")


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-99, 99) | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab{%}\"'", max_size=4), inner, max_size=3),
        max_leaves=6,
    )
)
def test_every_value_of_yaml_is_written_as_it_is(tiny_model: Path, value: Any) -> None:
    from selfevo.models import template_settings

    made = with_template(AutoTokenizer.from_pretrained(tiny_model), "")
    line = f"{{% set own = {template_settings._literal(value)} %}}"
    made.chat_template = line + "{{ own | tojson }}{{ messages[0].content }}"
    assert json.loads(asked(made, "")) == value


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (shapes.LLAMA32, "Today Date: 09 Mar 2026<"),
        (shapes.SMOLLM3, "Date: 09 March 2026\n"),
        (shapes.GPT_OSS, "Date: 2026-03-09\n"),
        ("Today: {{ date_string }}\n" + shapes.CHATML, "Today: 09 Mar 2026\n"),
        ("{{ strftime_now('%A, %-d.%-m.%y %H:%M') }}\n" + shapes.CHATML, "Monday, 9.3.26 00:00\n"),
    ],
)
def test_a_template_that_asks_for_today_gets_the_day_of_the_run(
    tiny_model: Path, tmp_path: Path, template: str, shown: str
) -> None:
    assert shown in asked(prepared(tiny_model, tmp_path, template), "p")


def test_a_date_that_the_template_knows_itself_stays(tiny_model: Path, tmp_path: Path) -> None:
    template = "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}"
    model = base(tiny_model, tmp_path, template + shapes.CHATML)
    assert run_template(model, configuration(model, tmp_path), DAY) is None


def test_another_template_is_a_file_or_the_text(tiny_model: Path, tmp_path: Path) -> None:
    own = "\nBe kind.\n" + shapes.CHATML
    (tmp_path / "own.jinja").write_text(own)
    for given_as in (own, str(tmp_path / "own.jinja")):
        config = configuration(tiny_model, tmp_path, chat_template=given_as)
        tokenizer = load_tokenizer(base_of(config))
        assert asked(tokenizer, "p") == f"\nBe kind.\n{asked(AutoTokenizer.from_pretrained(tiny_model), 'p')}"


def test_settings_of_a_later_run_come_after_those_of_an_earlier_one(tiny_model: Path, tmp_path: Path) -> None:
    first = prepared(tiny_model, tmp_path, shapes.SMOLLM3, chat_template_kwargs={"enable_thinking": False})
    assert "/no_think" in asked(first, "p")
    config = configuration(tmp_path / "prepared", tmp_path, chat_template_kwargs={"enable_thinking": True})
    template = run_template(tmp_path / "prepared", config, date(2027, 1, 2))
    assert template is not None
    later = load_tokenizer(write_base(tmp_path / "prepared", tmp_path / "later", template, None))
    assert "/no_think" not in asked(later, "p")
    assert "Date: 02 January 2027" in asked(later, "p")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"chat_template": "nowhere.jinja"}, "chat_template: nowhere.jinja cannot be read .No such file"),
        ({"chat_template": "{% for m in messages %}"}, "refuses a conversation with 2"),
        ({"chat_template": "{{ 1 }}"}, "drops or reorders turns"),
        (
            {"chat_template_kwargs": {"enable_thinkin": False}},
            "does not use 'enable_thinkin'; it reads enable_thinking$",
        ),
        ({"eos_token": "<end>"}, "eos_token: .* has no token '<end>'; it has '<|im_start|>', "),
    ],
)
def test_a_setting_that_does_not_fit_is_one_line(
    tiny_model: Path, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    model = base(tiny_model, tmp_path, shapes.QWEN3)
    for use in (base_of, lambda config: run_loop(config, Silent())):
        with pytest.raises((ConfigError, DataError), match=reason.replace("|", "[|]")) as error:
            use(configuration(model, tmp_path, **settings))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run/config.json").exists(), "a mistake does not claim the run directory"


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "two words", "1st"])
def test_a_name_that_no_variable_can_have_is_refused(tiny_model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="chat_template_kwargs"):
        configuration(tiny_model, tmp_path, chat_template_kwargs={name: 1})


def test_a_saved_template_is_found_wherever_libraries_keep_it(tmp_path: Path) -> None:
    assert saved_template(tmp_path) == ""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    assert saved_template(tmp_path) == "old"
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert saved_template(tmp_path) == "plain"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert saved_template(tmp_path) == "new"


def test_a_run_has_its_settings_in_every_model_and_its_day_for_good(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = base(tiny_model, tmp_path, shapes.SMOLLM3)
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    config = configuration(model, tmp_path, chat_template_kwargs={"enable_thinking": False}, thinking="keep")
    run_loop(config, Silent())
    today = date.today()
    assert json.loads((config.output / "manifest.json").read_text())["date"] == today.isoformat()
    for folder in (config.output / "base", *(config.output / "models" / name for name in ("meta", "round-1"))):
        tokenizer = load_tokenizer(folder)
        assert f"Date: {today:%d %B %Y}\nReasoning Mode: /no_think" in asked(tokenizer, "p")
        AutoModelForCausalLM.from_pretrained(folder)
    assert thinking_of(config.output / "base") == thinking_of(config.output / "models/meta") == "keep"
    assert (config.output / "base/model.safetensors").resolve() == (model / "model.safetensors").resolve()
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before

    # A resume on a later day: nothing is computed again, and what is computed has the first day.
    path = config.output / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "date": "2026-01-02"}))
    assert start_day(config.output) == date(2026, 1, 2)
    monkeypatch.setattr("selfevo.models.template_settings.date", Later)
    path.write_text(json.dumps({**json.loads(path.read_text()), "date": today.isoformat()}))
    shutil.rmtree(config.output / "base")
    events = (config.output / "events.jsonl").read_text().count('"generate"')
    run_loop(config, Silent())
    assert (config.output / "events.jsonl").read_text().count('"generate"') == events
    assert f"Date: {today:%d %B %Y}" in asked(load_tokenizer(config.output / "base"), "p")


class Later(date):
    @classmethod
    def today(cls) -> Later:
        return cls(2031, 5, 6)


def test_a_changed_template_file_is_another_run(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(shapes.CHATML)
    config = configuration(tiny_model, tmp_path, chat_template=str(tmp_path / "own.jinja"))
    run_loop(config, Silent())
    run_loop(config, Silent())
    (tmp_path / "own.jinja").write_text("{# #}" + shapes.CHATML)
    with pytest.raises(RunError, match=r"another chat_template: .*own\.jinja was changed since"):
        run_loop(config, Silent())


def test_an_eos_token_ends_the_turns_of_a_template_without_an_end(tiny_model: Path, tmp_path: Path) -> None:
    model = base(tiny_model, tmp_path, shapes.ENDLESS["### End"])
    with pytest.raises(DataError, match=r"ends an assistant turn with '\\n### End\\n'.*set eos_token"):
        run_loop(configuration(model, tmp_path, output=str(tmp_path / "other")), Silent())
    config = configuration(model, tmp_path, eos_token="</s>")
    run_loop(config, Silent())
    saved = config.output / "models/round-1"
    tokenizer = load_tokenizer(saved)
    assert (tokenizer.eos_token, Chat(tokenizer).stop_id) == ("</s>", tokenizer.convert_tokens_to_ids("</s>"))
    eos = json.loads((saved / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_id in eos
