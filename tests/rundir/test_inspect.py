"""What is in a run directory: counts that add up, damage that is found, disk given back without losing a row."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from runs import small_demo, student
from selfevo.api import RunResult
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import RunError
from selfevo.method.protocols import Generation
from selfevo.models.resolve import resolve_model
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import CURVE, MODEL_MARKER, hash_file
from selfevo.rundir.inspect import (
    best_model,
    collect,
    entries,
    find_runs,
    kept_models,
    removable,
    summarise,
    verify,
)
from selfevo.rundir.layout import Layout
from selfevo.rundir.ownership import locked
from selfevo.rundir.results import GateResults, load_results, write_results
from selfevo.rundir.stage_order import SKILL_ORDER
from selfevo.trainers.scripted import ScriptedTrainer


def test_every_stage_accounts_for_its_rows(finished: RunConfig) -> None:
    found = {entry.name: entry for entry in entries(finished.output)}
    for entry in found.values():
        assert entry.rows == entry.out + entry.lost.total(), entry
        assert entry.status == "done"
    for t in (1, 2, 3):
        names = [f"round-{t}/{skill}" for skill in ("respond", "critique", "refine", "judge", "filter")]
        for before, after in itertools.pairwise(names):
            assert found[before].out == found[after].rows
    assert found["round-1/respond"].rows == 8
    assert any("length" in entry.lost for entry in found.values())
    assert any(reason.startswith("verdict") for reason in found["round-1/filter"].lost)


def test_stages_come_in_the_order_of_the_work(finished: RunConfig) -> None:
    names = [entry.name for entry in entries(finished.output)]
    assert names.index("warm-up") < names.index("sft") < names.index("meta") < names.index("round-1/respond")
    place = names.index("round-2/judge")
    assert names[place : place + 3] == ["round-2/judge", "round-2/filter", "round-2"]


def test_stages_without_rows_stand_where_they_were_due(tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    assert config.corpus is not None
    config = config.model_copy(update={"corpus": config.corpus.model_copy(update={"max_one_verdict": 1.0})})
    cut = ScriptedEngine(lambda model, turns: Generation("and so on", "length", 9, 9))
    run_loop(config, Silent(), cut, ScriptedTrainer())
    shown = [entry.name for entry in entries(config.output)]
    place = shown.index("round-1/respond")
    assert shown[place : place + 6] == [*(f"round-1/{name}" for name in SKILL_ORDER if name != "annotate"), "round-1"]
    place = shown.index("evaluate-meta/respond")
    assert shown[place + 1 : place + 3] == ["evaluate-meta/critique", "evaluate-meta/refine"]
    assert shown[-1] == "evaluate-round-3/refine"


def test_stages_that_another_run_made_come_before_those_of_this_one(copy: RunConfig) -> None:
    events = copy.output / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join(line for line in lines if "round-2" in line or "round-3" in line))
    shown = [entry.name for entry in entries(copy.output)]
    places = [shown.index(f"{name}/respond") for name in ("d_meta-1", "evaluate-base", "round-1", "round-2")]
    assert places == sorted(places)


def test_a_run_is_found_and_summarised(finished: RunConfig) -> None:
    assert find_runs(finished.output.parent) == find_runs(finished.output) == [finished.output]
    summary = summarise(finished.output)
    results = load_results(finished.output)
    assert (summary.status, summary.last) == ("finished", "round-3")
    assert summary.accuracy == results.models[-1].direct.accuracy
    assert summary.size > 10_000
    with locked(finished.output):
        assert summarise(finished.output).status == "running"


def test_a_run_that_was_killed_shows_what_it_has(copy: RunConfig) -> None:
    shutil.rmtree(copy.output / "models/round-3")
    partial = copy.output / "stages/evaluate-round-3/respond.jsonl"
    partial.with_suffix(".done.json").unlink()
    partial.rename(partial.with_name("respond.partial.jsonl"))
    with (copy.output / "events.jsonl").open("r+") as file:
        lines = [line for line in file.read().splitlines(keepends=True) if "finish" not in line]
        file.seek(0)
        file.truncate()
        file.writelines(lines)
    assert summarise(copy.output).status == "stopped"
    assert summarise(copy.output).last == "round-2"
    assert next(entry for entry in entries(copy.output) if entry.name == "evaluate-round-3/respond").status == "begun"


def test_a_whole_run_verifies(finished: RunConfig) -> None:
    checked, faults = verify(finished.output)
    files = [*finished.output.glob("data/*.jsonl"), *finished.output.glob("stages/*/*.jsonl")]
    assert checked == len(files) + 6
    assert faults == []


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("stages/round-1/respond.jsonl", "flip", "was changed"),
        ("stages/round-2/filter.jsonl", "flip", "was changed"),
        ("data/pool.jsonl", "flip", "was changed"),
        ("data/d_meta.jsonl", "remove", "is missing"),
        ("models/meta/model.safetensors", "flip", "was changed"),
        ("models/round-3/examples.jsonl", "remove", "is missing"),
        ("models/sft/selfevo.json", "remove", "cannot be read"),
        ("stages/meta/extra.jsonl", "add", "has no extra.done.json"),
        ("stages/round-1/judge.done.json", "empty", "cannot be read"),
    ],
)
def test_damage_is_found_and_named(copy: RunConfig, name: str, change: str, fault: str) -> None:
    path = copy.output / name
    match change:
        case "flip":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        case "remove":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "add":
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}\n")
    (found,) = verify(copy.output)[1]
    assert fault in found
    assert str(path) in found


def test_a_damaged_model_is_not_used(copy: RunConfig) -> None:
    weights = copy.output / "models/meta/model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(
        RunError, match=r"model\.safetensors was changed .*delete .*meta and run the command of its run again"
    ):
        run_loop(copy, Silent(), ScriptedEngine(student(copy)), ScriptedTrainer())


def test_gc_keeps_the_best_and_the_last_and_every_row(copy: RunConfig) -> None:
    gate = GateResults(alpha=0.05, patience=1, best="round-1", rounds=())
    write_results(copy.output, load_results(copy.output).model_copy(update={"gate": gate}))
    (copy.output / "models/.round-9.work").mkdir()
    assert {path.name for path in removable(copy.output)} == {".round-9.work", "warm-up", "sft", "meta", "round-2"}
    assert [path.name for path in kept_models(copy.output)] == ["round-1", "round-3"]
    rows = {path: path.read_bytes() for path in copy.output.glob("[ds]*/**/*.jsonl")}
    assert collect(copy.output) > 0
    left = {path.parent.name for path in copy.output.glob("models/*/*.safetensors")}
    assert left == {"round-1", "round-3"}
    assert {path: path.read_bytes() for path in copy.output.glob("[ds]*/**/*.jsonl")} == rows
    assert verify(copy.output)[1] == []
    assert removable(copy.output) == []


def test_gc_leaves_the_curve_of_a_model_that_it_removes(copy: RunConfig) -> None:
    meta = Layout(copy.output).model("meta")
    (meta / CURVE).write_text('{"step": 1, "loss": 2.0}\n')
    marker = json.loads((meta / MODEL_MARKER).read_text())
    marker["files"][CURVE] = hash_file(meta / CURVE)
    (meta / MODEL_MARKER).write_text(json.dumps(marker))
    collect(copy.output)
    assert sorted(path.name for path in meta.iterdir()) == [MODEL_MARKER, CURVE]
    assert not removable(copy.output)
    assert verify(copy.output)[1] == []


@pytest.mark.parametrize("best", ["", "meta", "round-1", "round-2", "round-3"])
def test_the_best_model_is_the_same_one_for_all_who_ask(copy: RunConfig, best: str) -> None:
    """For gc, for `answer RUN`, `eval RUN` and run.best, and in the results."""
    gate = GateResults(alpha=0.05, patience=1, best=best, rounds=())
    write_results(copy.output, load_results(copy.output).model_copy(update={"gate": gate}))
    name = best or "round-3"
    assert best_model(copy.output) == resolve_model(str(copy.output)) == copy.output / "models" / name
    assert RunResult(copy.output).best == best_model(copy.output)
    measured = load_results(copy.output).best
    assert measured is not None
    assert measured.name == name
    collect(copy.output)
    assert resolve_model(str(copy.output)).name == name, "gc leaves it"
    if best:
        shutil.rmtree(copy.output / "models" / best)
        with pytest.raises(RunError, match=f"models/{best}, the best model, is missing; run the command of its run"):
            resolve_model(str(copy.output))


def test_a_run_that_was_emptied_still_stands_and_says_what_it_cannot_do(copy: RunConfig) -> None:
    collect(copy.output)
    engine, trainer = ScriptedEngine(student(copy)), ScriptedTrainer()
    run_loop(copy, Silent(), engine, trainer)
    assert (engine.calls, trainer.calls) == ([], [])
    for name in ("judge.jsonl", "judge.done.json"):
        (copy.output / "stages/round-1" / name).unlink()
    with pytest.raises(RunError, match=r"models/meta is needed, but selfevo gc has removed its files"):
        run_loop(copy, Silent(), engine, trainer)


def test_a_model_that_is_not_as_it_was_made_is_not_asked(copy: RunConfig) -> None:
    """By `answer` and `eval`, which find it with resolve_model."""
    weights = copy.output / "models/meta/model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept + b"x")
    with pytest.raises(RunError, match=r"model\.safetensors was changed after it was finished"):
        resolve_model(str(copy.output / "models/meta"))
    weights.unlink()
    with pytest.raises(RunError, match=r"model\.safetensors is missing; restore it, or delete .*meta and run"):
        resolve_model(str(copy.output / "models/meta"))
    weights.write_bytes(kept)
    collect(copy.output)
    with pytest.raises(RunError, match=r"meta is needed, but selfevo gc has removed its files; delete the folder, and"):
        resolve_model(str(copy.output / "models/meta"))
    shutil.rmtree(copy.output / "models/meta")
    trainer = ScriptedTrainer()
    run_loop(copy, Silent(), ScriptedEngine(student(copy)), trainer)
    assert len(trainer.calls) == 1, "what the message says brings the model back"


def test_gc_of_a_run_in_use_is_refused(copy: RunConfig) -> None:
    with locked(copy.output), pytest.raises(RunError, match="in use by process"):
        collect(copy.output)
    assert (copy.output / "models/meta/model.safetensors").exists()


@pytest.mark.parametrize("command", [entries, summarise, verify, removable, collect])
def test_what_is_no_run_is_refused(tmp_path: Path, command: object) -> None:
    assert callable(command)
    with pytest.raises(RunError, match=r"is not a run directory of selfevo; `selfevo runs FOLDER` lists"):
        command(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_stands_for_its_best_model(copy: RunConfig) -> None:
    assert best_model(copy.output) == copy.output / "models/round-3"
    assert resolve_model(str(copy.output)) == (copy.output / "models/round-3").resolve()
    shutil.rmtree(copy.output / "models")
    with pytest.raises(RunError, match="has no finished model yet"):
        best_model(copy.output)
