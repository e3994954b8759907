"""SELF: self-evolution with language feedback (arXiv 2310.00533). This page is the method.

Meta-skill learning: the base model is fine-tuned on D_meta and learns to criticise an answer and to
refine it. Self-evolution: on prompts without labels the model answers (r), criticises its answer
(f), refines it (r^) and judges the refinement (v). Rows that it does not judge qualified are
dropped. The model is fine-tuned on the rest. This repeats for several rounds.

Nothing here can see a gold answer: rows have no field for one, and no import holds one. An
`Observer` is told of each new model and of each round's rows. It may know the answers and measure
with them. It returns only whether to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

from selfevo.method.filters import Filter
from selfevo.method.names import META, round_name
from selfevo.method.prompts import Wording
from selfevo.method.protocols import Model
from selfevo.method.records import Critiqued, Example, Judged, Prompt, Refined, extended
from selfevo.method.rows import Mapped, Rows
from selfevo.method.skills import CRITIQUE, JUDGE, REFINE, RESPOND, Skill
from selfevo.method.training_examples import meta_examples, self_examples

Policy = Literal["restart", "continual-mixed", "continual-latest"]
In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


class StageRunner(Protocol):
    """Runs the stages of one model. Every row is on disk; a row that stops has a reason."""

    def generate(self, skill: Skill[In, Out], rows: Rows[In]) -> Rows[Out]: ...

    def filter(self, rows: Rows[Judged], filters: Sequence[Filter]) -> Rows[Judged]: ...


class Workspace(Protocol):
    """Runs stages and trains models, each once, even if the run is killed in between."""

    @property
    def wording(self) -> Wording:
        """The words that the models are asked with, and learn."""
        ...

    def runner(self, name: str, model: Model) -> StageRunner: ...

    def train(self, name: str, start: Model, examples: Sequence[Example]) -> Model: ...


class Observer(Protocol):
    """Measures models and monitors rounds. It may end the rounds."""

    def measure(self, model: Model) -> bool:
        """Called with each new model. False ends the rounds."""
        ...

    def monitor(self, name: str) -> bool:
        """Called when the rows of a round are filtered. False ends the rounds before training."""
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

    Without D_meta, `base` is M_0: it has the meta-skills already. A pool is called with the current
    model, because the model may write the prompts itself. `learn` turns the kept rows into training
    examples. `learn` and `refine` are for ablations.
    """
    lessons = meta_examples(d_meta, beta, workspace.wording)  # L_meta
    model = workspace.train(META, base, lessons) if lessons else base  # M_0
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
    """Takes prompts through all skills of the model. Without `refine`, r is used as r^."""
    drafted = runner.generate(RESPOND, prompts)  # r  ~ M(p)
    critiqued = runner.generate(CRITIQUE, drafted)  # f  ~ M(p, r)
    refined = runner.generate(REFINE, critiqued) if refine else Mapped(critiqued, _unrefined)  # r^ ~ M(p, r, f)
    return runner.generate(JUDGE, refined)  # v  ~ M(p, r^)


def _unrefined(row: Critiqued) -> Refined:
    return extended(Refined, row, row.response)
