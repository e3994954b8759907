"""The seams of the method: Engine, Trainer, Progress. Each has a public scripted fake beside the real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from selfevo.method.records import Example, Turns

Finish = Literal["stop", "length", "overlong", "empty", "failed"]


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder and its identity: `id` changes whenever the weights, the tokenizer or the chat template do."""

    name: str
    path: Path
    id: str


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation to continue. `turns` alternates user and assistant and ends with a user turn.

    `seed` makes sampling a property of the row: its text does not depend on which rows share its batch. The first
    `opening` turns are the prompt; all that is asked about it begins with them.
    """

    turns: Turns
    seed: int
    system: str = ""
    opening: int = 1

    @property
    def beginning(self) -> Turns:
        """System prompt and prompt: what this request shares with others about the same prompt."""
        return (self.system, *self.turns[: self.opening])


@dataclass(frozen=True, slots=True)
class Generation:
    """What came back for one request.

    `finish`: "stop" the model ended its turn; "length" cut at max_new_tokens; "overlong" the prompt does not fit the
    context, nothing was generated; "empty" the model ended without a visible character; "failed" a server
    gave no answer. Counts are in tokens; of an overlong prompt, at least so many.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy. Names as in transformers' GenerationConfig."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


class Progress(Protocol):
    """Told what goes on, so that a person can watch. Silence is a valid implementation."""

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None: ...

    def advance(self, amount: int, detail: str = "") -> None: ...

    def finish(self, summary: str = "") -> None: ...


class Engine(Protocol):
    """Text in, text out. Keeps no state that matters: a model loaded earlier may be kept, never its answers."""

    @property
    def batch_size(self) -> int:
        """How many requests make a slice; the run commits rows to disk at this grain."""
        ...

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """One generation per request, in order. Raises EngineError when the model cannot be loaded or run."""
        ...

    def release(self) -> None:
        """Gives back memory before training starts."""
        ...


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine that works on several slices at a time."""

    def stream(
        self, model: Path, slices: Sequence[Sequence[Request]], sampling: Sampling
    ) -> Iterator[tuple[int, list[Generation]]]:
        """The position of each slice and its generations, one per request, in order; slices come as they are done.

        Raises EngineError at the end where a slice could not be done: those that came before it count.
        """
        ...


def stream(
    engine: Engine, model: Path, slices: Sequence[Sequence[Request]], sampling: Sampling
) -> Iterator[tuple[int, list[Generation]]]:
    """The slices as `engine` streams them, or one after the other where it cannot."""
    if isinstance(engine, StreamingEngine):
        yield from engine.stream(model, slices, sampling)
        return
    for place, requests in enumerate(slices):
        yield place, engine.generate(model, requests, sampling)


def generate_all(engine: Engine, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
    """One generation per request, in order, as many at once as the engine likes."""
    size = engine.batch_size
    slices = [requests[i : i + size] for i in range(0, len(requests), size)]
    come = dict(stream(engine, model, slices, sampling))
    return [generation for place in range(len(slices)) for generation in come[place]]


class Trainer(Protocol):
    def key(self) -> str:
        """A hash of all that decides what it makes of the same model and examples."""
        ...

    def tokens(self, base: Path, examples: Sequence[Example]) -> int:
        """How many tokens one epoch of `examples` is for the model at `base`."""
        ...

    def train(
        self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, seed: int, progress: Progress
    ) -> dict[str, float]:
        """Fine-tunes the model at `base` and writes a plain transformers folder to `output`.

        `work` is scratch space that survives a kill (checkpoints). Returns figures for the record: loss, tokens, ...
        Raises TrainingError when nothing may be kept.
        """
        ...
