"""Training by several processes of one machine, each with a device of its own.

The parent starts `python -m selfevo.pipeline.training_job JOB.json` once for each, with the variables that
torchrun sets, so that torchrun can start the same job on several machines. What one process raises
ends them all. If one is killed, a fresh group goes on from the last whole checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import selfevo.errors
from selfevo.errors import TrainingError
from selfevo.method.protocols import Progress, Trainer
from selfevo.method.records import Example, as_row
from selfevo.rundir.atomic_files import check_there, write_atomic

MOST_DEATHS = 3  # of groups in a row without a new checkpoint
POLL_SECONDS = 0.05
GRACE_SECONDS = 60  # between the request to end, which has them save a checkpoint, and the kill


@dataclass(slots=True)
class GroupTrainer:
    """Trains as `inner` does, in `processes` processes. `job` is what they need to make `inner` themselves."""

    inner: Trainer
    processes: int
    job: dict[str, Any]

    def key(self) -> str:
        return self.inner.key()

    def tokens(self, base: Path, examples: Sequence[Example]) -> int:
        return self.inner.tokens(base, examples)

    def train(
        self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, seed: int, progress: Progress
    ) -> dict[str, float]:
        job = {**self.job, "base": str(base), "output": str(output), "work": str(work), "seed": seed}
        work.mkdir(parents=True, exist_ok=True)
        write_atomic(work / "job.json", json.dumps({**job, "examples": [as_row(each) for each in examples]}))
        deaths, before = 0, self._checkpoints(work)
        while (died := self._once(work, progress)) is not None:
            after = self._checkpoints(work)
            deaths, before = (deaths + 1 if after == before else 1), after
            if deaths == MOST_DEATHS:
                raise TrainingError(
                    f"training: {died}, {deaths} times in a row without a new checkpoint; if memory was short, lower "
                    "trainer.per_device_train_batch_size or trainer.processes"
                )
        figures: dict[str, float] = json.loads((work / "figures.json").read_text(encoding="utf-8"))
        return figures

    def _checkpoints(self, work: Path) -> list[str]:
        return sorted(folder.name for folder in work.glob("checkpoint-*"))

    def _once(self, work: Path, progress: Progress) -> str | None:
        """Runs a group to its end. Returns None, or how a process died."""
        for path in (work / "figures.json", *work.glob("error-*.json")):
            path.unlink(missing_ok=True)
        with group(work, self.processes) as (processes, reports):
            while True:
                check_there(work)
                reports.show(progress)
                codes = [process.poll() for process in processes]
                ended = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
                if ended:
                    time.sleep(POLL_SECONDS)  # what the first one raised makes others fail
                    for process in processes:
                        process.kill()  # they would wait for it
                    raise_from(work)
                    rank = ended[0]
                    return f"process {rank} of {len(codes)} ended with {_said(codes[rank] or 0)}{_last(work, rank)}"
                if all(code == 0 for code in codes):
                    reports.show(progress)
                    return None
                time.sleep(POLL_SECONDS)


@contextmanager
def group(work: Path, count: int) -> Iterator[tuple[list[subprocess.Popen[bytes]], Reports]]:
    """Starts the processes of a job. None is left at the end, whatever happens to the parent."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(count):
            shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            own = {"RANK": rank, "LOCAL_RANK": rank, "SELFEVO_REPORTS": write}
            with (work / f"process-{rank}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "selfevo.pipeline.training_job", str(work / "job.json")],
                        env={**os.environ, **{name: str(value) for name, value in {**shared, **own}.items()}},
                        stdin=subprocess.PIPE,  # closed when the parent is gone, and then the process ends
                        stdout=log,
                        stderr=log,
                        pass_fds=(write,),
                        start_new_session=True,  # Ctrl-C reaches the parent, which ends them in order
                    )
                )
        yield processes, Reports(read)
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin:
                process.stdin.close()
        os.close(read)
        os.close(write)


class Reports:
    """What the first process reports of its progress, read from a pipe."""

    def __init__(self, read: int) -> None:
        self.read, self.rest = read, b""

    def show(self, progress: Progress) -> None:
        while True:
            try:
                piece = os.read(self.read, 65536)
            except BlockingIOError:
                return
            if not piece:
                return
            *lines, self.rest = (self.rest + piece).split(b"\n")
            for line in lines:
                name, arguments = json.loads(line)
                getattr(progress, name)(*arguments)


@dataclass(frozen=True, slots=True)
class Reporting:
    """The Progress of the first process: tells the parent."""

    write: int

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        self._tell("start", name, total, done, unit)

    def advance(self, amount: int, detail: str = "") -> None:
        self._tell("advance", amount, detail)

    def finish(self, summary: str = "") -> None:
        self._tell("finish", summary)

    def _tell(self, name: str, *arguments: object) -> None:
        os.write(self.write, json.dumps([name, arguments]).encode() + b"\n")


def note_error(work: Path, rank: int, error: selfevo.errors.SelfevoError) -> None:
    """Leaves what a process raised for the parent, which raises it."""
    write_atomic(work / f"error-{rank}.json", json.dumps([type(error).__name__, str(error)]))


def raise_from(work: Path) -> None:
    """Raises what a process has left with `note_error`."""
    for path in sorted(work.glob("error-*.json")):
        name, message = json.loads(path.read_text(encoding="utf-8"))
        kind: Callable[[str], Exception] = getattr(selfevo.errors, name)
        raise kind(message)


def _said(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last(work: Path, rank: int) -> str:
    """The last line that a process wrote, for the message about its end."""
    lines = (work / f"process-{rank}.log").read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f" ({said[-1][:200]})" if said else ""
