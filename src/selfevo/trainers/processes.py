"""Training by several processes, each with a device of its own, on this machine or on several.

The parent writes a job file and starts `python -m selfevo.pipeline.training_job JOB.json` once for
each process, with the variables that torchrun sets; or `trainer.launcher` starts them, such as srun
with torchrun. What one process raises ends them all. If one is killed, a fresh group goes on from
the last whole checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import selfevo.errors
from selfevo.errors import ClusterError, ConfigError, TrainingError
from selfevo.method.protocols import Progress, Trainer
from selfevo.method.records import Example, as_row
from selfevo.models.threads import share_processors
from selfevo.rundir.atomic_files import check_there, write_atomic

MOST_DEATHS = 3  # of groups in a row without a new checkpoint
POLL_SECONDS = 0.05
GRACE_SECONDS = 60  # between the request to end, which has them save a checkpoint, and the kill
JOB = ("-m", "selfevo.pipeline.training_job")
HELD = "SELFEVO_HELD"  # set where the parent holds the other end of standard input
# In the folder of a group, which has a number: no name there is used twice, so that no file of a group that died, and
# nothing that a network file system remembers of it, is taken for one of the next.
FIGURES, REPORTS = "figures.json", "progress.jsonl"


@dataclass(slots=True)
class GroupTrainer:
    """Trains as `inner` does, in `processes` processes. `job` is what they need to make `inner` themselves.

    `launcher` is a command that starts them all.
    """

    inner: Trainer
    processes: int
    job: dict[str, Any]
    launcher: str | None = None

    def key(self) -> str:
        return self.inner.key()

    def tokens(self, base: Path, examples: Sequence[Example]) -> int:
        return self.inner.tokens(base, examples)

    def train(
        self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, seed: int, progress: Progress
    ) -> dict[str, float]:
        paths = {"base": str(base), "output": str(output), "work": str(work), "directory": str(Path.cwd())}
        job = {**self.job, **paths, "seed": seed, "examples": [as_row(each) for each in examples]}
        work.mkdir(parents=True, exist_ok=True)
        deaths, before = 0, self._checkpoints(work)
        while (died := self._once(folder := self._folder(work), job, progress)) is not None:
            after = self._checkpoints(work)
            deaths, before = (deaths + 1 if after == before else 1), after
            if deaths == MOST_DEATHS:
                raise TrainingError(
                    f"training: {died}, {deaths} times in a row without a new checkpoint; see the logs in {folder}; if "
                    "memory was short, lower trainer.per_device_train_batch_size or trainer.processes"
                )
        figures: dict[str, float] = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        return figures

    def _checkpoints(self, work: Path) -> list[str]:
        return sorted(folder.name for folder in work.glob("checkpoint-*"))

    def _folder(self, work: Path) -> Path:
        """A new folder for what a group is given and leaves."""
        taken = [int(each.name.partition("-")[2]) for each in work.glob("group-*")]
        folder = work / f"group-{max(taken, default=0) + 1}"
        folder.mkdir()
        return folder

    def _once(self, folder: Path, job: Mapping[str, Any], progress: Progress) -> str | None:
        """Runs a group to its end. Returns None, or how a process died."""
        write_atomic(folder / "job.json", json.dumps(job))
        reports = Reports(folder / REPORTS)
        with started(folder, self._commands(folder)) as processes:
            while True:
                check_there(folder)
                reports.show(progress)
                codes = [process.poll() for process in processes.values()]
                ended = [name for name, code in zip(processes, codes, strict=True) if code not in (None, 0)]
                if ended:
                    time.sleep(POLL_SECONDS)  # what the first one raised makes others fail
                    for process in processes.values():
                        _kill(process)  # they would wait for it
                    raise_from(folder)
                    said = _said(processes[ended[0]].returncode)
                    return f"{ended[0].replace('-', ' ')} ended with {said}{_last(folder, ended[0])}"
                if all(code == 0 for code in codes):
                    reports.show(progress)
                    if not (folder / FIGURES).is_file():
                        name = next(iter(processes))
                        raise ClusterError(
                            f"{name} ended before the training did{_last(folder, name)}; the command must start all "
                            "processes and wait for their end"
                        )
                    return None
                time.sleep(POLL_SECONDS)

    def _commands(self, folder: Path) -> dict[str, tuple[list[str], dict[str, object]]]:
        """The commands to start, by names for their logs, and the variables of each."""
        job = [*JOB, str(folder.absolute() / "job.json")]
        if self.launcher is not None:
            return {"launcher": ([*launched(self.launcher), *job], {})}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
        count, shared = self.processes, dict(os.environ)
        share_processors(shared, count)
        return {
            f"process-{rank}": (
                [sys.executable, *job],
                {**shared, **address, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank},
            )
            for rank in range(count)
        }


def launched(launcher: str) -> list[str]:
    """The words of `launcher`. Raises ConfigError for a variable that is not set, and for quotes that do not end."""
    try:
        words = [os.path.expandvars(word) for word in shlex.split(launcher)]
    except ValueError as error:
        raise ConfigError(f"trainer.launcher is {launcher!r}: {str(error).lower()}; correct it") from None
    if unset := re.search(r"\$\w+|\$\{\w+\}", " ".join(words)):
        raise ConfigError(
            f"trainer.launcher names {unset[0]}, which is not set in the environment; set it before the run starts"
        )
    return words


@contextmanager
def started(
    folder: Path, commands: Mapping[str, tuple[list[str], Mapping[str, object]]]
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Starts the processes of a group. None is left at the end, whatever happens to the parent."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (command, variables) in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                try:
                    processes[name] = subprocess.Popen(
                        command,
                        env={**os.environ, HELD: "1", **{key: str(value) for key, value in variables.items()}},
                        stdin=subprocess.PIPE,  # closed when the parent is gone, and then the process ends
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # Ctrl-C reaches the parent, which ends them in order
                    )
                except OSError as error:
                    reason = (error.strerror or str(error)).lower()
                    raise ConfigError(
                        f"trainer.launcher: {command[0]} cannot be started ({reason}); correct it"
                    ) from None
        yield processes
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes.values():
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                _kill(process)
                process.wait()
            if process.stdin:
                process.stdin.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and what it has started in its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


class Reports:
    """What the first process reports of its progress, read from a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.read, self.rest = path, 0, b""

    def show(self, progress: Progress) -> None:
        try:
            with self.path.open("rb") as file:
                file.seek(self.read)
                piece = file.read()
        except FileNotFoundError:
            return
        self.read += len(piece)
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            name, arguments = json.loads(line)
            getattr(progress, name)(*arguments)


@dataclass(frozen=True, slots=True)
class Reporting:
    """The Progress of the first process: tells the parent."""

    path: Path

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        self._tell("start", name, total, done, unit)

    def advance(self, amount: int, detail: str = "") -> None:
        self._tell("advance", amount, detail)

    def finish(self, summary: str = "") -> None:
        self._tell("finish", summary)

    def _tell(self, name: str, *arguments: object) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps([name, arguments]).encode() + b"\n")


def note_error(folder: Path, rank: int, error: selfevo.errors.SelfevoError) -> None:
    """Leaves what a process raised for the parent, which raises it."""
    write_atomic(folder / f"error-{rank}.json", json.dumps([type(error).__name__, str(error)]))


def raise_from(folder: Path) -> None:
    """Raises what a process has left with `note_error`."""
    for path in sorted(folder.glob("error-*.json")):
        name, message = json.loads(path.read_text(encoding="utf-8"))
        kind: Callable[[str], Exception] = getattr(selfevo.errors, name)
        raise kind(message)


def _said(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last(folder: Path, name: str) -> str:
    """The last line that a process wrote, or that of ours in it, for the message about its end."""
    lines = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    ours = [line[line.index("selfevo: ") :] for line in said if "selfevo: " in line]
    return f" ({(ours or said)[-1][:300]})" if said else ""
