"""One of the processes that train a model together: `python -m selfevo.pipeline.training_job JOB.json`.

It reads the variables that torchrun sets. trainers/processes.py starts it and writes the job file,
whose folder it leaves its figures, its progress and its error in.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.rendezvous import rendezvous

from selfevo.config.loading import parse
from selfevo.config.run_config import RunConfig
from selfevo.config.training import TrainerConfig
from selfevo.errors import ClusterError, ConfigError, SelfevoError
from selfevo.method.protocols import Progress
from selfevo.method.records import Example
from selfevo.models.device import pick_device
from selfevo.pipeline.build import build_one_process_trainer, package_versions
from selfevo.report.progress import Silent
from selfevo.report.terminal import complain
from selfevo.rundir.atomic_files import write_atomic
from selfevo.trainers.processes import FIGURES, HELD, REPORTS, Reporting, note_error

WAIT_SECONDS = 300  # for the other processes, which may load their packages from a slow disk
SILENT_SECONDS = 1800  # in which no process answers another one: then the group ends


def main(path: Path) -> int:
    """Trains as the job file says. Returns the exit code."""
    if HELD in os.environ:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        return _train(path)
    except SelfevoError as error:
        complain(str(error))
        if path.parent.is_dir():
            note_error(path.parent, int(os.environ.get("RANK", 0)), error)
        return error.exit_code


def _train(path: Path) -> int:
    job, rank = _read(path), int(os.environ["RANK"])
    _check_versions(job["versions"])
    config = parse(RunConfig, job["config"], str(path))
    _check_count(config.trainer)
    if not torch.distributed.is_initialized():
        _meet(config.trainer, WAIT_SECONDS)
    if rank == 0 and HELD in os.environ:
        _claim(path.parent)
    progress: Progress = Reporting(path.parent / REPORTS) if rank == 0 else Silent()
    trainer = build_one_process_trainer(config, job["name"])
    examples = [
        Example(**{**row, "turns": tuple(row["turns"]), "weights": tuple(row["weights"])}) for row in job["examples"]
    ]
    figures = trainer.train(
        Path(job["base"]), examples, Path(job["output"]), work=Path(job["work"]), seed=job["seed"], progress=progress
    )
    if rank == 0:
        write_atomic(path.parent / FIGURES, json.dumps(figures))
    return 0


def _read(path: Path) -> dict[str, Any]:
    """The job. Its relative paths count from where the run was started, and the process goes there."""
    missing = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE") if name not in os.environ]
    if missing:
        raise ConfigError(f"{missing[0]} is not set; start the job with torchrun: torchrun --nproc-per-node 2 -m ...")
    try:
        job: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        os.chdir(job["directory"])
        if not Path(job["work"]).is_dir():
            raise FileNotFoundError(2, "no such folder", job["work"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"{socket.gethostname()} cannot read the job {path} ({error}); the run directory must be on a disk that "
            "all machines share, under the same path"
        ) from None
    return job


def _check_versions(known: Mapping[str, str]) -> None:
    own = package_versions()
    apart = [f"{name} {own.get(name)} instead of {there}" for name, there in known.items() if own.get(name) != there]
    if apart:
        raise ClusterError(
            f"{socket.gethostname()} has {', '.join(apart)}; install the packages there that the machine has on which "
            "the run was started"
        )


def _check_count(config: TrainerConfig) -> None:
    host, world, here = socket.gethostname(), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if world != config.processes:
        raise ConfigError(
            f"{world} processes were started, and trainer.processes is {config.processes}; make the launcher start as "
            "many"
        )
    if pick_device(config.device).type == "cuda" and torch.cuda.device_count() < here:
        raise ConfigError(
            f"{here} processes were started on {host}, where torch sees {torch.cuda.device_count()} CUDA devices; "
            "start one for each device"
        )


def _meet(config: TrainerConfig, seconds: float) -> None:
    """Waits until all processes are there, and connects them. Raises ClusterError if that takes too long."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    wait = timedelta(seconds=seconds)
    try:
        store, _, _ = next(rendezvous("env://", timeout=wait))
        store.set(f"selfevo-{rank}", socket.gethostname())
    except (RuntimeError, ValueError) as error:
        who = f"process {rank} on {socket.gethostname()}"
        what = f"cannot reach process 0 at {address}" if rank else f"does not see the other {world - 1} at {address}"
        raise ClusterError(
            f"{who} {what} within {seconds:g} s ({' '.join(str(error).split())[:150]}); correct the address, let "
            "nothing on the network stand between the machines, and see in the logs whether a process has ended"
        ) from None
    names = [f"selfevo-{other}" for other in range(world)]
    try:
        store.wait(names, wait)
    except RuntimeError:
        missing = ", ".join(str(other) for other, name in enumerate(names) if not store.check([name]))
        raise ClusterError(
            f"process {missing} of {world} did not come to {address} within {seconds:g} s; see why in its log, or "
            "start it"
        ) from None
    backend = "nccl" if pick_device(config.device).type == "cuda" else "gloo"
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=timedelta(seconds=SILENT_SECONDS)
    )


def _claim(folder: Path) -> None:
    """Raises ClusterError if another first process has begun with the job: a launcher may have started two groups."""
    try:
        (folder / "claimed").touch(exist_ok=False)
    except FileExistsError:
        raise ClusterError(
            "the launcher started several groups of processes that do not know each other; give torchrun --nnodes and "
            "--rdzv-endpoint, so that they are one"
        ) from None


def _end_with_parent() -> None:
    """The parent holds the other end of standard input, unless a launcher has put something else there."""
    kind = os.fstat(0).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
        while os.read(0, 1):
            pass
        os.write(2, b"selfevo: the run that started this process has gone, so it ends\n")
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
