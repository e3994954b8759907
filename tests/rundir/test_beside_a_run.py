"""A run that is looked at while it goes on: what is shown is right, and the run is not disturbed."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runs import results, student, timeless, tree
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.pipeline.run import run_loop
from selfevo.report.page import write_report
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.inspect import costs, entries, is_run, summarise, verify
from selfevo.rundir.results import read_results
from selfevo.trainers.scripted import ScriptedTrainer

LOOKS: tuple[Callable[[Path], object], ...] = (summarise, entries, verify, write_report, costs, read_results)


def run(config: RunConfig) -> None:
    run_loop(config, Silent(), ScriptedEngine(student(config), batch_size=4), ScriptedTrainer())


def look(root: Path, before: dict[str, int]) -> dict[str, int]:
    """What `runs`, `show`, `verify` and `report` say. No figure goes down while a run goes on."""
    assert summarise(root).status == "running"
    assert verify(root)[1] == []
    write_report(root)
    found = read_results(root)
    figures = {
        **{entry.name: entry.rows for entry in entries(root)},
        "models": len(found.models) if found else 0,
        "rounds": len(found.rounds) if found else 0,
    }
    for entry in entries(root):
        assert entry.status != "done" or entry.rows == entry.out + entry.lost.total()
    for name, figure in before.items():
        assert figures[name] >= figure, (name, before, figures)
    return figures


def test_what_is_shown_of_a_run_is_right_at_every_moment(
    finished: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every fifth of its calls of fsync and replace, and again in a resume of the finished run."""
    config = finished.model_copy(update={"output": tmp_path / "run"})
    count, figures, looking = itertools.count(), dict[str, int](), False

    def hooked(call: Callable[..., Any]) -> Callable[..., Any]:
        def both(*arguments: Any, **more: Any) -> Any:
            nonlocal figures, looking
            if not looking and is_run(config.output) and next(count) % 5 == 0:
                looking = True
                figures = look(config.output, figures)
                looking = False
            return call(*arguments, **more)

        return both

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, hooked(getattr(os, name)))
    run(config)
    assert (figures["models"], figures["rounds"], next(count) > 300) == (6, 3, True)
    run(config)
    monkeypatch.undo()
    assert tree(config.output) == tree(finished.output)
    assert timeless(results(config)) == timeless(results(finished))


def test_whoever_looks_at_a_run_meets_no_file_that_has_just_gone(finished: RunConfig, tmp_path: Path) -> None:
    """Two processes, for some seconds: each look falls into another moment."""
    looks = itertools.cycle(LOOKS)
    for number in range(2):
        config = finished.model_copy(update={"output": tmp_path / str(number)})
        child = os.fork()
        if not child:
            status = 1
            try:
                run(config)
                status = 0
            finally:
                os._exit(status)
        while not is_run(config.output):
            time.sleep(0.01)
        ended = 0
        while not ended:
            next(looks)(config.output)
            ended, status = os.waitpid(child, os.WNOHANG)
        assert status == 0, "the run was disturbed"
        assert tree(config.output) == tree(finished.output)


@pytest.mark.parametrize("kind", ["growing", "partial"])
def test_a_file_that_gets_its_last_name_under_the_eyes_of_show_is_counted(
    copy: RunConfig, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = copy.output / "stages/round-1/judge.jsonl"
    marker, rows = path.with_suffix(".done.json"), len(path.read_bytes().splitlines())
    other = path.with_suffix(f".{kind}.jsonl")
    path.rename(other)
    kept = marker.read_bytes()
    marker.unlink()

    def renamed(asked: Path) -> Any:
        if asked == other and other.exists():
            other.rename(path)
            marker.write_bytes(kept)
        return read_rows(asked)

    monkeypatch.setattr("selfevo.rundir.inspect.read_rows", renamed)
    shown = {entry.name: entry.rows for entry in entries(copy.output)}["round-1/judge"]
    assert shown == rows
    assert {entry.name: entry.rows for entry in entries(copy.output)}["round-1/judge"] == rows
