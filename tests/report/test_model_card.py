"""The model card: hub metadata that loads, lineage back to the base by hash, figures that are those of the run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml

from runs import small_demo, student
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.pipeline.run import run_loop
from selfevo.report.model_card import line, lineage, literal, write_card
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import hash_model, read_marker, read_rows
from selfevo.rundir.inspect import collect, costs, verify
from selfevo.rundir.results import load_results
from selfevo.trainers.scripted import ScriptedTrainer


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("card")
    config = small_demo(folder, folder / "run")
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    return config


def card(config: RunConfig, name: str) -> ModelCard:
    loaded = ModelCard.load(config.output / "models" / name / "README.md")
    assert isinstance(loaded, ModelCard)
    return loaded


def metadata(config: RunConfig, name: str) -> ModelCardData:
    data = card(config, name).data
    assert isinstance(data, ModelCardData)
    return data


def test_every_model_has_a_card_that_the_hub_can_read(config: RunConfig) -> None:
    for folder in (config.output / "models").iterdir():
        data = metadata(config, folder.name)
        assert data.library_name == "transformers"
        assert "arxiv:2310.00533" in (data.tags or [])
        assert data.base_model is None, "the base is a folder of this machine, which nobody else has"
    assert str(Path.home()) not in card(config, "round-3").content
    assert str(config.output.parent) not in card(config, "round-3").content


def test_the_hub_finds_the_accuracies_of_the_models_that_were_measured(config: RunConfig) -> None:
    measured = load_results(config.output)
    for model in measured.models[1:]:
        data = metadata(config, model.name)
        assert data.model_name == f"base, {model.name}"
        found = {each.metric_name: each for each in data.eval_results or []}
        assert found.keys() == {"accuracy, first answer", "accuracy, after self-refinement"}
        for name, rate in (("first answer", model.direct), ("after self-refinement", model.refined)):
            each = found[f"accuracy, {name}"]
            assert (each.metric_type, each.dataset_type) == ("accuracy", "demo")
            assert each.metric_value == pytest.approx(rate.accuracy, abs=1e-4)
    assert metadata(config, "warm-up").eval_results is None, "nobody measured it"


def test_the_lineage_goes_back_to_the_base_by_hash(config: RunConfig) -> None:
    rows = lineage(config.output, "round-2")
    assert [row[:2] for row in rows] == [("round-2", "round-1"), ("round-1", "meta"), ("meta", "base"), ("base", "")]
    assert rows[0][2] == hash_model(config.output / "models/round-2")
    assert rows[-1][2] == hash_model(Path(config.model))
    text = card(config, "round-2").text
    assert all(sha in text for _, _, sha in rows)


def test_the_figures_are_those_of_the_run(config: RunConfig) -> None:
    text = card(config, "round-3").text
    rate = load_results(config.output).models[-1].direct
    assert rate.accuracy is not None
    assert f"{100 * rate.accuracy:.1f}" in text
    assert f"n = {rate.n}" in text
    marker = read_marker(config.output / "models/round-3/selfevo.json")
    assert f"- {marker['examples']['self']} examples: refined answers that the model itself kept" in text


def test_a_card_needs_no_glossary(config: RunConfig) -> None:
    for folder in (config.output / "models").iterdir():
        text = card(config, folder.name).text
        assert not re.search(r"r\^|D.?_meta|\b[rfvp]\b|beta", text.replace("\\", "")), "symbols are explained by words"
    assert "(of the answers that it calls qualified, the share that are right)" in card(config, "round-3").text


def test_costs_are_in_the_manifest_and_add_up(config: RunConfig) -> None:
    found = json.loads((config.output / "manifest.json").read_text())["costs"]
    assert found == costs(config.output)
    total = found.pop("total")
    for name in total:
        assert total[name] == pytest.approx(sum(cost[name] for cost in found.values()), abs=1e-3)
    events = list(read_rows(config.output / "events.jsonl"))
    assert total["new_tokens"] == sum(event.get("new_tokens", 0) for event in events) > 0
    assert total["seconds"] == pytest.approx(sum(event["seconds"] for event in events), abs=1e-2)


def test_the_card_of_an_adapter_says_that_it_is_one(config: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(config.output, run)
    assert "A plain transformers folder" in (run / "models/round-2/README.md").read_text()
    (run / "models/round-2/config.json").unlink()
    (run / "models/round-2/adapter_config.json").write_text("{}")
    write_card(run, "round-2")
    loaded = ModelCard.load(run / "models/round-2/README.md")
    assert loaded.data.library_name == "peft"
    assert "An adapter, as PEFT saves it" in loaded.text
    assert "A plain transformers folder" not in loaded.text


def test_a_card_is_no_part_of_its_model(config: RunConfig) -> None:
    path = config.output / "models/round-1/README.md"
    path.write_text(path.read_text() + "\nA word of my own.\n")
    assert verify(config.output)[1] == []
    assert collect(config.output) > 0
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    assert (config.output / "models/round-3/README.md").is_file()
    assert not (config.output / "models/meta/README.md").exists(), "an emptied folder stays empty"


@given(st.text(st.characters() | st.sampled_from("\\`*_{}[]()<>|#~&!$:@.-+=\n ")))
@example("![a](b)<i>&lt;`x`\\")
@example("1. a")
def test_any_text_is_one_line_of_markdown_that_shows_it(text: str) -> None:
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    assert markdown.render(f"# x {literal(text)}") == f"<h1>{escapeHtml(f'x {line(text)}'.strip())}</h1>\n"


@pytest.mark.parametrize("name", ["http://a.b", "www.a.b", "me@a.b", "@me", "#1"])
def test_no_name_becomes_a_link(name: str) -> None:
    """Where the hub or a forge shows a card, addresses, people and issues become links without any mark."""
    assert literal(name).count("\\") == 1


@pytest.mark.parametrize(
    "name", ["x\n---\nlicense: mit", "a\n\n# b", "---", "{a: b}", "\x1b[2J", "a\u2028b", "<b>|", "'", ""]
)
def test_the_name_of_a_task_is_a_name_in_the_metadata(config: RunConfig, tmp_path: Path, name: str) -> None:
    root = tmp_path / "run"
    shutil.copytree(config.output, root)
    stored = json.loads((root / "results.json").read_text())
    (root / "results.json").write_text(json.dumps({**stored, "task": name}))
    last = load_results(root).models[-1].name
    write_card(root, last)
    card = ModelCard.load(root / "models" / last / "README.md")
    assert isinstance(card.data, ModelCardData)
    assert card.data.license is None
    assert {each.dataset_type for each in card.data.eval_results or []} == {line(name)}
    assert not any(character < " " and character != "\n" for character in card.content)
    assert card.text.count("\n# ") == 1
