"""A run on files of one's own: what is read, what is refused and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runs import results
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.config.task import TaskConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, DataError, TrainingError
from selfevo.method.prompts import REFINE
from selfevo.method.records import Turns
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from selfevo.tasks import load_task
from selfevo.trainers.scripted import ScriptedTrainer

YES, NO = "Fine.\nVerdict: qualified", "Off by one.\nVerdict: not qualified"


def files(tmp_path: Path, *, pool: list[str], annotated: list[str], **more: Any) -> RunConfig:
    base = tmp_path / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in pool))
    rows = [{"prompt": p, "response": "3", "feedback": NO, "refinement": "4"} for p in annotated]
    (tmp_path / "d_meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": str(base),
        "output": str(tmp_path / "run"),
        "prompts": {"path": str(tmp_path / "pool.jsonl")},
        "corpus": {"path": str(tmp_path / "d_meta.jsonl")},
        "rounds": 2,
    }
    return parse_config({**settings, **more}, "test")


def plain(model: Path, turns: Turns) -> str:
    if len(turns) == 3:
        return NO if turns[1] == "3" else YES
    return "4" if turns[-1] == REFINE else "3"


def run(config: RunConfig, engine: ScriptedEngine, trainer: ScriptedTrainer | None = None) -> ScriptedEngine:
    run_loop(config, Silent(), engine, trainer or ScriptedTrainer())
    return engine


def test_files_of_ones_own_run_without_a_task_and_without_evaluation(tmp_path: Path) -> None:
    config = files(tmp_path, pool=["1+1", "2+2", "3+3"], annotated=["5+5", "6+6"])
    trainer = ScriptedTrainer()
    run(config, ScriptedEngine(plain), trainer)
    assert sorted(p.name for p in (tmp_path / "run/models").iterdir()) == ["meta", "round-1", "round-2"]
    # restart: from the base on D_meta and everything kept so far.
    assert {path for path, _ in trainer.calls} == {Path(config.model)}
    learnt = [[(e.turns[0], e.term) for e in examples if e.term == "self"] for _, examples in trainer.calls]
    assert learnt == [[], [("1+1", "self")], [("1+1", "self"), ("2+2", "self"), ("3+3", "self")]]
    content = results(config)
    assert (content.task, content.models, content.groups, content.comparisons) == (None, (), {}, [])
    assert run(config, ScriptedEngine(plain)).calls == []


def test_rows_that_cannot_be_used_are_kept_with_their_reason(tmp_path: Path) -> None:
    config = files(tmp_path, pool=["1+1", "2+2", "1+1"], annotated=["5+5"])
    run(config, ScriptedEngine(plain))
    (row,) = read_rows(tmp_path / "run/data/quarantined.jsonl")
    assert (row["line"], row["reason"]) == (3, "duplicate of line 1")


@pytest.mark.parametrize("again", ["1+1", " 1+1 ", "1+1\n"])
def test_files_that_overlap_are_refused(tmp_path: Path, again: str) -> None:
    config = files(tmp_path, pool=["1+1", "2+2"], annotated=[again, "5+5"])
    engine = ScriptedEngine(plain)
    with pytest.raises(DataError, match=r"'pool' and 'annotated' share 1 prompt, for example '1\+1'; remove"):
        run(config, engine)
    assert engine.calls == []


def test_an_evaluation_prompt_in_the_pool_is_refused(tmp_path: Path) -> None:
    task = {"name": "demo"}
    leaked = load_task(TaskConfig(**task)).problems(3, 1, frozenset())[1]
    config = files(
        tmp_path,
        pool=["1+1", leaked.prompt.prompt.lower() + " "],
        annotated=["5+5"],
        evaluation={"task": task, "count": 3},
    )
    with pytest.raises(DataError, match="'pool' and 'evaluation' share 1 prompt"):
        run(config, ScriptedEngine(plain))


def test_a_pool_smaller_than_its_rounds_is_refused(tmp_path: Path) -> None:
    config = files(tmp_path, pool=["1+1"], annotated=["5+5"])
    with pytest.raises(DataError, match=r"the pool has 1 prompts for rounds=2; add prompts or lower rounds"):
        run(config, ScriptedEngine(plain))


def test_a_round_that_keeps_nothing_says_so(tmp_path: Path) -> None:
    config = files(tmp_path, pool=["1+1", "2+2"], annotated=["5+5"], policy="continual-latest")
    engine = ScriptedEngine(lambda model, turns: NO if len(turns) == 3 else "3")
    with pytest.raises(TrainingError, match="round-1 has no training examples, because no kept row gives one"):
        run(config, engine)


@pytest.mark.parametrize(
    ("name", "part"),
    [("./nowhere", "does not exist"), ("/no/such/folder", "does not exist"), ("one-word", "owner/name")],
)
def test_a_model_that_is_not_there_is_named(tmp_path: Path, name: str, part: str) -> None:
    config = files(tmp_path, pool=["1+1", "2+2"], annotated=["5+5"]).model_copy(update={"model": name})
    with pytest.raises(ConfigError, match=part) as caught:
        run(config, ScriptedEngine(plain))
    assert name in str(caught.value)


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    config = files(tmp_path, pool=["1+1", "2+2"], annotated=["5+5"])
    (Path(config.model) / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no config\.json; give a folder that save_pretrained\(\) wrote"):
        run(config, ScriptedEngine(plain))


def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path) -> None:
    config = files(tmp_path, pool=["1+1", "2+2"], annotated=["5+5"])
    (Path(config.model) / "model.safetensors").rename(Path(config.model) / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"holds no \*\.safetensors file"):
        run(config, ScriptedEngine(plain))
