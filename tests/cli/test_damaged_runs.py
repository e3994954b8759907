"""A damaged run does not hide the others, and whatever looks at it ends with one line or shows what there is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import Selfevo, one_line
from selfevo.config.run_config import RunConfig

DEEP = "[" * 100_000
CONTENTS = ["", "[]", "null", "3", "{", "{}", "\xff\xfe", DEEP, '{"a": 1e999}', '"x"', '{"model": "\\ud800"}']
FILES = ["config.json", "manifest.json", "results.json", "models/meta/selfevo.json", "stages/round-1/judge.done.json"]
EVENTS = [
    *("[]", "null", "3", "{}", "\x00" * 100, DEEP, '{"event": 1}', '{"event": "train"}', '{"event": "finish"}'),
    *('{"event": "train", "stage": "x", "seconds": "a"}', '{"event": "train", "stage": 3, "seconds": 1}'),
    *('{"event": "generate", "stage": "a/b", "seconds": null}', '{"event": "x", "stage": "x", "seconds": 1e999}'),
    *('{"event": "train", "stage": "x", "seconds": 1, "tokens": "many"}', '{"event": "x", "stage": "", "seconds": []}'),
]
ROWS = [
    '[]\n3\n{}\n\xff\n{"status": "quarantined"}\n{"kept": false}\n',
    '{"kept": false, "reason": ["a"]}\n',
    "",
    "\x00",
]


def replaced(name: str, content: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content.encode("latin-1"))


def other(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Something else in place of a file or a folder."""

    def change(run: Path) -> None:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
        make(run / name)

    return change


def added(line: str) -> Callable[[Path], object]:
    return lambda run: (run / "events.jsonl").write_text((run / "events.jsonl").read_text() + line + "\n")


def configured(**keys: object) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        path = run / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))

    return change


DAMAGES: list[Callable[[Path], object]] = [
    *(replaced(name, content) for name in FILES for content in CONTENTS),
    *(added(line) for line in EVENTS),
    *(configured(seed=seed) for seed in ("x", None, [1])),
    *(configured(model=model) for model in (None, 3, "[bold]x[/bold]")),
    *(replaced(name, rows) for name in ("stages/round-1/judge.jsonl", "stages/round-1/filter.jsonl") for rows in ROWS),
    *(replaced("data/d_meta.jsonl", rows) for rows in ROWS),
    *(other(name, Path.mkdir) for name in (".lock", *FILES, "events.jsonl", "data/d_meta.jsonl")),
    *(other(name, Path.touch) for name in ("models", "stages", "data")),
    *(other(name, lambda path: None) for name in ("models", "stages", "data", "events.jsonl", "results.json")),
    *(other(name, os.mkfifo) for name in ("stages/round-1/judge.jsonl", "events.jsonl", "data/d_meta.jsonl")),
    other("stages/round-1", lambda path: path.symlink_to(path.parent)),
    other("models/meta", lambda path: path.symlink_to("/nowhere")),
]


def test_a_damaged_run_does_not_hide_the_others(selfevo: Selfevo, finished: RunConfig, tmp_path: Path) -> None:
    for number, change in enumerate(DAMAGES):
        shutil.copytree(finished.output, tmp_path / f"runs/{number}")
        change(tmp_path / f"runs/{number}")
    shutil.copytree(finished.output, tmp_path / "runs/whole")
    code, out, err = selfevo("runs", "runs")
    assert code == 0
    assert "unforeseen" not in err
    assert any("runs/whole" in line and "finished" in line for line in out.splitlines())
    shown = out.count("runs/") + err.count("selfevo: runs/")
    not_runs = sum(not (path / name).is_file() for path in tmp_path.glob("runs/*") for name in FILES[:2])
    assert shown == len(DAMAGES) + 1 - not_runs, "each is in the table, or a line says why not"


@pytest.mark.parametrize("command", ["show", "verify", "report", "gc"])
def test_whatever_looks_at_a_damaged_run_ends_with_one_line_or_shows_what_there_is(
    selfevo: Selfevo, finished: RunConfig, tmp_path: Path, command: str
) -> None:
    for change in DAMAGES:
        shutil.copytree(finished.output, tmp_path / "run")
        change(tmp_path / "run")
        code, _, err = selfevo(command, "run", *(["--yes"] if command == "gc" else []))
        assert code in (0, 3), err
        if code:
            assert "; " in one_line(err), "what is wrong, and the remedy"
        shutil.rmtree(tmp_path / "run")


def test_gc_leaves_a_run_that_may_go_on_elsewhere_alone(selfevo: Selfevo, copy: RunConfig) -> None:
    owner = {"process": 7, "host": "elsewhere", "boot": "", "started": "", "work": "train meta"}
    (copy.output / ".owner").write_text(json.dumps(owner))
    code, _, err = selfevo("gc", copy.output, "--yes")
    assert code == 3
    line = one_line(err)
    assert "process 7 of host elsewhere" in line
    assert (copy.output / "models/meta/model.safetensors").exists()
    Path(line.rpartition("delete ")[2].partition(" and run")[0]).unlink()  # the remedy
    assert selfevo("gc", copy.output, "--yes")[0] == 0
    assert not (copy.output / "models/meta/model.safetensors").exists()
