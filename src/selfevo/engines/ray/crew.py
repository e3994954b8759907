"""The workers on a Ray cluster: started, compared with this process, replaced when they die.

Ray itself repeats nothing (`max_restarts=0`): what a dead worker had goes to the others at once.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from selfevo.config.cluster import ClusterConfig
from selfevo.engines.ray.parts import Part
from selfevo.engines.ray.weights import Files
from selfevo.engines.ray.worker import Reply, Worker, versions
from selfevo.errors import ConfigError, EngineError

AHEAD = 2  # parts that a worker has at a time, so that it need not wait for this process
MOST_FAILED_STARTS = 3  # of workers in a row
PROBE_SECONDS = 30  # to reach a cluster
OBJECT_STORE = 2**28  # bytes of a local cluster's: texts are small

_joined: str | None = None  # the address of the cluster that `connect` joined

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Member:
    """A worker. `hello` is pending until it has answered; `tasks` are the parts it has, the oldest first."""

    number: int
    actor: Any
    hello: Any
    tasks: dict[Any, Part] = field(default_factory=dict)


@dataclass(slots=True)
class Crew:
    """`wanted` workers, as far as the cluster has room for them. `made` is their engine's maker, pickled."""

    config: ClusterConfig
    wanted: int
    gpus: int
    made: bytes
    members: list[Member] = field(default_factory=list)
    source: RemoteFiles | None = None
    _started: int = 0
    _failed: list[str] = field(default_factory=list)  # starts in a row
    _versions: dict[str, str] = field(default_factory=dict)
    _some_missing: float = 0  # since when
    _all_missing: float = 0
    _told: bool = False

    def __post_init__(self) -> None:
        python = self.config.py_executable
        if self.config.address == "local" and python is not None and not Path(python).is_file():
            raise ConfigError(f"cluster.py_executable is {python}, which is no file; correct the path")
        connect(self.config, self.wanted)
        own = versions()
        self._versions = own if self.config.py_executable is None else {"selfevo": own["selfevo"]}

    @property
    def ready(self) -> list[Member]:
        return [member for member in self.members if member.hello is None]

    @property
    def busy(self) -> bool:
        return any(member.tasks for member in self.members)

    def begin(self) -> None:
        """Workers whose start failed before are tried again."""
        self._failed.clear()
        self._some_missing = self._all_missing = time.monotonic()

    def fill(self) -> None:
        """Asks for the workers that are missing. Raises EngineError if none has come in time."""
        while len(self.members) < self.wanted and len(self._failed) < MOST_FAILED_STARTS:
            self._start()
        now, patience = time.monotonic(), self.config.timeout_seconds
        if len(self.ready) == self.wanted:
            self._some_missing = now
        if self.ready:
            self._all_missing = now
        if not self.members:
            raise EngineError(
                f"no worker can be started on the cluster at {self.config.address} ({self._failed[-1]}); see that "
                "every machine has this Python and this version of selfevo, or set cluster.py_executable"
            )
        if now - self._all_missing >= patience:
            raise EngineError(f"no worker came within {patience:g} seconds: {self._room()}")
        if now - self._some_missing >= patience and not self._told:
            self._told = True
            logger.warning(
                "%d of %d workers came within %g seconds, and do the work: %s",
                len(self.ready), self.wanted, patience, self._room(),
            )  # fmt: skip

    def give(self, member: Member, part: Part, *arguments: Any) -> None:
        member.tasks[member.actor.generate.remote(*arguments)] = part

    def replies(self) -> Iterator[tuple[Member, Part | None, Reply]]:
        """What has come within a second. A worker that died has a reply `lost`, with the part it worked on."""
        waited = {member.hello: member for member in self.members if member.hello is not None}
        waited |= {ref: member for member in self.members for ref in member.tasks}
        if not waited:
            return
        for ref in ray.wait(list(waited), num_returns=1, timeout=1)[0]:
            member = waited[ref]
            if member not in self.members:
                continue
            try:
                found = ray.get(ref)
            except ray.exceptions.RayError as error:
                reply = Reply(lost=_reason(error))
                if member.hello is not None:
                    self._failed.append(reply.lost)
                yield member, next(iter(member.tasks.values()), None), reply
                continue
            if ref is member.hello:
                self._greet(member, found)
            else:
                yield member, member.tasks.pop(ref), found

    def lose(self, member: Member) -> list[Part]:
        """Ends a worker. Returns the parts it had."""
        self.members.remove(member)
        ray.kill(member.actor)
        return list(member.tasks.values())

    def bring_files(self) -> None:
        """Has the files of this machine ready for workers on machines that lack them."""
        if self.source is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self.source = RemoteFiles(ray.remote(Files).options(num_cpus=0, scheduling_strategy=here).remote())

    def release(self) -> None:
        """Ends all workers, when those that have nothing to do have freed their memory."""
        self.source = None
        for ref in [member.actor.release.remote() for member in self.ready if not member.tasks]:
            with suppress(ray.exceptions.RayError):
                ray.get(ref)
        for member in list(self.members):
            self.lose(member)

    def _start(self) -> None:
        self._started += 1
        gpus = self.config.num_gpus
        if gpus is None:
            gpus = self.gpus if ray.cluster_resources().get("GPU") else 0
        python = self.config.py_executable
        actor = (
            ray.remote(Worker)
            .options(
                num_cpus=self.config.num_cpus,
                num_gpus=gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"py_executable": python} if python else {},
            )
            .remote(self.made)
        )
        self.members.append(Member(self._started, actor, actor.hello.remote()))

    def _greet(self, member: Member, found: dict[str, str]) -> None:
        host, member.hello = found.pop("host"), None
        self._failed.clear()
        for name, expected in self._versions.items():
            if found[name] != expected:
                raise EngineError(
                    f"the worker on {host} has {name} {found[name]}, and this process {expected}, so its texts could "
                    "differ; install the same versions on every machine"
                )
        self._versions = {**found, **self._versions}  # the others must have what the first one has

    def _room(self) -> str:
        """What the workers need and the cluster has."""
        total, free = ray.cluster_resources(), ray.available_resources()
        gpus = self.config.num_gpus if self.config.num_gpus is not None else self.gpus if total.get("GPU") else 0
        has = ", ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        python = f"; see that {self.config.py_executable} is on every machine" if self.config.py_executable else ""
        failed = f" (the last start failed: {self._failed[-1]})" if self._failed else ""
        return (
            f"each needs {self.config.num_cpus} CPUs and {gpus:g} GPUs, and the cluster at {self.config.address} has "
            f"{has} free; add machines, or lower engine.workers, cluster.num_cpus or cluster.num_gpus{python}{failed}"
        )


@dataclass(frozen=True, slots=True)
class RemoteFiles:
    """The files beside the run, through an actor there."""

    actor: Any

    def hashes(self, folder: Path) -> dict[str, str]:
        found: dict[str, str] = ray.get(self.actor.hashes.remote(folder))
        return found

    def read(self, path: Path, start: int) -> bytes:
        piece: bytes = ray.get(self.actor.read.remote(path, start))
        return piece


def connect(config: ClusterConfig, workers: int) -> None:
    """Joins the cluster, or starts a local one. Raises EngineError if there is none at the address."""
    global _joined
    if ray.is_initialized():  # by an earlier engine of this process, or by its user
        if _joined not in (None, config.address):
            raise EngineError(
                f"cluster.address is {config.address}, and this process works on the cluster at {_joined} already; "
                "give that one, or call ray.shutdown() first"
            )
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if config.address == "local":
        cores = max(os.cpu_count() or 1, workers * config.num_cpus)
        settings |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    else:
        _probe(config.address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=config.address, **settings)
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise EngineError(f"Ray cannot start at cluster.address {config.address}: {_reason(error)}") from None
    _joined = config.address
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own would end this process with another exit code


def _probe(address: str) -> None:
    """Joins the cluster from another process first: this one would hang, or end, where there is none."""
    trouble = f"there is no cluster at cluster.address {address}"
    remedy = "start one there (ray start --head), and selfevo on one of its nodes"
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS / 3).close()
        except OSError as error:
            raise EngineError(f"{trouble} ({error.strerror or error}); {remedy}") from None
    code = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        found = subprocess.run([sys.executable, "-c", code, address], capture_output=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        raise EngineError(f"{trouble}: nothing answered within {PROBE_SECONDS} seconds; {remedy}") from None
    if found.returncode:
        said = found.stderr.decode(errors="replace").strip().splitlines() or [""]
        raise EngineError(f"{trouble} ({said[-1][:200]}); {remedy}")


def _reason(error: Exception) -> str:
    """What Ray says of a death, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "Error:" in line]  # of what the worker raised itself
    return (causes or lines or [type(error).__name__])[-1 if causes else 0][:300]
