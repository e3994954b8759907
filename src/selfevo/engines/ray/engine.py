"""Generation by workers on a Ray cluster, each with an engine as one process has it.

A worker is asked slices as one process would ask them, so a text depends neither on the number of
workers nor on which of them died. Kept key-value states live in one worker: a conversation goes on
where its states are, and then its slices are other ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray import cloudpickle

import selfevo.errors
from selfevo.config.cluster import ClusterConfig
from selfevo.engines.ray.crew import AHEAD, Crew, Member
from selfevo.engines.ray.parts import Part, Parts
from selfevo.engines.ray.weights import Folder
from selfevo.engines.ray.worker import Reply
from selfevo.errors import EngineError, RowsError
from selfevo.method.protocols import Engine, Generation, Request, Sampling, generate_all

MOST_DEATHS = 3  # of workers at the same rows

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RayEngine:
    """Generates with `workers` engines that `make` makes, each on `gpus` GPUs where the cluster has any.

    `keeps_states`: an engine keeps key-value states from call to call. `prefilled` counts the prompt
    tokens that the workers computed, padding included.
    """

    make: Callable[[], Engine]
    batch_size: int
    workers: int
    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig())
    gpus: int = 0
    keeps_states: bool = False
    prefilled: int = 0
    _crew: Crew | None = None
    _model: Folder | None = None
    _holders: dict[int, int] = field(default_factory=dict)  # the worker with the states of a conversation

    @property
    def slices_at_once(self) -> int:
        return self.workers * AHEAD

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        return generate_all(self, model, requests, sampling)

    def stream(
        self, model: Path, slices: Sequence[Sequence[Request]], sampling: Sampling
    ) -> Iterator[tuple[int, list[Generation]]]:
        """As they come. Raises RowsError at the end if workers died of some rows; the other slices count."""
        crew = self._crew = self._crew or Crew(self.cluster, self.workers, self.gpus, cloudpickle.dumps(self.make))
        folder = Folder.of(model)
        if folder != self._model:
            self._model, self._holders = folder, {}
        crew.begin()
        parts = Parts.of(slices, self.batch_size, self._holder)
        come: list[dict[int, Generation]] = [{} for _ in slices]
        fault: Exception | None = None
        failed: list[tuple[Part, str]] = []
        try:
            while parts or crew.busy:
                crew.fill()
                for member in _waiting(crew.ready, parts) if fault is None else ():
                    if part := parts.take(member.number):
                        asked = [slices[place][i] for place, i in part.rows]
                        crew.give(member, part, folder, crew.source, asked, sampling)
                if fault is not None and not crew.busy:
                    break
                for member, given, reply in crew.replies():
                    for message in reply.said:
                        logger.warning("worker %d: %s", member.number, message)
                    if reply.lost:
                        self._replace(crew, member, given, reply.lost, parts, failed)
                    elif reply.missing:
                        assert given is not None
                        crew.bring_files()
                        parts.give_back([given])
                    elif reply.fault:
                        fault = fault or getattr(selfevo.errors, reply.fault[0])(reply.fault[1])
                    elif given is not None:
                        yield from self._taken(member, given, reply, slices, come)
        finally:
            for member in [member for member in crew.members if member.tasks]:
                crew.lose(member)  # it works on rows that nobody waits for any more
        if fault is not None:
            raise fault
        if failed:
            raise _failure(failed)

    def release(self) -> None:
        """Ends the workers: what they had is free for a training. They are started again when they are needed."""
        self._holders = {}
        if self._crew is not None:
            self._crew.release()

    def _holder(self, request: Request) -> int | None:
        owner = self._holders.get(hash(request.beginning)) if self.keeps_states else None
        alive = self._crew.members if self._crew else ()
        return owner if any(member.number == owner for member in alive) else None

    def _taken(
        self,
        member: Member,
        part: Part,
        reply: Reply,
        slices: Sequence[Sequence[Request]],
        come: list[dict[int, Generation]],
    ) -> Iterator[tuple[int, list[Generation]]]:
        """The slices that are whole with this reply."""
        if len(reply.generations) != len(part.rows):
            raise EngineError(
                f"the engine returned {len(reply.generations)} answers to {len(part.rows)} requests, so none was kept; "
                "correct the engine's generate(): it must return one generation per request"
            )
        self.prefilled += reply.prefilled
        for (place, i), generation in zip(part.rows, reply.generations, strict=True):
            come[place][i] = generation
            if self.keeps_states:
                self._holders[hash(slices[place][i].beginning)] = member.number
        for place in dict.fromkeys(place for place, _ in part.rows):
            if len(come[place]) == len(slices[place]):
                yield place, [come[place][i] for i in range(len(slices[place]))]
                come[place].clear()

    def _replace(
        self, crew: Crew, member: Member, guilty: Part | None, why: str, parts: Parts, failed: list[tuple[Part, str]]
    ) -> None:
        """Another worker does what a lost one had. The part that it worked on counts the death."""
        had = crew.lose(member)
        if guilty is not None:
            guilty.deaths += 1
            had = [guilty, *(part for part in had if part is not guilty)]
            if guilty.deaths == MOST_DEATHS:
                failed.append((guilty, why))
                had.remove(guilty)
        logger.warning("worker %d is lost (%s); another one does its rows", member.number, why)
        parts.lose(member.number)
        parts.give_back(had)
        self._holders = {name: owner for name, owner in self._holders.items() if owner != member.number}


def _waiting(ready: list[Member], parts: Parts) -> Iterator[Member]:
    """The workers that can be given a part, those without any first. Near the end nobody gets a further one."""
    for held in range(AHEAD):
        for member in ready:
            if len(member.tasks) == held and (held == 0 or len(parts) > len(ready)):
                yield member


def _failure(failed: list[tuple[Part, str]]) -> RowsError:
    rows = [row for part, _ in failed for row in part.rows]
    return RowsError(
        f"{MOST_DEATHS} workers died, one after the other, of the same {len(rows)} rows (the last: {failed[-1][1]}); "
        "all other rows are done; if memory was short, lower engine.batch_size, then run the same command again",
        rows,
    )
