"""A run directory that is moved, deleted, replaced or unmounted under a run: one line, and nothing is made anew."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from runs import student, tree
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import RunError
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.ownership import Owner
from selfevo.trainers.scripted import ScriptedTrainer

MOMENTS = (20, 41, 70, 99, 130, 177, 233, 301, 350)  # of a run's some 400 calls of fsync and replace


def run(config: RunConfig) -> None:
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())


def run_with(config: RunConfig, moment: int, event: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs until `event` happens at a moment, and then to its error; returns that."""
    count = itertools.count()

    def hooked(call: Callable[..., Any]) -> Callable[..., Any]:
        def both(*arguments: Any, **more: Any) -> Any:
            if next(count) == moment:
                event()
            return call(*arguments, **more)

        return both

    with monkeypatch.context() as context:
        for name in ("fsync", "replace"):
            context.setattr(os, name, hooked(getattr(os, name)))
        with pytest.raises(RunError) as caught:
            run(config)
    assert next(count) > moment
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{config.output} has gone while it was in use: ")
    assert message.endswith("; put it back and run the same command again")
    return message


@pytest.fixture
def fresh(finished: RunConfig, tmp_path: Path) -> RunConfig:
    return finished.model_copy(update={"output": tmp_path / "data/run"})


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_directory_that_is_moved_goes_on_when_it_is_back(
    fresh: RunConfig, finished: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    run_with(fresh, moment, lambda: fresh.output.rename(tmp_path / "elsewhere"), monkeypatch)
    assert not fresh.output.exists()
    (tmp_path / "elsewhere").rename(fresh.output)
    run(fresh)
    there = {name: content for name, content in tree(fresh.output).items() if not name.endswith(".tmp")}
    assert there == tree(finished.output)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_directory_that_is_deleted_or_replaced_is_not_made_anew(
    fresh: RunConfig, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    def delete() -> None:
        shutil.rmtree(fresh.output)
        if moment % 2:
            fresh.output.mkdir()

    run_with(fresh, moment, delete, monkeypatch)
    assert not fresh.output.exists() or list(fresh.output.iterdir()) == []
    run(fresh)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", ["data", "stages"])
def test_what_is_deleted_of_a_run_while_it_goes_on_is_named_or_made_again(
    fresh: RunConfig, finished: RunConfig, monkeypatch: pytest.MonkeyPatch, moment: int, name: str
) -> None:
    count = itertools.count()

    def replaced(*arguments: Any, **more: Any) -> Any:
        if next(count) == moment:
            shutil.rmtree(fresh.output / name, ignore_errors=True)
        return replace(*arguments, **more)

    replace = os.replace
    with monkeypatch.context() as context:
        context.setattr(os, "replace", replaced)
        try:
            run(fresh)
        except RunError as error:
            assert str(fresh.output) in str(error)
            assert "; " in str(error)
    run(fresh)
    assert tree(fresh.output) == tree(finished.output)


@pytest.mark.parametrize("moment", MOMENTS[::2])
def test_who_deletes_all_that_says_so_lets_the_second_in_and_the_first_ends(
    fresh: RunConfig, finished: RunConfig, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    other = Owner(os.getppid(), "elsewhere", "", "")

    def enter() -> None:
        for name in (".lock", ".owner"):
            (fresh.output / name).unlink()
        (fresh.output / ".owner").write_text(json.dumps(asdict(other)))

    assert "taken over by another process" in run_with(fresh, moment, enter, monkeypatch)
    assert Owner.read(fresh.output / ".owner") == other
    with pytest.raises(RunError, match="of host elsewhere"):
        run(fresh)
    (fresh.output / ".owner").unlink()  # as the message says
    run(fresh)
    assert tree(fresh.output) == tree(finished.output)


@pytest.mark.parametrize("moment", MOMENTS[::3])
def test_a_disk_that_is_unmounted_is_one_line(fresh: RunConfig, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    disk = fresh.output.parent
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no right to mount a file system here: {mounted.stderr.strip()}")

    def unmount() -> None:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)

    run_with(fresh, moment, unmount, monkeypatch)
    assert list(disk.iterdir()) == [], "nothing is written where the disk was"
