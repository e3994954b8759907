"""Damage and planted files are found, and the remedy of each message works when it is followed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from runs import student, tree
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, RunError
from selfevo.models.resolve import resolve_model
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.inspect import collect, removable, verify
from selfevo.trainers.scripted import ScriptedTrainer

AGAIN = "run the command of its run again"
ADDED = "was added after the model was finished; delete it, or move it elsewhere"
FOREIGN = "is no file of a run; delete it"
UNMARKED = f"beside it; {AGAIN} to have it written; if it is not, delete the file"


def again(config: RunConfig) -> None:
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())


def follow(fault: str, config: RunConfig) -> None:
    """Does what the message says; of two ways the one that needs no copy of the file."""
    file, _, remedy = fault.partition(" ")
    for told in re.findall(r"delete (it|the file|\S+)(?: and (\S+\.done\.json))?", remedy):
        names = (file if told[0] in ("it", "the file") else told[0], told[1])
        for path in [Path(name) for name in names if name]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif "if it is not" not in remedy or not path.exists():
                path.unlink(missing_ok=True)
    if "selfevo gc" in remedy:
        collect(config.output)
    if AGAIN in remedy:
        again(config)
        if "if it is not" in remedy and fault in verify(config.output)[1]:
            Path(file).unlink()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((f"models/meta/{name}", ADDED) for name in ("model-2.safetensors", "deep/chat.jinja", "a.py", ".x", "x.tmp")),
        *((f"models/{name}", FOREIGN) for name in ("x.bin", ".x", "config.json")),
        ("models/mine/config.json", "mine/selfevo.json cannot be read"),
        ("data/more.jsonl", UNMARKED),
        *((f"data/{name}", FOREIGN) for name in ("notes.txt", "x", ".jsonl", ".x.jsonl", "a.b.jsonl", "deep/x.jsonl")),
        *((f"data/{name}", FOREIGN) for name in ("pool.partial.jsonl", "pool.jsonl.bak", "pool.json", "d_meta.tmp")),
        ("data/more.done.json", "more.done.json cannot be read"),
        ("stages/round-1/more.jsonl", UNMARKED),
        *((f"stages/{name}", FOREIGN) for name in ("x.jsonl", "round-1/x.txt", "round-1/judge.growing.jsonl")),
        *((f"stages/round-1/{name}", FOREIGN) for name in ("deep/er.jsonl", "deep/er.done.json", "judge.jsonl~")),
    ],
)
def test_what_was_planted_is_found_and_what_the_message_says_mends_it(copy: RunConfig, name: str, said: str) -> None:
    before = tree(copy.output)
    path = copy.output / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("planted")
    _, faults = verify(copy.output)
    assert [said in fault for fault in faults] == [True], faults
    assert "\n" not in faults[0]
    follow(faults[0], copy)
    assert verify(copy.output)[1] == []
    assert tree(copy.output) == before


@pytest.mark.parametrize("name", ["models/meta", "stages/round-2", "stages/evaluate-base", "models", "stages"])
def test_what_is_missing_altogether_is_found(copy: RunConfig, name: str) -> None:
    before = tree(copy.output)
    shutil.rmtree(copy.output / name)
    _, faults = verify(copy.output)
    assert faults
    assert all(f"{name}" in fault and "is missing; restore it, or run the command of its" in fault for fault in faults)
    follow(faults[0], copy)
    assert verify(copy.output)[1] == []
    assert tree(copy.output) == before


@pytest.mark.parametrize("name", ["data/link.jsonl", "stages/round-1/link", "models/meta/link", "models/meta/folder"])
@pytest.mark.parametrize("target", ["/nowhere", "/etc"])
def test_a_planted_link_is_found(copy: RunConfig, name: str, target: str) -> None:
    (copy.output / name).symlink_to(target)
    _, faults = verify(copy.output)
    assert len(faults) == 1
    assert str(copy.output / name) in faults[0]
    follow(faults[0], copy)
    assert verify(copy.output)[1] == []


def test_a_model_with_a_file_too_many_is_not_used_unless_nothing_loads_it(copy: RunConfig) -> None:
    model = copy.output / "models/round-3"
    (model / ".cache").mkdir()
    (model / ".cache/upload").write_text("left by an upload")
    assert resolve_model(str(model)) == model
    (model / "adapter_config.json").write_text("{}")
    with pytest.raises(RunError, match=f"adapter_config.json {ADDED}"):
        resolve_model(str(model))


DAMAGED = [
    *(
        "data/pool.jsonl",
        "data/pool.done.json",
        "data/d_meta.jsonl",
        "data/d_meta.done.json",
        "data/labelled.jsonl",
    ),
    *("stages/round-1/respond.jsonl", "stages/round-1/respond.done.json", "stages/round-2/filter.jsonl"),
    *("stages/round-2/filter.done.json", "stages/evaluate-meta/refine.jsonl", "stages/d_meta-1/respond.done.json"),
    *("models/meta/model.safetensors", "models/round-3/examples.jsonl", "models/sft/config.json"),
    *("models/warm-up/selfevo.json", "models/round-1/selfevo.json"),
]


def damage(path: Path, change: str) -> None:
    content = path.read_bytes()
    if change == "remove":
        path.unlink()
    else:
        path.write_bytes(b"" if change == "empty" else bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("change", ["flip", "empty", "remove"])
def test_what_verify_says_of_damage_mends_it(copy: RunConfig, name: str, change: str) -> None:
    before = tree(copy.output)
    damage(copy.output / name, change)
    for _ in range(3):
        _, faults = verify(copy.output)
        for fault in faults:
            assert fault.count("; ") >= 1, "the fault and its remedy"
            follow(fault, copy)
    again(copy)
    assert verify(copy.output)[1] == []
    assert tree(copy.output) == before


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("change", ["flip", "empty", "remove"])
def test_what_a_run_says_of_damage_mends_it(copy: RunConfig, name: str, change: str) -> None:
    before = tree(copy.output)
    damage(copy.output / name, change)
    while True:
        try:
            again(copy)
            break
        except RunError as error:
            told = re.findall(r"(\S+?) (?:was|is|cannot|has).*?; .*?delete (it and )?(\S+)", str(error))
            assert told, error
            for file, both, other in told:
                for path in (Path(other), Path(file)) if both else (Path(other),):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert tree(copy.output) == before
    assert verify(copy.output)[1] == []


def test_a_model_that_gc_removed_comes_back_with_all_that_it_was_trained_from(copy: RunConfig) -> None:
    before = tree(copy.output)
    collect(copy.output)
    assert [path.parent.name for path in copy.output.glob("models/*/*.safetensors")] == ["round-3"]
    for name in ("round-2", "warm-up", "sft"):  # round-2 was trained from round-1, and that from meta
        message, told = "", []
        while True:
            try:
                resolve_model(str(copy.output / "models" / name))
                break
            except (RunError, ConfigError) as error:
                message = str(error)
            while message:
                (folder,) = re.findall(
                    r"(\S+) is needed, but selfevo gc has removed its files; delete the fol", message
                )
                told.append(Path(folder).name)
                shutil.rmtree(folder)
                try:
                    again(copy)
                    message = ""
                except RunError as error:
                    message = str(error)
        assert told == {"round-2": ["round-2", "round-1", "meta"]}.get(name, [name])
    assert tree(copy.output) == before
    assert verify(copy.output)[1] == []


@pytest.mark.parametrize("deaths", [1, 2, 3, 5, 8])
def test_gc_killed_behind_its_marker_frees_the_rest_the_next_time(
    copy: RunConfig, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    unlink, calls = Path.unlink, []

    def dying(path: Path, missing_ok: bool = False) -> None:
        if "models" in path.parts and not path.name.endswith(".tmp"):
            calls.append(path)
            if len(calls) == deaths:
                raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as context:
        context.setattr(Path, "unlink", dying)
        with pytest.raises(KeyboardInterrupt):
            collect(copy.output)
    _, faults = verify(copy.output)
    assert faults
    assert all("was left by a selfevo gc that was stopped; run selfevo gc again" in fault for fault in faults)
    assert calls[-1].parent in removable(copy.output)
    follow(faults[0], copy)
    assert not calls[-1].exists()
    assert removable(copy.output) == []
    assert verify(copy.output)[1] == []
