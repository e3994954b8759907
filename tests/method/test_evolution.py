"""The method itself, played through in memory: what each model is trained from, on what, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from selfevo.method.evolution import Policy, evolve
from selfevo.method.filters import ByVerdict, Filter, KeepAll, apply
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Generation, Model
from selfevo.method.records import Example, Judged, Prompt, Refined
from selfevo.method.rows import Rows
from selfevo.method.skills import Skill


def given(pool: Sequence[Prompt]) -> Callable[[Model], Sequence[Prompt]]:
    return lambda model: pool


BY_VERDICT = ByVerdict()
BASE = Model("base", Path("base"), "w0")
D_META = [Refined("m1", "q1", "r", "f", "s"), Refined("m2", "q2", "r", "f", "s")]
POOLS = [[Prompt.of("good a"), Prompt.of("bad b")], [Prompt.of("good c"), Prompt.of("mute d")], [Prompt.of("good e")]]


@dataclass
class Workspace:
    """Rooms and models in memory. `log` is everything that happened, in order."""

    log: list[str] = field(default_factory=list)
    trained: dict[str, tuple[str, list[Example]]] = field(default_factory=dict)
    wording: Wording = ENGLISH

    def runner(self, name: str, model: Model) -> StageRunner:
        self.log.append(f"runner {name} of {model.name}")
        return StageRunner(self, model.name)

    def train(self, name: str, start: Model, examples: Sequence[Example]) -> Model:
        self.log.append(f"train {name} from {start.name}")
        self.trained[name] = (start.name, list(examples))
        return Model(name, Path(name), f"w-{name}")


@dataclass
class Observer:
    workspace: Workspace
    stop: str = ""

    def measure(self, model: Model) -> bool:
        self.workspace.log.append(f"observe {model.name}")
        return model.name != self.stop

    def monitor(self, name: str) -> bool:
        self.workspace.log.append(f"rows of {name}")
        return f"rows of {name}" != self.stop


@dataclass
class StageRunner:
    """A prompt that begins with "bad" is judged not qualified; one that begins with "mute" gets no critique."""

    workspace: Workspace
    model: str
    wording: Wording = ENGLISH

    def generate(self, skill: Skill[Any, Any], rows: Rows[Any]) -> list[Any]:
        self.workspace.log.append(f"{skill.name} {len(rows)}")
        return [
            skill.build(row, self._answer(skill.name, row))
            for row in rows
            if not (skill.name == "critique" and row.prompt.startswith("mute"))
        ]

    def sample(self, skill: Skill[Any, Any], rows: Rows[Any], times: int, temperature: float) -> list[list[Generation]]:
        raise AssertionError("no filter of these tests asks the model again")

    def filter(self, rows: Rows[Judged], filters: Sequence[Filter]) -> list[Judged]:
        self.workspace.log.append(f"keep {len(rows)}")
        reason = apply(filters, self, rows)
        return [row for row in rows if reason(row) is None]

    def _answer(self, skill: str, row: Prompt) -> str:
        if skill == "judge":
            return "Verdict: not qualified" if row.prompt.startswith("bad") else "Verdict: qualified"
        return f"{skill} by {self.model}"


def play(
    policy: Policy,
    *,
    beta: float = 1.0,
    filter: Filter = BY_VERDICT,
    stop: str = "",
    refine: bool = True,
    d_meta: Sequence[Refined] = D_META,
) -> tuple[Workspace, Model]:
    workspace = Workspace()
    last = evolve(
        workspace,
        BASE,
        d_meta,
        [given(pool) for pool in POOLS],
        beta=beta,
        policy=policy,
        filters=[filter],
        observer=Observer(workspace, stop),
        refine=refine,
    )
    return workspace, last


def learnt(examples: Sequence[Example]) -> list[str]:
    """Prompts of the examples in short: L_meta's end in their term."""
    return [e.turns[0] if e.term == "self" else f"{e.turns[0]} {e.term}" for e in examples]


META = ["q1 skills", "q2 skills", "q1 answer", "q2 answer"]


@pytest.mark.parametrize(
    ("policy", "starts", "lessons"),
    [
        (
            "restart",
            ["base", "base", "base"],
            [[*META, "good a"], [*META, "good a", "good c"], [*META, "good a", "good c", "good e"]],
        ),
        (
            "continual-mixed",
            ["meta", "round-1", "round-2"],
            [[*META, "good a"], [*META, "good a", "good c"], [*META, "good a", "good c", "good e"]],
        ),
        ("continual-latest", ["meta", "round-1", "round-2"], [["good a"], ["good c"], ["good e"]]),
    ],
)
def test_each_policy_starts_from_its_model_with_its_lessons(
    policy: Policy, starts: list[str], lessons: list[list[str]]
) -> None:
    workspace, last = play(policy)
    assert [workspace.trained[f"round-{t}"][0] for t in (1, 2, 3)] == starts
    assert [learnt(workspace.trained[f"round-{t}"][1]) for t in (1, 2, 3)] == lessons
    assert workspace.trained["meta"][0] == "base"
    assert learnt(workspace.trained["meta"][1]) == META
    assert last.name == "round-3"


def test_without_d_meta_the_base_is_the_first_model_and_rounds_learn_from_their_rows_alone() -> None:
    workspace, last = play("restart", d_meta=[])
    assert workspace.log[:2] == ["observe base", "runner round-1 of base"]
    assert "meta" not in workspace.trained
    assert [workspace.trained[f"round-{t}"][0] for t in (1, 2, 3)] == ["base", "base", "base"]
    assert learnt(workspace.trained["round-2"][1]) == ["good a", "good c"]
    assert last.name == "round-3"


@pytest.mark.parametrize("policy", ["restart", "continual-mixed", "continual-latest"])
def test_a_round_answers_criticises_refines_judges_filters_trains_and_is_observed(policy: Policy) -> None:
    workspace, _ = play(policy)
    start = {"restart": "base"}.get(policy)
    assert workspace.log == [
        "train meta from base",
        "observe meta",
        *("runner round-1 of meta", "respond 2", "critique 2", "refine 2", "judge 2", "keep 2", "rows of round-1"),
        *(f"train round-1 from {start or 'meta'}", "observe round-1"),
        # A row that is quarantined on the way does not go on.
        *("runner round-2 of round-1", "respond 2", "critique 2", "refine 1", "judge 1", "keep 1", "rows of round-2"),
        *(f"train round-2 from {start or 'round-1'}", "observe round-2"),
        *("runner round-3 of round-2", "respond 1", "critique 1", "refine 1", "judge 1", "keep 1", "rows of round-3"),
        *(f"train round-3 from {start or 'round-2'}", "observe round-3"),
    ]


def test_a_round_trains_on_what_the_latest_model_wrote() -> None:
    workspace, _ = play("restart")
    answers = {e.turns[0]: e.turns[1] for e in workspace.trained["round-3"][1] if e.term == "self"}
    assert answers == {
        "good a": "refine by meta",
        "good c": "refine by round-1",
        "good e": "refine by round-2",
    }


def test_without_a_filter_rejected_rows_are_trained_on_and_quarantined_ones_are_not() -> None:
    workspace, _ = play("continual-latest", filter=KeepAll())
    assert learnt(workspace.trained["round-1"][1]) == ["good a", "bad b"]
    assert learnt(workspace.trained["round-2"][1]) == ["good c"]


def test_beta_reaches_the_answer_term_of_every_training() -> None:
    workspace, _ = play("restart", beta=0.25)
    for name in ("meta", "round-1", "round-2", "round-3"):
        assert {e.weights for e in workspace.trained[name][1] if e.term == "answer"} == {(0.25,)}


def test_without_pools_only_the_meta_skills_are_learnt() -> None:
    workspace = Workspace()
    last = evolve(
        workspace, BASE, D_META, [], beta=1, policy="restart", filters=[BY_VERDICT], observer=Observer(workspace)
    )
    assert last.name == "meta"
    assert workspace.log == ["train meta from base", "observe meta"]


def test_whoever_watches_may_end_the_rounds_after_a_model() -> None:
    workspace, last = play("restart", stop="round-1")
    assert last.name == "round-1"
    assert workspace.log[-1] == "observe round-1"
    assert "round-2" not in workspace.trained


def test_whoever_watches_may_end_the_rounds_before_rows_are_trained_on() -> None:
    workspace, last = play("restart", stop="rows of round-2")
    assert last.name == "round-1"
    assert workspace.log[-1] == "rows of round-2"
    assert "round-2" not in workspace.trained


def test_without_refinement_the_first_response_is_judged_and_trained_on() -> None:
    workspace, _ = play("restart", refine=False)
    assert not any(line.startswith("refine") for line in workspace.log)
    assert [e.turns[1] for e in workspace.trained["round-1"][1] if e.term == "self"] == ["respond by meta"]
