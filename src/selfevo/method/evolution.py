"""SELF: self-evolution with language feedback (arXiv 2310.00533). This page is the method.

Meta-skill learning: the base model is fine-tuned on D_meta and learns to criticise an answer and to refine it.
Self-evolution: on prompts without labels the model answers (r), criticises itself (f), refines (r^) and judges its
refinement (v). What it does not judge qualified is dropped. It is fine-tuned on the rest, round after round.

Nothing here can see a gold answer: rows have no such field, and nothing imported here holds one. An `Observer` is told
of each new model and of each round's rows, so that whoever holds the answers can measure them. All that comes back is
whether to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from selfevo.method.names import META, round_name
from selfevo.method.protocols import Model
from selfevo.method.records import Critiqued, Example, Judged, Prompt, Refined, extended
from selfevo.method.rows import Mapped, Rows
from selfevo.method.skills import CRITIQUE, JUDGE, REFINE, RESPOND, Skill
from selfevo.method.training_examples import meta_examples, self_examples

if TYPE_CHECKING:  # filters are checked settings too, and importing selfevo should not wait for pydantic
    from selfevo.method.filters import Filter

Policy = Literal["restart", "continual-mixed", "continual-latest"]
In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


class StageRunner(Protocol):
    """Takes rows through one stage after the other with one model. Every row is on disk, with a reason if it stops."""

    def generate(self, skill: Skill[In, Out], rows: Rows[In]) -> Rows[Out]: ...

    def filter(self, rows: Rows[Judged], filters: Sequence[Filter]) -> Rows[Judged]: ...


class Workspace(Protocol):
    """Where stages run and models are trained, each once, whatever is killed in between."""

    def runner(self, name: str, model: Model) -> StageRunner: ...

    def train(self, name: str, start: Model, examples: Sequence[Example]) -> Model: ...


class Observer(Protocol):
    """Looks on, and may end the rounds."""

    def measure(self, model: Model) -> bool:
        """Told of each model as it is made; False ends the rounds."""
        ...

    def monitor(self, name: str) -> bool:
        """Told of each round when its rows are filtered; False ends the rounds before they are trained on."""
        ...


def evolve(
    workspace: Workspace,
    base: Model,
    d_meta: Sequence[Refined],
    pools: Sequence[Callable[[Model], Rows[Prompt]]],
    *,
    beta: float,
    policy: Policy,
    filters: Sequence[Filter],
    observer: Observer,
    refine: bool = True,
    learn: Callable[[Rows[Judged]], list[Example]] = self_examples,
) -> Model:
    """Teaches the meta-skills, then runs one round per pool of unlabelled prompts; returns the last model.

    A pool is called with the current model, which may write the prompts itself. `learn` makes training examples of the
    rows that were kept; it and `refine` are for ablations.
    """
    lessons = meta_examples(d_meta, beta)  # L_meta
    model = workspace.train(META, base, lessons)  # M_0
    evolved: list[Example] = []
    for t, pool in enumerate(pools, start=1):
        if not observer.measure(model):
            return model
        prompts = pool(model)
        name = round_name(t)
        runner = workspace.runner(name, model)
        latest = learn(runner.filter(trajectories(runner, prompts, refine), filters))  # D_self^t
        if not observer.monitor(name):
            return model
        evolved += latest
        match policy:
            case "restart":
                model = workspace.train(name, base, lessons + evolved)
            case "continual-mixed":
                model = workspace.train(name, model, lessons + evolved)
            case "continual-latest":
                model = workspace.train(name, model, latest)
    observer.measure(model)
    return model


def trajectories(runner: StageRunner, prompts: Rows[Prompt], refine: bool = True) -> Rows[Judged]:
    """What the model makes of prompts by itself. Without `refine`, r takes the place of r^."""
    drafted = runner.generate(RESPOND, prompts)  # r  ~ M(p)
    critiqued = runner.generate(CRITIQUE, drafted)  # f  ~ M(p, r)
    refined = runner.generate(REFINE, critiqued) if refine else Mapped(critiqued, _unrefined)  # r^ ~ M(p, r, f)
    return runner.generate(JUDGE, refined)  # v  ~ M(p, r^)


def _unrefined(row: Critiqued) -> Refined:
    return extended(Refined, row, row.response)
