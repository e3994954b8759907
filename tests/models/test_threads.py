"""Our processes leave room for others: how their threads wait is set before torch is loaded, never over the user's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from selfevo.engines.ray.worker import Worker
from selfevo.models import threads
from selfevo.models.threads import WAITING, processors, share_processors, sharing_processors
from selfevo.trainers.processes import GroupTrainer
from selfevo.trainers.scripted import ScriptedTrainer

COMMAND = "import sys; sys.argv = ['selfevo', '--version']; from selfevo.cli.app import main\ntry: main()\n"
CHILD = "import os; print({name: os.environ.get(name) for name in ('GOMP_SPINCOUNT', 'OMP_NUM_THREADS')})"


def unset() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}


def variables(code: str, **environment: str) -> str:
    """What a process has in its environment when it has run `code`."""
    return subprocess.run(
        [sys.executable, "-c", code + CHILD],
        env={**unset(), **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP library")
@pytest.mark.parametrize(
    ("environment", "spins"), [({}, "1000"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"), ({"GOMP_SPINCOUNT": "7"}, "7")]
)
def test_torchs_threads_wait_as_the_command_line_or_the_user_says(environment: dict[str, str], spins: str) -> None:
    """The library itself says what it has read."""
    said = subprocess.run(
        [sys.executable, "-c", f"{COMMAND}except SystemExit: import torch"],
        env={**unset(), "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", said)) == {spins}


def test_a_process_that_imports_selfevo_decides_for_itself() -> None:
    assert variables("import selfevo, selfevo.api, selfevo.cli.app\n") == str(
        {"GOMP_SPINCOUNT": None, "OMP_NUM_THREADS": None}
    )


@pytest.mark.parametrize("name", WAITING)
def test_what_the_user_set_stays(name: str) -> None:
    environment = {name: "x", "OMP_NUM_THREADS": "3"}
    share_processors(environment, 2)
    assert environment == {name: "x", "OMP_NUM_THREADS": "3"}


def test_one_process_has_the_threads_that_torch_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "affine", lambda: 8)
    monkeypatch.setattr(threads, "processors", lambda: 8)
    environment: dict[str, str] = {}
    share_processors(environment)
    assert environment == {"GOMP_SPINCOUNT": threads.SPINS}


@pytest.mark.parametrize(("here", "processes", "each"), [(8, 2, "4"), (8, 3, "2"), (2, 4, "1"), (1, 1, "1")])
def test_processes_share_what_there_is(here: int, processes: int, each: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "affine", lambda: 8)
    monkeypatch.setattr(threads, "processors", lambda: here)
    environment: dict[str, str] = {}
    share_processors(environment, processes)
    assert environment["OMP_NUM_THREADS"] == each


@pytest.mark.parametrize(("processes", "threads_each"), [(1, None), (1000, "1")])
def test_a_process_of_a_training_group_shares_with_the_others(
    processes: int, threads_each: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*WAITING, "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    commands = GroupTrainer(ScriptedTrainer(), processes, {})._commands(tmp_path)
    assert len(commands) == processes
    for _, started_with in commands.values():
        assert started_with["GOMP_SPINCOUNT"] == "1000"
        assert started_with.get("OMP_NUM_THREADS") == threads_each


def test_a_worker_of_a_cluster_waits_in_that_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", environment := dict(os.environ))
    Worker(b"")
    assert environment["GOMP_SPINCOUNT"] == "1000"


def test_children_have_it_and_this_process_does_not_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with sharing_processors():
        said = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    assert "'GOMP_SPINCOUNT': '1000'" in said
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("max 100000", 64),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("9900000 100000", 64),
        ("", 64),
        ("x y", 64),
        ("1 0", 64),
        (None, 64),
    ],
)
def test_a_containers_quota_counts(
    quota: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "affine", lambda: 64)
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "MEMBERSHIP", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("12:cpu:/old\n0::/pod/one\n")
    (tmp_path / "pod/one").mkdir(parents=True)
    if quota is not None:
        (tmp_path / "pod/one/cpu.max").write_text(f"{quota}\n")
    assert processors() == count
