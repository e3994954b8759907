"""A run directory somebody has edited: whatever a key holds or lacks, what reads it raises RunError, in one line."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runs import small_demo, student
from selfevo.api import RunResult
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import SelfevoError
from selfevo.models.resolve import resolve_model
from selfevo.pipeline.build import build_sampling
from selfevo.pipeline.run import run_loop
from selfevo.report.console import print_entries, print_results, print_runs
from selfevo.report.model_card import write_cards
from selfevo.report.page import write_report
from selfevo.report.progress import Silent
from selfevo.report.terminal import PlainConsole
from selfevo.rundir.inspect import costs, entries, prompts_seen, removable, summarise, verify
from selfevo.rundir.results import load_results
from selfevo.trainers.scripted import ScriptedTrainer

GONE = object()
OTHERS: tuple[Any, ...] = (GONE, None, "x", -7.5, [], {}, ["a"], {"a": 1}, True, 10**400, 12345)
TRIES = 40  # of each file, drawn at random


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("fields")
    config = small_demo(folder, folder / "run")
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    return config


@pytest.fixture
def root(finished: RunConfig, tmp_path: Path) -> Path:
    shutil.copytree(finished.output, tmp_path / "run")
    return tmp_path / "run"


def readers(root: Path) -> dict[str, Callable[[], object]]:
    """All that reads a run directory without going on with the run."""
    console = PlainConsole(file=io.StringIO(), width=200)

    def show() -> None:
        print_runs(console, [summarise(root)])
        print_entries(console, entries(root))

    def report() -> None:
        write_report(root)
        print_results(console, load_results(root))

    return {
        "show": show,
        "verify": lambda: verify(root),
        "report": report,
        "cards": lambda: write_cards(root),
        "costs": lambda: costs(root),
        "gc": lambda: removable(root),
        "answer": lambda: (resolve_model(str(root)), build_sampling(root / "models/meta")),
        "eval": lambda: prompts_seen(root / "models/meta"),
        "rows": lambda: list(RunResult(root).rows("round-1")),
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys of a JSON value, and the first two places of each list."""
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:2] if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from places(each, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    result = copy.deepcopy(value)
    place = result
    for key in path[:-1]:
        place = place[key]
    if new is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return result


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "manifest.json", "results.json", "models/meta/selfevo.json", "models/round-1/selfevo.json"),
        *("stages/round-1/respond.done.json", "stages/round-1/filter.done.json", "data/pool.done.json"),
        *("events.jsonl", "stages/round-1/respond.jsonl", "stages/round-1/judge.jsonl"),
        *("stages/round-1/filter.jsonl", "data/pool.jsonl", "data/d_meta.jsonl", "data/evaluation.jsonl"),
    ],
)
def test_whatever_a_file_holds_its_readers_know_what_to_say(root: Path, name: str) -> None:
    path, dice = root / name, random.Random(name)
    good = path.read_text(encoding="utf-8")
    lines = good.splitlines() if path.suffix == ".jsonl" else [good]
    for _ in range(TRIES):
        number = dice.randrange(min(3, len(lines)))
        value = json.loads(lines[number])
        key, new = dice.choice(list(places(value))), dice.choice(OTHERS)
        written = [*lines]
        written[number] = json.dumps(changed(value, key, new))
        path.write_text("".join(f"{line}\n" for line in written), encoding="utf-8")
        for reader, read in readers(root).items():
            try:
                read()
            except SelfevoError as error:
                assert "\n" not in str(error)
            except Exception as error:
                raise AssertionError(f"{reader}: {key} is {new!r}") from error
    path.write_text(good, encoding="utf-8")
    assert not verify(root)[1]
