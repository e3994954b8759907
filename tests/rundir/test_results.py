"""The types of results.json and ablation.json: derived figures, old files, and files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfevo.errors import RunError
from selfevo.rundir.ablation import Ablation, AblationRow, Votes, load_ablation
from selfevo.rundir.results import (
    GateResults,
    ModelResults,
    Results,
    Verdicts,
    load_results,
    read_results,
    write_results,
)
from selfevo.rundir.scores import Transitions
from selfevo.statistics import Rate, compare_counts

RECORDED = Path(__file__).parents[2] / "docs" / "results"
WRITTEN = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDED.glob("*.json"))}
RESULTS = [path for path, content in WRITTEN.items() if "models" in content]
ABLATIONS = [path for path, content in WRITTEN.items() if isinstance(content.get("rows"), list)]
VERDICTS = Verdicts(qualified=2, qualified_right=1, unparsed=0)


def model(name: str, direct: str, refined: str | None = None) -> ModelResults:
    return ModelResults(
        name=name, answers={"direct": direct, "refined": refined or direct}, verdicts=VERDICTS, seconds=1
    )


def run(*models: ModelResults, **more: Any) -> Results:
    return Results(**{"task": "demo", "seed": 0, "policy": "restart", "models": models, "seconds": 2, **more})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert read_results(tmp_path) is None
    written = run(model("base", "0110", "0111"), groups={"kind": {"sums": "1100"}})
    write_results(tmp_path, written)
    assert load_results(tmp_path) == load_results(tmp_path / "results.json") == read_results(tmp_path) == written
    assert load_results(str(tmp_path)) == written


def test_the_figures_of_a_model_come_from_its_bits() -> None:
    measured = model("base", "1100", "1010")
    assert (measured.direct, measured.refined, measured.rate("both")) == (Rate(4, 2), Rate(4, 2), None)
    assert measured.transitions == Transitions(right_right=1, right_wrong=1, wrong_right=1, wrong_wrong=1)
    assert (measured.verdicts.precision, measured.recall) == (0.5, 0.5)
    found = run(measured, groups={"kind": {"sums": "1010", "words": "0100"}})
    assert found.rates("kind", measured, "refined") == {"sums": Rate(2, 2), "words": Rate(1, 0)}
    assert found.rates("difficulty", measured, "direct") == {}


def test_results_are_a_table_of_text() -> None:
    silent = model("round-1", "1111").model_copy(
        update={"verdicts": Verdicts(qualified=0, qualified_right=0, unparsed=4)}
    )
    assert run(model("base", "1100", "1110"), silent).table().splitlines() == [
        "model    direct                 refined                verdict precision",
        "base     50.0 (15.0 to 85.0)    75.0 (30.1 to 95.4)    50.0 (9.5 to 90.5)",
        "round-1  100.0 (51.0 to 100.0)  100.0 (51.0 to 100.0)  -",
    ]


def test_no_figure_that_follows_from_others_is_stored(tmp_path: Path) -> None:
    write_results(tmp_path, run(model("meta", "0110"), model("round-1", "0111")))
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    for derived in ("accuracy", "ci", "correct", "transitions", "precision", "recall", "p_value", "comparisons", "in"):
        assert f'"{derived}"' not in text


@pytest.mark.parametrize(
    ("best", "pairs"),
    [
        (None, [("round-2", "sft"), ("round-2", "meta")]),
        ("round-1", [("round-1", "sft"), ("round-1", "meta")]),
        ("meta", [("meta", "sft"), ("round-2", "meta")]),
    ],
)
def test_the_model_that_a_run_is_about_is_compared(best: str | None, pairs: list[tuple[str, str]]) -> None:
    models = [model("sft", "1000"), model("meta", "0100"), model("round-1", "0110"), model("round-2", "0111")]
    gate = GateResults(alpha=0.05, patience=1, best=best, rounds=()) if best else None
    found = run(*models, gate=gate)
    assert found.best is not None and found.best.name == (best or "round-2")
    assert [(c.a, c.b) for c in found.comparisons if c.mode == "direct"] == pairs
    assert [(c.a, c.b) for c in found.comparisons if c.mode == "refined"] == pairs
    last = found.comparisons[-1]
    assert (last.gained, last.lost) == ((2, 0) if best != "round-1" else (1, 0))
    assert run(*models[:2]).comparisons == [], "nothing to say before a round is measured"


def test_rows_of_an_ablation_are_compared_on_the_seeds_that_both_have() -> None:
    def row(name: str, by_seed: dict[int, str], **more: Any) -> AblationRow:
        rest = {"verdicts": VERDICTS, "rounds": (), "rows": None, "audit": None, "cost": None, **more}
        return AblationRow(name=name, answers={"direct": by_seed, "refined": by_seed}, **rest)

    own, other = (
        row("self", {0: "11", 2: "00"}),
        row("dpo", {0: "10", 1: "11"}, votes={"both": Votes(gained=1, lost=0)}),
    )
    found = Ablation(rows=(own, other))
    assert (found.seeds, other.rate("direct"), other.rate("direct", 0)) == ([0, 1, 2], Rate(4, 3), Rate(2, 1))
    pair = found.against_self(other, "direct")
    assert pair is not None and (pair.a, pair.b, pair.gained, pair.lost) == ("dpo", "self", 0, 1)
    assert found.against_self(own, "direct") is None
    assert row("grpo", {7: "1"}).against(own, "direct") is None
    voted = other.voted("both")
    assert voted is not None and voted[0] == Rate(4, 4)
    assert voted[1].p_value == compare_counts(1, 0, 4).p_value
    assert other.voted("consistency") is None


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_recorded_results_load(path: Path) -> None:
    found = load_results(path)
    assert found.models and found.groups["kind"]
    for each in found.models:
        for by, masks in found.groups.items():
            rates = found.rates(by, each, "direct")
            assert sum(rate.n for rate in rates.values()) == each.direct.n, "each problem is in one group"
            assert list(rates) == list(masks)
    if any(each.name.startswith("round-") for each in found.models):
        assert found.comparisons


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_recorded_ablations_load(path: Path) -> None:
    found = load_ablation(path)
    for row in found.rows:
        assert row.rate("direct").n == sum(row.rate("refined", seed).n for seed in row.seeds) > 0
        assert (found.against_self(row, "direct") is None) == (row.name == "self")


def test_no_recorded_results_are_left_out() -> None:
    assert (len(RESULTS), len(ABLATIONS)) == (23, 4)
    assert not any("stages" in content for content in WRITTEN.values()), "no file has the form of before version 1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"stages": []}', "names no version, and this selfevo reads version 1; delete it and run the command"),
        ('{"version": 7}', "is of version 7, and this selfevo reads version 1"),
        ("{", "is damaged (Expecting property name"),
        ("[]", "holds list, not an object"),
        ('{"version": 1, "task": null, "seed": 0, "policy": null}', "is damaged: seconds is missing"),
        (
            '{"version": 1, "task": null, "seed": 0, "policy": null, "seconds": 0, "groups": {"kind": {"a": "012"}}}',
            'is damaged: groups.kind.a is "012"',
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(RunError) as raised:
        load_results(tmp_path)
    assert f"{tmp_path / 'results.json'} {message}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_results_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"results\.json cannot be read \(No such file.*give a run directory or its file"
    ):
        load_results(tmp_path)


def test_answers_to_other_problems_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="one character per problem"):
        run(model("meta", "01"), model("round-1", "011"))
    with pytest.raises(ValueError, match="each needs one character per problem"):
        run(model("meta", "01"), groups={"kind": {"sums": "0"}})
    with pytest.raises(ValueError, match="meta has no answers refined"):
        ModelResults(name="meta", answers={"direct": "1"}, verdicts=VERDICTS, seconds=0)
