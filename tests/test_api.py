"""The front door from Python: run, resume, look, measure, and the errors of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import selfevo
from runs import small_demo, student, tree
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.trainers.scripted import ScriptedTrainer


class Watched:
    """Progress that writes down what it is told."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        self.names.append(name)

    def advance(self, amount: int, detail: str = "") -> None:
        pass

    def finish(self, summary: str = "") -> None:
        pass


def run(config: Any, settings: RunConfig, **more: Any) -> selfevo.RunResult:
    parts: dict[str, Any] = {
        "engine": ScriptedEngine(student(settings)),
        "trainer": ScriptedTrainer(),
        "check": False,
        "progress": False,
    }
    return selfevo.run(config, **{**parts, **more})


@pytest.fixture
def settings(tmp_path: Path) -> RunConfig:
    return small_demo(tmp_path, tmp_path / "run")


def test_a_run_and_what_it_left(settings: RunConfig) -> None:
    done = run(settings, settings)
    assert list(done.models) == ["sft", "warm-up", "meta", "round-1", "round-2", "round-3"]
    assert done.best == settings.output / "models" / "round-3"
    assert done.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [model.name for model in done.results.models] == ["base", "sft", "meta", "round-1", "round-2", "round-3"]
    written = json.loads((settings.output / "results.json").read_text(encoding="utf-8"))
    assert json.loads(done.results.model_dump_json()) == written
    assert selfevo.load_results(settings.output) == done.results
    rows = list(done.rows("round-2"))
    lines = (settings.output / "stages/round-2/filter.jsonl").read_text(encoding="utf-8").splitlines()
    assert [row.id for row in rows] == [json.loads(line)["id"] for line in lines]
    assert {row.kept for row in rows} == {True, False}
    assert all((row.reason is None) == row.kept for row in rows)
    assert all(isinstance(row, selfevo.Judged) for row in rows)


@pytest.mark.parametrize("kind", ["path", "text", "dict", "object"])
def test_a_configuration_is_a_file_a_dict_or_an_object(kind: str, settings: RunConfig, tmp_path: Path) -> None:
    data = settings.model_dump(mode="json")
    path = tmp_path / "my-run.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    given = {"path": path, "text": str(path), "dict": data, "object": settings}[kind]
    done = run(given, settings, rounds=2)
    assert "round-3" not in done.models and "round-2" in done.models


def test_keywords_replace_keys_and_change_sections_key_by_key(settings: RunConfig) -> None:
    done = run(settings, settings, rounds=1, skills={"respond": {"max_new_tokens": 50}}, seed=0)
    written = json.loads((done.root / "config.json").read_text(encoding="utf-8"))
    assert written["rounds"] == 1
    assert written["skills"]["respond"] == {**settings.model_dump()["skills"]["respond"], "max_new_tokens": 50}
    assert written["skills"]["critique"] == settings.model_dump()["skills"]["critique"]


def test_a_section_of_an_object_is_changed_to_another_kind(
    settings: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defaults of its own kind, such as the device, are none of the other's keys."""
    given = parse_config(settings.model_dump(mode="json", exclude={"engine"}), "test")
    monkeypatch.setattr("selfevo.engines.vllm.VLLMEngine", lambda **_: ScriptedEngine(student(settings)))
    done = run(given, settings, engine={"kind": "vllm", "batch_size": 9}, rounds=1)
    written = json.loads((done.root / "config.json").read_text(encoding="utf-8"))
    assert (written["engine"]["kind"], written["engine"]["batch_size"]) == ("vllm", 9)


def test_the_same_call_goes_on_where_a_run_was_stopped(settings: RunConfig, tmp_path: Path) -> None:
    class Interrupted(ScriptedTrainer):
        def train(self, base: Path, *arguments: Any, **more: Any) -> dict[str, float]:
            if base.name == "round-1":
                raise KeyboardInterrupt
            return super().train(base, *arguments, **more)

    whole = tree(run(small_demo(tmp_path, tmp_path / "whole"), settings).root)
    with pytest.raises(KeyboardInterrupt):
        run(settings, settings, trainer=Interrupted())
    engine = ScriptedEngine(student(settings))
    done = run(settings, settings, engine=engine)
    assert tree(done.root) == whole
    asked = len(engine.calls)
    run(settings, settings, engine=engine)
    assert len(engine.calls) == asked, "nothing is done twice"


def test_progress_is_silent_or_yours(settings: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched()
    run(settings, settings, progress=watched)
    assert "round-1 respond" in watched.names and "train meta" in watched.names
    assert capsys.readouterr().out == ""


def test_a_failed_check_is_an_error_that_names_it(settings: RunConfig, tiny_model: Path) -> None:
    with pytest.raises(selfevo.ConfigError, match=r"checks failed: .*max_length.*check=False"):
        selfevo.run(settings, model=str(tiny_model), trainer={"max_length": 3}, progress=False)
    assert not (settings.output / "config.json").exists()


def test_a_mistake_names_the_key_and_the_place(settings: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(selfevo.ConfigError, match="unknown key 'round'; did you mean 'rounds'"):
        run(settings, settings, round=2)
    with pytest.raises(selfevo.ConfigError, match=r"nowhere\.yaml does not exist"):
        selfevo.run(tmp_path / "nowhere.yaml")
    with pytest.raises(selfevo.ConfigError, match="x does not exist"):
        selfevo.run("x" * 300)
    with pytest.raises(selfevo.ConfigError, match="run was given 3; give a YAML file"):
        selfevo.run(3)  # type: ignore[arg-type]
    with pytest.raises(selfevo.ConfigError, match="seed is -1; give 0 or more"):
        selfevo.Refiner(tmp_path, seed=-1)
    with pytest.raises(selfevo.RunError, match="is not a run directory"):
        selfevo.RunResult(str(tmp_path))  # type: ignore[arg-type]
    done = run(settings, settings, rounds=1)
    with pytest.raises(selfevo.RunError, match="no filtered rows of 'round-7'; it has those of round-1"):
        done.rows("round-7")


def test_a_model_is_measured(settings: RunConfig, tmp_path: Path) -> None:
    done = run(settings, settings)
    (done.best / "config.json").write_text("{}")  # of which the scripted trainer makes none
    engine = ScriptedEngine(lambda model, turns: "Verdict: qualified" if len(turns) > 1 else "no idea")
    found = selfevo.evaluate(done.best, "demo", count=10, output=tmp_path / "measured", progress=False, engine=engine)
    assert found.models[0].direct.n == 10 and found.models[0].direct.correct == 0
    calls = len(engine.calls)
    again = selfevo.evaluate(
        done.root, {"name": "demo"}, count=10, output=tmp_path / "other", progress=False, engine=engine
    )
    assert again.models[0].answers == found.models[0].answers and len(engine.calls) == 2 * calls
    with pytest.raises(selfevo.ConfigError, match="unknown task 'dmeo'; did you mean 'demo'"):
        selfevo.evaluate(done.best, "dmeo", engine=engine)
