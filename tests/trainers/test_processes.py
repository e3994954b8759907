"""Several processes train what one trains, in real groups on the CPU."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.errors import TrainingError
from selfevo.method.protocols import Trainer
from selfevo.method.records import Example
from selfevo.pipeline.build import build_trainer
from selfevo.report.progress import Silent
from trainings import state

pytestmark = pytest.mark.cluster

ROWS = [" ".join(str(n) for n in range(i % 7 + 1)) for i in range(16)]
ANSWERS = [Example(str(i), (f"Sort: {row}", row), (1.0 - i % 2 / 2,), "self") for i, row in enumerate(ROWS)]
PAIRS = [Example(str(i), (f"Sort: {row}", row), (1.0,), "preference", f"{i}") for i, row in enumerate(ROWS)]


def run_config(base: Path, folder: Path, kind: str = "sft", **trainer: Any) -> RunConfig:
    settings = {
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "warmup_ratio": 0,
        "dtype": "float32",
        "device": "cpu",
        **trainer,
    }
    return parse_config(
        {
            "model": str(base),
            "output": str(folder / "run"),
            "prompts": {"task": {"name": "demo"}},
            "corpus": {"task": {"name": "demo"}},
            "policy": "continual-latest",
            "objective": kind,
            "trainer": settings,
        },
        "test",
    )


class Watching:
    """Progress that keeps the losses, and does something after some steps."""

    def __init__(self, after: int = 0, act: Any = None) -> None:
        self.after, self.act, self.losses, self.begun = after, act, list[str](), list[tuple[int, int]]()

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        self.begun.append((done, total))

    def advance(self, amount: int, detail: str = "") -> None:
        self.losses.append(detail)
        if len(self.losses) == self.after:
            self.act()

    def finish(self, summary: str = "") -> None: ...


def trained(trainer: Trainer, base: Path, folder: Path, examples: list[Example], progress: Any = None) -> Any:
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return trainer.train(base, examples, folder / "out", work=folder / "work", seed=0, progress=progress or Silent())


def furthest(one: Path, other: Path) -> float:
    a, b = state(one), state(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize(("kind", "examples"), [("sft", ANSWERS), ("dpo", PAIRS)])
def test_two_processes_train_what_one_trains(
    tiny_model: Path, tmp_path: Path, kind: str, examples: list[Example]
) -> None:
    """At the same global batch of 4 rows, with weights per token and rows of many lengths."""
    one = build_trainer(run_config(tiny_model, tmp_path, kind, gradient_accumulation_steps=2), "round-1")
    two = build_trainer(run_config(tiny_model, tmp_path, kind, processes=2), "round-1")
    a, b = Watching(), Watching()
    first = trained(one, tiny_model, tmp_path / "one", examples, a)
    second = trained(two, tiny_model, tmp_path / "two", examples, b)
    assert a.begun == b.begun == [(0, 8)]
    assert a.losses == b.losses
    assert first["loss_first"] == second["loss_first"]
    assert first["steps"] == second["steps"] == 8
    assert furthest(tmp_path / "one/out", tmp_path / "two/out") < 1e-5


def process_of(work: Path, rank: int) -> int:
    """The number of the process that trains in `work` as `rank`."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            job = f"{work}/group-".encode() in (folder / "cmdline").read_bytes()
            if job and f"\0RANK={rank}\0".encode() in (folder / "environ").read_bytes():
                return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_costs_nothing_but_time(tiny_model: Path, tmp_path: Path, rank: int) -> None:
    """kill -9 in the second epoch: a fresh group goes on from the last whole checkpoint."""
    config = run_config(tiny_model, tmp_path, processes=2, save_minutes=1e-9)
    trained(build_trainer(config, "round-1"), tiny_model, tmp_path / "whole", ANSWERS)
    work = tmp_path / "killed/work"

    def kill() -> None:
        os.kill(process_of(work, rank), signal.SIGKILL)

    watching = Watching(6, kill)
    trained(build_trainer(config, "round-1"), tiny_model, tmp_path / "killed", ANSWERS, watching)
    assert len(watching.begun) == 2
    assert watching.begun[1][0] >= 4
    assert furthest(tmp_path / "whole/out", tmp_path / "killed/out") == 0


def test_what_a_process_raises_is_raised(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build_trainer(run_config(tiny_model, tmp_path, processes=2, max_length=3), "round-1")
    with pytest.raises(TrainingError, match=r"all 16 training sequences are longer than trainer\.max_length=3; raise"):
        trained(trainer, tiny_model, tmp_path, ANSWERS)


def test_a_group_that_always_dies_is_given_up(tiny_model: Path, tmp_path: Path) -> None:
    watching = Watching(1, lambda: os.kill(process_of(tmp_path / "work", 1), signal.SIGKILL))

    def killed_again(name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        watching.begun.append((done, total))
        watching.losses.clear()

    watching.start = killed_again  # type: ignore[method-assign]
    trainer = build_trainer(run_config(tiny_model, tmp_path, processes=2), "round-1")
    with pytest.raises(TrainingError, match=r"ended with signal SIGKILL.*, 3 times in a row without a new checkpoint"):
        trained(trainer, tiny_model, tmp_path, ANSWERS, watching)
    assert len(watching.begun) == 3


def test_processes_end_with_their_parent(tiny_model: Path, tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from test_processes import ANSWERS, Watching, build_trainer, run_config, trained
base, folder = Path({str(tiny_model)!r}), Path({str(tmp_path)!r})
watching = Watching(2, lambda: os.kill(os.getpid(), signal.SIGKILL))
trained(build_trainer(run_config(base, folder, processes=2), "round-1"), base, folder, ANSWERS, watching)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for _ in range(100):
        try:
            process_of(tmp_path / "work", 0)
        except AssertionError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("a process outlived its parent")
