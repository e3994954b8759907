"""The interfaces of the method: Engine, Trainer, Progress. Engine and Trainer have scripted fakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from selfevo.method.records import Example, Turns
from selfevo.method.thinking import is_open, spoken

Finish = Literal["stop", "length", "overlong", "empty", "failed"]


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder. `id` changes with the weights, the tokenizer and the chat template."""

    name: str
    path: Path
    id: str


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation to continue. `turns` alternates user and assistant and ends with a user turn.

    `seed` belongs to the row, so its sampled text does not depend on the other rows of its batch.
    The first `opening` turns are the prompt. All requests about one prompt begin with them.
    """

    turns: Turns
    seed: int
    system: str = ""
    opening: int = 1

    @property
    def beginning(self) -> Turns:
        """System prompt and prompt. All requests about one prompt share them."""
        return (self.system, *self.turns[: self.opening])


@dataclass(frozen=True, slots=True)
class Generation:
    """The result of one request.

    `finish` is "stop" (the model ended its turn), "length" (cut at max_new_tokens, or ended inside
    its thinking), "overlong" (the prompt does not fit the context; nothing was generated), "empty"
    (the model wrote no visible character) or "failed" (a server gave no answer). Counts are in
    tokens; for an overlong prompt `prompt_tokens` is a lower bound.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    new_tokens: int


FURTHER = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}  # of Sampling: what leaves a text as it is


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy. Names as in transformers' GenerationConfig."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def key(self) -> dict[str, float]:
        """What a row is known by. Without what leaves the text as it is."""
        return {name: value for name, value in asdict(self).items() if name not in FURTHER or value != FURTHER[name]}


class Progress(Protocol):
    """Shows a person how far the work is. An implementation may show nothing."""

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None: ...

    def advance(self, amount: int, detail: str = "") -> None: ...

    def finish(self, summary: str = "") -> None: ...


class Engine(Protocol):
    """Text in, text out. It may keep a loaded model or key-value states, never answers."""

    @property
    def batch_size(self) -> int:
        """The number of requests in a slice. After each slice the rows are written to disk."""
        ...

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """One generation per request, in order. Raises EngineError when the model cannot be loaded or run."""
        ...

    def release(self) -> None:
        """Frees memory before training starts."""
        ...


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine that works on several slices at a time."""

    def stream(
        self, model: Path, slices: Sequence[Sequence[Request]], sampling: Sampling
    ) -> Iterator[tuple[int, list[Generation]]]:
        """The position and the generations of each slice, in the order in which slices finish.

        Raises EngineError at the end if a slice failed; the other slices count.
        """
        ...


def stream(
    engine: Engine, model: Path, slices: Sequence[Sequence[Request]], sampling: Sampling
) -> Iterator[tuple[int, list[Generation]]]:
    """The slices as `engine` streams them, or one after the other if it cannot stream."""
    found = (
        engine.stream(model, slices, sampling)
        if isinstance(engine, StreamingEngine)
        else ((place, engine.generate(model, requests, sampling)) for place, requests in enumerate(slices))
    )
    for place, generations in found:
        yield place, [_ended(generation) for generation in generations]


def _ended(generation: Generation) -> Generation:
    """With the finish of its answer: a text that never came out of its thinking has none."""
    if generation.finish != "stop":
        return generation
    if is_open(generation.text):
        return replace(generation, finish="length")
    return generation if spoken(generation.text) or not generation.text else replace(generation, finish="empty")


def generate_all(engine: Engine, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
    """One generation per request, in order, slice by slice."""
    size = engine.batch_size
    slices = [requests[i : i + size] for i in range(0, len(requests), size)]
    come = dict(stream(engine, model, slices, sampling))
    return [generation for place in range(len(slices)) for generation in come[place]]


class Trainer(Protocol):
    def key(self) -> str:
        """A hash of the settings that change the trained model."""
        ...

    def tokens(self, base: Path, examples: Sequence[Example]) -> int:
        """The number of tokens in one epoch of `examples` for the model at `base`."""
        ...

    def train(
        self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, seed: int, progress: Progress
    ) -> dict[str, float]:
        """Fine-tunes the model at `base` and writes a plain transformers folder, or an adapter's, to `output`.

        `work` is a folder for checkpoints; it survives a kill. Returns figures such as loss and
        tokens. Raises TrainingError if the result must not be kept.
        """
        ...
