"""SELF: self-evolution with language feedback (arXiv 2310.00533). This page is the method.

Stage 1, meta-skills: the base model is fine-tuned on D_meta and learns to criticise an answer and to refine it.
Stage 2, evolution: on prompts without labels the model answers (r), criticises itself (f), refines (r^) and judges its
refinement (v); what it does not judge qualified is dropped, and it is fine-tuned on the rest, round after round.

Nothing here can see a gold answer: rows have no such field and nothing imported here holds one. A `Watch` is told of
each new model and of each round's rows, so that whoever holds the answers may measure them; all that comes back is
whether to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from selfevo.examples import meta_examples, self_examples
from selfevo.protocols import Model
from selfevo.records import Critiqued, Example, Judged, Prompt, Refined
from selfevo.skills import CRITIQUE, JUDGE, REFINE, RESPOND, Skill
from selfevo.stage import Mapped, Rows

if TYPE_CHECKING:  # filters are checked settings too, and importing selfevo should not wait for pydantic
    from selfevo.filters import Filter

Policy = Literal["restart", "continual-mixed", "continual-latest"]
In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


class Room(Protocol):
    """Where one model works through rows; every row is on disk, with its reason if it does not go on."""

    def rows(self, skill: Skill[In, Out], rows: Rows[In]) -> Rows[Out]: ...

    def keep(self, rows: Rows[Judged], filters: Sequence[Filter]) -> Rows[Judged]: ...


class Watch(Protocol):
    """Looks on, and may end the rounds."""

    def model(self, model: Model) -> bool:
        """Told of each model as it is made; False ends the rounds."""
        ...

    def rows(self, name: str) -> bool:
        """Told of each round when its rows are filtered; False ends the rounds before they are trained on."""
        ...


class Workshop(Protocol):
    """Where rounds take place and models are made, each once, whatever is killed in between."""

    def room(self, name: str, model: Model) -> Room: ...

    def model(self, name: str, start: Model, examples: Sequence[Example]) -> Model: ...


def evolve(
    work: Workshop,
    base: Model,
    d_meta: Sequence[Refined],
    pools: Sequence[Callable[[Model], Rows[Prompt]]],
    *,
    beta: float,
    policy: Policy,
    filters: Sequence[Filter],
    watch: Watch,
    refine: bool = True,
    learn: Callable[[Rows[Judged]], list[Example]] = self_examples,
) -> Model:
    """Runs stage 1 and one round of stage 2 per pool of unlabelled prompts; returns the last model.

    A pool is asked for with the model at hand, which may write the prompts itself. `learn` makes training examples of
    the rows that were kept; it and `refine` are for ablations.
    """
    lessons = meta_examples(d_meta, beta)  # L_meta
    model = work.model("meta", base, lessons)  # M_0
    evolved: list[Example] = []
    for t, pool in enumerate(pools, start=1):
        if not watch.model(model):
            return model
        prompts = pool(model)
        room = work.room(f"round-{t}", model)
        latest = learn(room.keep(trajectories(room, prompts, refine), filters))  # D_self^t
        if not watch.rows(f"round-{t}"):
            return model
        evolved += latest
        match policy:
            case "restart":
                model = work.model(f"round-{t}", base, lessons + evolved)
            case "continual-mixed":
                model = work.model(f"round-{t}", model, lessons + evolved)
            case "continual-latest":
                model = work.model(f"round-{t}", model, latest)
    watch.model(model)
    return model


def trajectories(room: Room, prompts: Rows[Prompt], refine: bool = True) -> Rows[Judged]:
    """What the model of a room makes of prompts by itself. Without `refine`, r takes the place of r^."""
    drafted = room.rows(RESPOND, prompts)  # r  ~ M(p)
    critiqued = room.rows(CRITIQUE, drafted)  # f  ~ M(p, r)
    refined = room.rows(REFINE, critiqued) if refine else Mapped(critiqued, _as_it_is)  # r^ ~ M(p, r, f)
    return room.rows(JUDGE, refined)  # v  ~ M(p, r^)


def _as_it_is(row: Critiqued) -> Refined:
    return Refined(row.id, row.prompt, row.response, row.feedback, row.response)
