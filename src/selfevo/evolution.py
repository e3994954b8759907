"""SELF: self-evolution with language feedback (arXiv 2310.00533). This page is the method.

Stage 1, meta-skills: the base model is fine-tuned on D_meta and learns to criticise an answer and to refine it.
Stage 2, evolution: on prompts without labels the model answers (r), criticises itself (f), refines (r^) and judges its
refinement (v); what it does not judge qualified is dropped, and it is fine-tuned on the rest, round after round.

Nothing here can see a gold answer: rows have no such field and nothing imported here holds one. `observe` is told of
each new model, so that whoever holds the answers may measure it; what it finds does not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

from selfevo.examples import meta_examples, self_examples
from selfevo.filters import Filter
from selfevo.protocols import Model
from selfevo.records import Example, Judged, Prompt, Refined
from selfevo.skills import CRITIQUE, JUDGE, REFINE, RESPOND, Skill
from selfevo.stage import Rows

Policy = Literal["restart", "continual-mixed", "continual-latest"]
In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


class Room(Protocol):
    """Where one model works through rows; every row is on disk, with its reason if it does not go on."""

    def rows(self, skill: Skill[In, Out], rows: Rows[In]) -> Rows[Out]: ...

    def keep(self, rows: Rows[Judged], filter: Filter) -> Rows[Judged]: ...


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
    filter: Filter,
    observe: Callable[[Model], None],
) -> Model:
    """Runs stage 1 and one round of stage 2 per pool of unlabelled prompts; returns the last model.

    A pool is asked for with the model at hand, which may write the prompts itself.
    """
    lessons = meta_examples(d_meta, beta)  # L_meta
    model = work.model("meta", base, lessons)  # M_0
    observe(model)
    evolved: list[Example] = []
    for t, pool in enumerate(pools, start=1):
        prompts = pool(model)
        room = work.room(f"round-{t}", model)
        drafted = room.rows(RESPOND, prompts)  # r  ~ M(p)
        critiqued = room.rows(CRITIQUE, drafted)  # f  ~ M(p, r)
        refined = room.rows(REFINE, critiqued)  # r^ ~ M(p, r, f)
        judged = room.rows(JUDGE, refined)  # v  ~ M(p, r^)
        latest = self_examples(room.keep(judged, filter))  # D_self^t
        evolved += latest
        match policy:
            case "restart":
                model = work.model(f"round-{t}", base, lessons + evolved)
            case "continual-mixed":
                model = work.model(f"round-{t}", model, lessons + evolved)
            case "continual-latest":
                model = work.model(f"round-{t}", model, latest)
        observe(model)
    return model
