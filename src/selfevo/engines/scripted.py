"""An engine whose answers your function gives: for tests, and to try a configuration without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfevo.method.protocols import Generation, Request, Sampling
from selfevo.method.records import Turns


@dataclass(slots=True)
class ScriptedEngine:
    """Calls `answer(model, turns)` for each request.

    It returns a Generation, or a text, which becomes a Generation with finish "stop". `calls` holds
    all requests, in order.
    """

    answer: Callable[[Path, Turns], str | Generation]
    batch_size: int = 8
    calls: list[tuple[Path, Request]] = field(default_factory=list)

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        self.calls += [(model, request) for request in requests]
        return [self._one(model, request) for request in requests]

    def release(self) -> None:
        """Does nothing."""

    def _one(self, model: Path, request: Request) -> Generation:
        answer = self.answer(model, request.turns)
        if isinstance(answer, Generation):
            return answer
        return Generation(answer, "stop", sum(len(t.split()) for t in request.turns), len(answer.split()))
