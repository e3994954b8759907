"""What a model is measured by, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from runs import MODEL, open_run
from selfevo.engines.scripted import ScriptedEngine
from selfevo.evaluation.evaluate import Outcome, audit, extract, group, measure, summarise_outcomes
from selfevo.method.protocols import Generation, Model, Sampling
from selfevo.method.records import Judged, Prompt
from selfevo.method.verdicts import Verdict
from selfevo.report.progress import Silent
from selfevo.rundir.results import Extractors, ModelResults, Results, Verdicts
from selfevo.rundir.scores import Transitions
from selfevo.rundir.workspace import Workspace
from selfevo.statistics import Rate, wilson
from selfevo.tasks.base import Problem
from selfevo.tasks.scripted import ScriptedTask
from selfevo.trainers.scripted import ScriptedTrainer

YES, NO, UNKNOWN = Verdict.QUALIFIED, Verdict.NOT_QUALIFIED, Verdict.UNKNOWN


TASK = ScriptedTask({})  # a response is right if it is the answer; measuring draws no problems


def problem(text: str, answer: str = "right", kind: str = "kind") -> Problem:
    return Problem(Prompt.of(text), answer, kind)


def outcome(verdict: Verdict, right: bool, refined: bool, kind: str = "kind") -> Outcome:
    return Outcome(problem(f"{verdict} {right} {refined} {kind}", kind=kind), "", "", "", verdict, right, refined)


OUTCOMES = [
    *[outcome(YES, True, True, "a")] * 4,  # said yes, rightly
    *[outcome(YES, False, False, "a")] * 1,  # said yes, wrongly
    *[outcome(NO, False, True, "b")] * 3,  # mended
    *[outcome(NO, True, False, "b")] * 2,  # spoilt
    *[outcome(NO, False, False, "b")] * 1,
    *[outcome(UNKNOWN, True, True, "b")] * 1,
    *[outcome(UNKNOWN, False, False, "b")] * 2,
]


def test_problems_are_grouped_in_natural_order() -> None:
    def at(difficulty: str) -> Outcome:
        return replace(outcome(YES, True, True), problem=Problem(Prompt.of("p"), "", "kind", difficulty))

    groups = group([at("10 steps").problem, at("2 steps").problem, at("2 steps").problem, at("").problem])
    assert groups == {"kind": {"kind": "1111"}, "difficulty": {"2 steps": "0110", "10 steps": "1000"}}
    assert list(groups["difficulty"]) == ["2 steps", "10 steps"]
    assert group([o.problem for o in OUTCOMES]).keys() == {"kind"}
    assert group([]) == {}


def counted(outcomes: Sequence[Outcome]) -> ModelResults:
    return summarise_outcomes("m", outcomes, 1.25)


def test_every_problem_is_counted_once() -> None:
    model = counted(OUTCOMES)
    assert (model.name, model.seconds) == ("m", 1.2)
    assert model.answers == {"direct": "11110000110100", "refined": "11110111000100"}
    assert model.direct == Rate(14, 7)
    assert model.refined == Rate(14, 8)
    assert model.transitions == Transitions(right_right=5, right_wrong=2, wrong_right=3, wrong_wrong=4)
    groups = group([o.problem for o in OUTCOMES])
    results = Results(task="t", seed=0, policy=None, models=(model,), groups=groups, seconds=1)
    assert {kind: rate.n for kind, rate in results.rates("kind", model, "direct").items()} == {"a": 5, "b": 9}
    assert results.rates("kind", model, "refined")["b"].correct == 4


def test_a_verdict_that_cannot_be_read_is_neither_a_yes_nor_a_no() -> None:
    model = counted(OUTCOMES)
    assert model.verdicts == Verdicts(qualified=5, qualified_right=4, unparsed=3)
    assert model.verdicts.precision == pytest.approx(4 / 5)
    assert model.verdicts.precision_ci == pytest.approx(wilson(4, 5))
    assert model.recall == pytest.approx(4 / 7)


def test_a_share_of_nothing_is_not_a_number() -> None:
    model = counted([outcome(NO, False, False)])
    assert (model.verdicts.precision, model.verdicts.precision_ci, model.recall) == (None, (0.0, 1.0), None)


def test_audit_of_a_filter() -> None:
    problems = {p.prompt.id: p for p in (problem("1"), problem("2"), problem("3"), problem("4"))}

    def judged(text: str, response: str, refinement: str) -> Judged:
        return Judged("any", text, response, "f", refinement, verdicts[text])

    verdicts = {"1": "Verdict: qualified", "2": "Verdict: not qualified", "3": "Verdict: qualified", "4": "v"}

    rows = [
        judged("1", "right", "right"),
        judged("2", "wrong", "right"),
        judged("3", "right", "wrong"),
        judged("4", "wrong", "right"),
    ]
    found = audit(TASK, problems, rows, [True, False, True, False])
    assert (found.judged, found.response_right, found.right, found.kept, found.kept_right) == (4, 2, 3, 2, 1)
    assert (found.precision, found.recall) == (0.5, 1 / 3)
    assert found.transitions == Transitions(right_right=1, right_wrong=1, wrong_right=2, wrong_wrong=0)
    assert found.verdicts == {YES: (2, 1), NO: (1, 1), UNKNOWN: (1, 1)}
    nothing = audit(TASK, problems, [], [])
    assert (nothing.precision, nothing.recall) == (None, None)


def measured(folder: Path, problems: Sequence[Problem], script: dict[tuple[str, int], str | Generation]) -> object:
    """`script` says what the model writes, by prompt and number of turns."""
    engine = ScriptedEngine(lambda model, turns: script[turns[0], len(turns)])
    limits = {name: Sampling(8) for name in ("respond", "critique", "refine")}
    run = Workspace(folder, engine, lambda name: ScriptedTrainer(), limits, 0, Silent())
    outcomes = measure(run.runner("evaluate", Model("m", folder, "w")), TASK, problems)
    asked = {(request.turns[0], len(request.turns)) for _, request in engine.calls}
    assert asked == script.keys(), "nothing else is asked"
    return [(o.right, o.right_refined, o.verdict, o.refined) for o in outcomes]


def cut(text: str) -> Generation:
    return Generation(text, "length", 1, 8)


def test_only_a_no_is_refined(tmp_path: Path) -> None:
    script: dict[tuple[str, int], str | Generation] = {
        ("yes", 1): "right",
        ("yes", 3): "Verdict: qualified",
        ("no", 1): "wrong",
        ("no", 3): "Verdict: not qualified",
        ("no", 5): "right",
        ("spoilt", 1): "right",
        ("spoilt", 3): "Verdict: not qualified",
        ("spoilt", 5): "wrong",
        ("mumble", 1): "right",
        ("mumble", 3): "Who knows.",
    }
    assert measured(tmp_path, [problem(t) for t in ("yes", "no", "spoilt", "mumble")], script) == [
        (True, True, YES, "right"),
        (False, True, NO, "right"),
        (True, False, NO, "wrong"),
        (True, True, UNKNOWN, "right"),
    ]


def test_what_is_cut_off_is_wrong_at_every_step(tmp_path: Path) -> None:
    script: dict[tuple[str, int], str | Generation] = {
        ("answer", 1): cut("right"),  # what stands there would be right
        ("overlong", 1): Generation("", "overlong", 900, 0),
        ("empty", 1): Generation("", "empty", 1, 1),
        ("feedback", 1): "right",
        ("feedback", 3): cut("Verdict: not qualified"),
        ("refinement", 1): "right",
        ("refinement", 3): "Verdict: not qualified",
        ("refinement", 5): cut("right"),
    }
    names = ("answer", "overlong", "empty", "feedback", "refinement")
    assert measured(tmp_path, [problem(t) for t in names], script) == [
        (False, False, UNKNOWN, "right"),
        (False, False, UNKNOWN, ""),
        (False, False, UNKNOWN, ""),
        (True, True, UNKNOWN, "right"),
        (True, True, NO, "right"),  # a refinement that did not come keeps r
    ]


def test_an_empty_answer_that_would_be_right_is_wrong_when_quarantined(tmp_path: Path) -> None:
    script: dict[tuple[str, int], str | Generation] = {("p", 1): Generation("", "empty", 1, 1)}
    assert measured(tmp_path, [problem("p", answer="")], script) == [(False, False, UNKNOWN, "")]


def test_extractors_agree_or_are_told_apart() -> None:
    texts = ["The answer is 3. I had 5 before.", "#### 3", "so 3", "#### 4", "nothing, my answer is none"]
    problem = Problem(Prompt.of("1 + 2"), "3", "sum")
    outcomes = [Outcome(problem, text, "", text, Verdict.UNKNOWN, i < 3, i < 3) for i, text in enumerate(texts)]
    assert extract(outcomes) == Extractors(agree=3, declared=3, strict=2, flexible=2)
    [vague] = [Outcome(problem, "3 it is. The answer is clear", "", "", Verdict.UNKNOWN, True, True)]
    assert extract([vague]) == Extractors(agree=0, declared=0, strict=0, flexible=1)
    words = Problem(Prompt.of("say yes"), "yes", "word")
    assert extract([Outcome(words, "yes", "", "yes", Verdict.UNKNOWN, True, True)]) is None


class Repeating:
    """Samples of a problem in turn."""

    def __init__(self, texts: list[str | Generation]) -> None:
        self.texts, self.calls = texts, 0

    def __call__(self, path: Path, turns: tuple[str, ...]) -> str | Generation:
        if len(turns) == 3:
            return f"Verdict: {'qualified' if '3' in turns[1] else 'not qualified'}"
        if len(turns) == 5:
            return "#### 3"
        self.calls += 1
        return self.texts[self.calls - 1]


@pytest.mark.parametrize(
    ("samples", "voted", "both"),
    [
        (["#### 3", "#### 4", "#### 3"], True, True),
        (["#### 4", "#### 4", "#### 3"], False, True),
        # One that was cut neither votes nor is elected.
        ([Generation("#### 3, and", "length", 1, 1), "#### 3", "#### 4"], True, True),
        ([Generation("#### 4, and", "length", 1, 1), "#### 4", "#### 3"], True, True),
    ],
)
def test_samples_vote_before_and_after_refinement(
    tmp_path: Path, samples: list[str | Generation], voted: bool, both: bool
) -> None:
    problem = Problem(Prompt.of("1 + 2"), "#### 3", "sum")
    engine = ScriptedEngine(Repeating(["#### 9", *samples]))
    runner = open_run(tmp_path, engine).runner("evaluate-x", MODEL)
    [outcome] = measure(runner, TASK, [problem], consistency=3)
    assert (outcome.right, outcome.right_refined, outcome.right_voted, outcome.right_both) == (False, True, voted, both)
    model = counted([outcome])
    assert (model.rate("consistency"), model.rate("both")) == (Rate(1, voted), Rate(1, both))
    assert counted([replace(outcome, right_voted=None, right_both=None)]).rate("both") is None
