"""The model card: hub metadata that loads, lineage back to the base by hash, figures that are those of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from runs import small_demo, student
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.pipeline.run import run_loop
from selfevo.report.model_card import lineage
from selfevo.report.progress import Silent
from selfevo.rundir.files import hash_model, read_marker, read_rows
from selfevo.rundir.inspect import collect, costs, verify
from selfevo.trainers.scripted import ScriptedTrainer


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("card")
    config = small_demo(folder, folder / "run")
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    return config


def card(config: RunConfig, name: str) -> tuple[dict[str, object], str]:
    text = (config.output / "models" / name / "README.md").read_text()
    _, metadata, rest = text.split("---\n", 2)
    return yaml.safe_load(metadata), rest


def test_every_model_has_a_card_that_the_hub_can_read(config: RunConfig) -> None:
    for folder in (config.output / "models").iterdir():
        metadata, _ = card(config, folder.name)
        assert metadata["library_name"] == "transformers"
        assert "arxiv:2310.00533" in metadata["tags"]  # type: ignore[operator]
        assert "base_model" not in metadata, "the base is a folder of this machine, which nobody else has"
    assert str(Path.home()) not in card(config, "round-3")[1]


def test_the_lineage_goes_back_to_the_base_by_hash(config: RunConfig) -> None:
    rows = lineage(config.output, "round-2")
    assert [row[:2] for row in rows] == [("round-2", "round-1"), ("round-1", "meta"), ("meta", "base"), ("base", "")]
    assert rows[0][2] == hash_model(config.output / "models/round-2")
    assert rows[-1][2] == hash_model(Path(config.model))
    _, text = card(config, "round-2")
    assert all(sha in text for _, _, sha in rows)


def test_the_figures_are_those_of_the_run(config: RunConfig) -> None:
    _, text = card(config, "round-3")
    results = json.loads((config.output / "results.json").read_text())
    rate = results["stages"][-1]["direct"]
    assert f"{100 * rate['accuracy']:.1f}" in text
    assert f"n = {rate['n']}" in text
    marker = read_marker(config.output / "models/round-3/selfevo.json")
    assert f"- {marker['examples']['self']} examples: refined answers that the model itself kept" in text


def test_costs_are_in_the_manifest_and_add_up(config: RunConfig) -> None:
    found = json.loads((config.output / "manifest.json").read_text())["costs"]
    assert found == costs(config.output)
    total = found.pop("total")
    for name in total:
        assert total[name] == pytest.approx(sum(cost[name] for cost in found.values()), abs=1e-3)
    events = list(read_rows(config.output / "events.jsonl"))
    assert total["new_tokens"] == sum(event.get("new_tokens", 0) for event in events) > 0
    assert total["seconds"] == pytest.approx(sum(event["seconds"] for event in events), abs=1e-2)


def test_a_card_is_no_part_of_its_model(config: RunConfig) -> None:
    path = config.output / "models/round-1/README.md"
    path.write_text(path.read_text() + "\nA word of my own.\n")
    assert verify(config.output)[1] == []
    assert collect(config.output) > 0
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    assert (config.output / "models/round-3/README.md").is_file()
    assert not (config.output / "models/meta/README.md").exists(), "an emptied folder stays empty"
