"""The numbers of a run, against values worked out by hand or taken from the literature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs import MODEL, open_run
from selfevo.engines.scripted import ScriptedEngine
from selfevo.evaluation.evaluate import Outcome, audit, extractors, measure, summary
from selfevo.evaluation.statistics import bonett_price, compare, mcnemar_exact, wilson
from selfevo.method.prompts import Verdict
from selfevo.method.protocols import Generation, Model, Sampling
from selfevo.method.records import Judged, Prompt
from selfevo.report.progress import Silent
from selfevo.rundir.workspace import Workspace
from selfevo.tasks.base import Problem
from selfevo.tasks.scripted import ScriptedTask
from selfevo.trainers.scripted import ScriptedTrainer

YES, NO, UNKNOWN = Verdict.QUALIFIED, Verdict.NOT_QUALIFIED, Verdict.UNKNOWN


TASK = ScriptedTask({})  # a response is right if it is the answer; measuring draws no problems


def problem(text: str, answer: str = "right", kind: str = "kind") -> Problem:
    return Problem(Prompt.of(text), answer, kind)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, table I, method 3, to four places.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # By hand: z^2 = 3.841459; p = 0.5, n = 10: 0.5 -+ 1.959964 * sqrt(0.025 + 0.00960365) / 1.3841459.
        (5, 10, 0.2366, 0.7634),
        (20, 20, 0.8389, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_a_mirrored_interval_around_the_share(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1
    assert low < high
    mirrored = wilson(n - successes, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (6, 0, 2 / 64),
        (0, 6, 2 / 64),
        (9, 1, 2 * (1 + 10) / 1024),
        (3, 8, 2 * (1 + 11 + 55 + 165) / 2048),
        (2, 3, 1.0),
    ],
)
def test_mcnemar_is_a_fair_coin_over_the_discordant_pairs(gained: int, lost: int, p: float) -> None:
    assert mcnemar_exact(gained, lost) == pytest.approx(p)


def test_mcnemar_stands_large_counts() -> None:
    assert mcnemar_exact(3000, 1000) < 1e-200
    assert not math.isnan(mcnemar_exact(3000, 3000))


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


def test_results_are_split_by_difficulty_in_natural_order() -> None:
    def at(difficulty: str, right: bool) -> Outcome:
        return replace(outcome(YES, right, right), problem=Problem(Prompt.of("p"), "", "kind", difficulty))

    numbers = summary([at("10 steps", False), at("2 steps", True), at("2 steps", False), at("", True)])["by_difficulty"]
    assert {name: rates["direct"]["accuracy"] for name, rates in numbers.items()} == {"2 steps": 0.5, "10 steps": 0.0}
    assert list(numbers) == ["2 steps", "10 steps"]
    assert summary(OUTCOMES)["by_difficulty"] == {}


def test_summary_counts_every_problem_once() -> None:
    numbers = summary(OUTCOMES)
    assert (numbers["direct"]["n"], numbers["direct"]["correct"]) == (14, 7)
    assert numbers["direct"]["accuracy"] == 0.5
    assert numbers["direct"]["ci"] == pytest.approx(wilson(7, 14))
    assert (numbers["refined"]["n"], numbers["refined"]["correct"]) == (14, 8)
    assert numbers["transitions"] == {"right_right": 5, "right_wrong": 2, "wrong_right": 3, "wrong_wrong": 4}
    assert {kind: rates["direct"]["n"] for kind, rates in numbers["by_kind"].items()} == {"a": 5, "b": 9}
    assert numbers["by_kind"]["b"]["refined"]["correct"] == 4


def test_a_verdict_that_cannot_be_read_is_neither_a_yes_nor_a_no() -> None:
    verdict = summary(OUTCOMES)["verdict"]
    assert verdict["precision"] == pytest.approx(4 / 5)
    assert verdict["precision_ci"] == pytest.approx(wilson(4, 5))
    assert verdict["recall"] == pytest.approx(4 / 7)
    assert (verdict["qualified"], verdict["unparsed"]) == (5, 3)


def test_a_share_of_nothing_is_not_a_number() -> None:
    verdict = summary([outcome(NO, False, False)])["verdict"]
    assert verdict["precision"] is None
    assert verdict["precision_ci"] == [0.0, 1.0]
    assert verdict["recall"] is None


def test_compare_pairs_the_problems() -> None:
    a = [True, True, False, True, False, True]
    b = [True, False, True, False, False, False]
    assert compare("a", a, "b", b, "direct") == {
        "a": "a",
        "b": "b",
        "mode": "direct",
        "difference": pytest.approx(2 / 6),
        # 4/8 - 2/8 -+ 1.959964 * sqrt((4/8 + 2/8 - (2/8)^2) / 8)
        "ci": [pytest.approx(0.25 - 0.574574, abs=1e-5), pytest.approx(0.25 + 0.574574, abs=1e-5)],
        "gained": 3,
        "lost": 1,
        "p_value": pytest.approx(2 * (1 + 4) / 16),
    }
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        compare("a", a, "b", b[:-1], "direct")


def test_scores_between_right_and_wrong_are_compared_by_flipping_signs() -> None:
    found = compare("a", [0.6] * 6, "b", [0.5] * 6, "agreement")
    assert found["difference"] == pytest.approx(0.1)
    assert found["ci"] == [pytest.approx(0.1), pytest.approx(0.1)]
    assert found["p_value"] == pytest.approx(2 / 2**6, abs=0.01)  # all six one way or the other
    assert compare("a", [0.5, 0.1], "b", [0.1, 0.5], "agreement")["p_value"] == 1.0
    assert compare("a", [0.5], "b", [0.5], "agreement")["p_value"] == 1.0


def test_bonett_price_by_hand() -> None:
    """Wald's interval with one more pair gained and one more lost, for 10 and 2 of 50."""
    half = 1.959964 * math.sqrt((14 / 52 - (8 / 52) ** 2) / 52)
    assert bonett_price(10, 2, 50) == pytest.approx((8 / 52 - half, 8 / 52 + half))


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_interval_of_a_difference_mirrors(gained: int, lost: int) -> None:
    low, high = bonett_price(gained, lost, 100)
    assert -1 <= low < (gained - lost + 0) / 102 + 1e-9 < high + 1e-9 <= 1 + 1e-9
    assert bonett_price(lost, gained, 100) == pytest.approx((-high, -low))


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
    assert audit(TASK, problems, rows, [True, False, True, False]) == {
        "judged": 4,
        "right": 3,
        "kept": 2,
        "kept_right": 1,
        "precision": 0.5,
        "recall": pytest.approx(1 / 3),
        "response_right": 2,
        "transitions": {"right_right": 1, "right_wrong": 1, "wrong_right": 2, "wrong_wrong": 0},
        "verdicts": {"qualified": [2, 1], "not qualified": [1, 1], "unknown": [1, 1]},
    }
    nothing = audit(TASK, problems, [], [])
    assert (nothing["precision"], nothing["recall"]) == (None, None)


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
    assert extractors(outcomes) == {"agreement": 0.6, "declared": 0.6, "strict": 0.4, "flexible": 0.4, "ours": 0.6}
    [vague] = [Outcome(problem, "3 it is. The answer is clear", "", "", Verdict.UNKNOWN, True, True)]
    found = extractors([vague])
    assert found is not None
    assert (found["declared"], found["strict"], found["flexible"]) == (0.0, 0.0, 1.0)
    words = Problem(Prompt.of("say yes"), "yes", "word")
    assert extractors([Outcome(words, "yes", "", "yes", Verdict.UNKNOWN, True, True)]) is None


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
    figures = summary([outcome])
    assert (figures["consistency"]["accuracy"], figures["both"]["accuracy"]) == (float(voted), float(both))
    assert summary([replace(outcome, right_voted=None, right_both=None)])["both"] is None
