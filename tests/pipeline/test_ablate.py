"""Variants of one run: what is the same is computed once, what differs is not shared, and the table adds up."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runs import small_demo, student
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import AblationConfig, MonitorsConfig
from selfevo.config.sources import TaskCorpus
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, RunError, TrainingError
from selfevo.inputs.annotation import altered, taken
from selfevo.method.filters import ByVerdict, KeepAll, Length
from selfevo.method.prompts import parse_verdict
from selfevo.method.records import Example, Refined
from selfevo.method.verdicts import Verdict
from selfevo.pipeline.ablate import ablate, tabulate
from selfevo.pipeline.build import trainer_of
from selfevo.pipeline.run import run_loop
from selfevo.pipeline.variants import VARIANTS, applicable, find, settings
from selfevo.report.progress import Silent
from selfevo.rundir.ablation import Ablation, AblationRow, Voted, load_ablation
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.inspect import best_model
from selfevo.rundir.ownership import locked
from selfevo.rundir.results import ModelComparison, load_results
from selfevo.rundir.scores import from_bits
from selfevo.statistics import mcnemar_exact
from selfevo.trainers.scripted import ScriptedTrainer


class Counting:
    """Launches with scripted parts, and counts what was asked and trained."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        self.trained: dict[str, list[str]] = {}

    def __call__(self, config: RunConfig, shared: tuple[Path, ...]) -> Path:
        engine = ScriptedEngine(student(config))
        trained: list[str] = []

        def note(base: Path, examples: Sequence[Example]) -> None:
            trained.append(base.name)

        folder = run_loop(config, Silent(), engine, ScriptedTrainer(before=note), shared)
        self.asked[config.output.name] = len(engine.calls)
        self.trained[config.output.name] = trained
        return folder


def play(tmp_path: Path, names: Sequence[str], seeds: Sequence[int] = (0,)) -> tuple[Counting, Ablation]:
    counting = Counting()
    return counting, ablate(small_demo(tmp_path, tmp_path / "run"), names, seeds, tmp_path / "out", counting)


def by_name(found: Ablation) -> dict[str, AblationRow]:
    return {row.name: row for row in found.rows}


def test_what_variants_share_is_computed_once(tmp_path: Path) -> None:
    counting, _ = play(tmp_path, ["no-filter", "half-labels"])
    # self trains the warm-up, sft, meta and three rounds; without a filter only the rounds differ; half of the labels
    # are half from the beginning.
    assert counting.trained["self-seed0"] == ["base", "base", "base", "meta", "round-1", "round-2"]
    assert counting.trained["no-filter-seed0"] == ["meta", "round-1", "round-2"]
    assert counting.trained["half-labels-seed0"] == ["base", "base", "meta", "round-1", "round-2"]
    assert counting.asked["no-filter-seed0"] < counting.asked["self-seed0"]
    shared, own = tmp_path / "out/self-seed0", tmp_path / "out/no-filter-seed0"
    for name in ("stages/evaluate-meta/respond.jsonl", "stages/round-1/judge.jsonl", "models/meta/model.safetensors"):
        assert (own / name).read_bytes() == (shared / name).read_bytes()
        assert (own / name).stat().st_ino == (shared / name).stat().st_ino
    name = "stages/round-2/respond.jsonl"
    assert (own / name).stat().st_ino != (shared / name).stat().st_ino, "another model's answers"


def test_a_shared_stage_gives_the_rows_that_computing_would(tmp_path: Path) -> None:
    play(tmp_path, ["no-filter"])
    alone = tmp_path / "alone"
    alone.mkdir()
    config = small_demo(tmp_path, alone / "run").model_copy(update={"filter": (KeepAll(),)})
    run_loop(config, Silent(), ScriptedEngine(student(config)), ScriptedTrainer())
    for path in (tmp_path / "out/no-filter-seed0/stages").glob("round-*/*.jsonl"):
        other = config.output / "stages" / path.parent.name / path.name
        assert list(read_rows(path)) == list(read_rows(other))


def test_the_same_command_does_nothing_twice(tmp_path: Path) -> None:
    _, first = play(tmp_path, ["no-refinement"])
    counting, second = play(tmp_path, ["no-refinement"])
    assert set(counting.asked.values()) == {0}
    assert not any(counting.trained.values())
    assert first == second == load_ablation(tmp_path / "out")


def test_the_table_pools_the_seeds_and_pairs_the_problems(tmp_path: Path) -> None:
    _, found = play(tmp_path, ["no-filter"], seeds=(0, 1))
    rows = by_name(found)
    assert list(rows) == ["base", "sft", "meta", "self", "no-filter"]
    runs = {seed: load_results(tmp_path / f"out/self-seed{seed}") for seed in (0, 1)}
    for name, last in (("base", "base"), ("self", "round-3")):
        assert rows[name].seeds == [0, 1]
        for seed, run in runs.items():
            model = run.model(last)
            assert model is not None
            assert rows[name].answers["direct"][seed] == model.answers["direct"]
            assert rows[name].rate("refined", seed) == model.refined
        assert rows[name].rate("direct").n == 48
        assert rows[name].rate("direct").correct == sum(rows[name].rate("direct", seed).correct for seed in (0, 1))
    assert found.against_self(rows["self"], "direct") is None
    pair = found.against_self(rows["base"], "direct")
    assert pair is not None
    bits = {name: "".join(rows[name].answers["direct"].values()) for name in ("base", "self")}
    gained = sum(a > b for a, b in zip(bits["base"], bits["self"], strict=True))
    lost = sum(a < b for a, b in zip(bits["base"], bits["self"], strict=True))
    assert (pair.gained, pair.lost, pair.p_value) == (gained, lost, mcnemar_exact(gained, lost))
    assert pair.difference == pytest.approx((gained - lost) / 48)
    own, unfiltered = rows["self"], rows["no-filter"]
    assert own.cost and unfiltered.cost and own.rows and unfiltered.rows and unfiltered.audit
    assert own.cost.new_tokens > unfiltered.cost.new_tokens, "shared work is counted once"
    assert unfiltered.rows.kept / unfiltered.rows.entered > own.rows.kept / own.rows.entered
    rounds = [each for seed in (0, 1) for each in load_results(tmp_path / f"out/no-filter-seed{seed}").rounds]
    assert unfiltered.rows.entered == sum(each.rows.entered for each in rounds)
    assert unfiltered.audit.kept_right == sum(each.audit.kept_right for each in rounds if each.audit) > 0
    assert rows["meta"].audit is None


def test_fewer_labels_have_an_sft_of_their_own(tmp_path: Path) -> None:
    _, found = play(tmp_path, ["labels-4"])
    rows = by_name(found)
    assert {"sft", "labels-4, sft", "labels-4"} <= rows.keys()
    corpus = list(read_rows(tmp_path / "out/labels-4-seed0/data/d_meta.jsonl"))
    assert len({row["prompt"] for row in corpus}) == 4
    labelled = {row["prompt"]["prompt"] for row in read_rows(tmp_path / "out/self-seed0/data/labelled.jsonl")}
    assert {row["prompt"] for row in corpus} < labelled
    warm_up = list(read_rows(tmp_path / "out/labels-4-seed0/models/warm-up/examples.jsonl"))
    assert {row["turns"][0] for row in warm_up} < {row["prompt"] for row in corpus}, "no label beyond the four"


def test_fewer_prompts_are_some_of_those_of_self(tmp_path: Path) -> None:
    counting, found = play(tmp_path, ["prompts-3"])
    assert "prompts-3" in [row.name for row in found.rows]
    pool, fewer = (
        [row["prompt"] for row in read_rows(tmp_path / f"out/{name}-seed0/data/pool.jsonl")]
        for name in ("self", "prompts-3")
    )
    assert len(fewer) == 3 < len(pool) and set(fewer) < set(pool)
    assert counting.trained["prompts-3-seed0"] == ["meta", "round-1", "round-2"]


def test_more_labels_for_sft_alone(tmp_path: Path) -> None:
    counting, found = play(tmp_path, ["sft-24"])
    assert counting.trained["sft-24-seed0"] == ["base"], "the rounds are those of self"
    rows = by_name(found)
    assert list(rows) == ["base", "sft", "meta", "self", "sft-24, sft"]
    assert found.against_self(rows["sft-24, sft"], "direct") is not None
    cost = rows["sft-24, sft"].cost
    assert cost is not None and cost.trained_tokens > 0
    run = tmp_path / "out/sft-24-seed0"
    learnt = {row["turns"][0] for row in read_rows(run / "models/sft/examples.jsonl")}
    given = {row["prompt"]["prompt"] for name in ("labelled", "sft") for row in read_rows(run / f"data/{name}.jsonl")}
    assert len(learnt) == 24 and {turn.partition("\n")[0] for turn in learnt} == given
    apart = {row["prompt"]["prompt"] for row in read_rows(run / "data/evaluation.jsonl")}
    apart |= {row["prompt"] for row in read_rows(run / "data/pool.jsonl")}
    assert not given & apart


def test_votes_at_inference_share_every_model(tmp_path: Path) -> None:
    counting, found = play(tmp_path, ["consistency"])
    assert counting.trained["consistency-seed0"] == []
    rows = by_name(found)
    assert list(rows) == ["base", "sft", "meta", "self", "consistency, sft", "consistency, meta", "consistency"]
    last, model = rows["consistency"], load_results(tmp_path / "out/consistency-seed0").models[-1]
    assert last.rate("direct") == rows["self"].rate("direct")
    modes: tuple[Voted, ...] = ("consistency", "both")
    for mode in modes:
        voted = last.voted(mode)
        assert voted is not None
        rate, pair = voted
        assert rate == model.rate(mode)
        refined, votes = from_bits(model.answers["refined"]), from_bits(model.answers[mode])
        assert pair == ModelComparison.of("consistency", votes, "consistency, refined", refined, mode)


def test_a_row_holds_what_the_model_said_of_its_answers(tmp_path: Path) -> None:
    _, found = play(tmp_path, ["flipped-50"], seeds=(0, 1))
    rows = by_name(found)
    assert "flipped-50, meta" in rows, "other lessons, other model"
    models = [model for seed in (0, 1) if (model := load_results(tmp_path / f"out/self-seed{seed}").model("meta"))]
    meta = rows["meta"]
    assert meta.transitions.wrong_right == sum(model.transitions.wrong_right for model in models)
    assert meta.verdicts.qualified == sum(model.verdicts.qualified for model in models) > 0
    assert meta.verdicts.qualified_right == sum(model.verdicts.qualified_right for model in models)
    assert meta.verdicts.unparsed == sum(model.verdicts.unparsed for model in models)


def test_fewer_labels_train_for_as_many_steps(tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    half, few = (settings(config, name, 0, tmp_path) for name in ("half-labels", "labels-4"))
    for own, share in ((half, 1 / 2), (few, 4 / 16)):
        assert own.ablation.label_share == share
        assert own.trainer.num_train_epochs * share == config.trainer.num_train_epochs
        assert isinstance(own.corpus, TaskCorpus) and isinstance(config.corpus, TaskCorpus)
        assert own.corpus.warmup_epochs * share == config.corpus.warmup_epochs
        assert own.trainer.round_epochs == (config.trainer.round_epochs or config.trainer.num_train_epochs)


def test_a_restarted_round_trains_as_long_as_meta(tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    shorter = config.trainer.model_copy(update={"round_epochs": 1.0, "round_learning_rate": 1e-6})
    restart = settings(config.model_copy(update={"trainer": shorter}), "restart", 0, tmp_path)
    assert trainer_of(restart, "round-2") == trainer_of(restart, "meta")


def test_rounds_at_half_the_rate_take_half_of_their_own_or_of_the_only_one(tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    for own, halved in ((4e-4, 2e-4), (None, config.trainer.learning_rate / 2)):
        trainer = config.trainer.model_copy(update={"round_learning_rate": own})
        changed = settings(config.model_copy(update={"trainer": trainer}), "half-rate", 0, tmp_path)
        assert changed.trainer == trainer.model_copy(update={"round_learning_rate": halved})


def test_another_filter_leaves_those_of_form_in_place(tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run").model_copy(
        update={"filter": (ByVerdict(), Length(max_characters=9))}
    )
    for name, kind in (("no-filter", "none"), ("votes", "verdict-votes"), ("self-consistency", "answer-agreement")):
        changed = settings(config, name, 0, tmp_path).filter
        assert [each.kind for each in changed] == [kind, "length"] and changed[1] == config.filter[1]


def test_a_run_that_an_alarm_stops_has_not_failed(tmp_path: Path) -> None:
    stop = MonitorsConfig(on_alarm="stop", max_truncated=0.0)
    config = small_demo(tmp_path, tmp_path / "run").model_copy(update={"monitors": stop})
    counting = Counting()
    assert ablate(config, ["no-filter"], [0], tmp_path / "out", counting).rows == ()
    assert {folder.name for folder in (tmp_path / "out").iterdir() if folder.is_dir()} == {
        "self-seed0",
        "no-filter-seed0",
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_configuration(name: str, tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    if name == "continual-mixed":
        config = config.model_copy(update={"policy": "restart"})
    plain, changed = (settings(config, each, 3, tmp_path) for each in ("self", name))
    assert changed.output == tmp_path / f"{name}-seed3"
    assert plain.evaluation is not None and changed.evaluation is not None
    assert (changed.seed, changed.evaluation.task) == (3, plain.evaluation.task)
    same = {"output": plain.output, "evaluation": plain.evaluation}
    unchanged = changed.model_copy(update=same) == plain
    assert unchanged == (name == "consistency"), "self, measured again"


def test_what_is_no_variant_is_said_before_anything_runs(tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    with pytest.raises(ConfigError, match="there is no variant 'no-fliter'; use one of no-filter, "):
        ablate(config, ["no-filter", "no-fliter"], [0], tmp_path / "out", lambda *_, **__: tmp_path)
    with pytest.raises(ConfigError, match="variant labels-99: there are 16 labels"):
        find("labels-99", config)
    with pytest.raises(ConfigError, match=r"variant prompts-999: there are \d+ prompts; raise prompts.count"):
        find("prompts-999", config)
    without = config.model_dump(mode="json", exclude={"prompts"})
    rounds = parse_config({**without, "rounds": [{"prompts": "p.jsonl"}]}, "x")
    with pytest.raises(ConfigError, match="variant prompts-9: each round has its own prompts"):
        find("prompts-9", rounds)
    with pytest.raises(ConfigError, match="evaluation is missing"):
        ablate(config.model_copy(update={"evaluation": None}), [], [0], tmp_path / "out", lambda *_, **__: tmp_path)
    assert not (tmp_path / "out").exists()


# --- D_meta, altered -------------------------------------------------------------------------------------------------

ROWS = [
    Refined(f"{i:02}", f"p{i}", "r", f"Look.\nVerdict: {'qualified' if i % 2 else 'not qualified'}", "s")
    for i in range(40)
]


def test_d_meta_is_as_it_is_by_default() -> None:
    assert altered(ROWS, AblationConfig(), 0) == ROWS


def test_half_of_the_prompts_hold_the_quarter() -> None:
    half, quarter = (taken(ROWS, share, 0) for share in (0.5, 0.25))
    assert (len(half), len(quarter)) == (20, 10)
    assert {row.id for row in quarter} < {row.id for row in half}
    assert taken(ROWS, 0.5, 1) != half


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 1.0])
def test_a_share_of_the_verdicts_is_turned_round_and_the_words_stay(share: float) -> None:
    changed = altered(ROWS, AblationConfig(flipped_verdicts=share), 0)
    differing = [(a, b) for a, b in zip(ROWS, changed, strict=True) if a != b]
    assert len(differing) == share * 40
    for before, after in differing:
        assert {parse_verdict(before.feedback), parse_verdict(after.feedback)} == {
            Verdict.QUALIFIED,
            Verdict.NOT_QUALIFIED,
        }
        assert after.feedback.startswith("Look.\n")


def test_without_words_only_the_verdict_is_left() -> None:
    assert {row.feedback for row in altered(ROWS, AblationConfig(verdict_only=True), 0)} == {
        "Verdict: qualified",
        "Verdict: not qualified",
    }
    both = altered(ROWS, AblationConfig(verdict_only=True, flipped_verdicts=1.0), 0)
    assert [parse_verdict(row.feedback) for row in both] != [parse_verdict(row.feedback) for row in ROWS]


def test_a_variant_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    counting = Counting()

    def failing(config: RunConfig, shared: tuple[Path, ...]) -> Path:
        if config.output.name.startswith("no-filter"):
            raise TrainingError("no gradient")
        return counting(config, shared)

    with pytest.raises(RunError, match=r"1 of 3 runs failed; .* no-filter, seed 0: no gradient"):
        ablate(small_demo(tmp_path, tmp_path / "run"), ["no-filter", "one-round"], [0], tmp_path / "out", failing)
    rows = [row.name for row in load_ablation(tmp_path / "out").rows]
    assert rows == ["base", "sft", "meta", "self", "one-round"]


def test_what_does_not_go_with_a_configuration_is_left_out_and_named(tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    assert applicable(config) == (
        [name for name in VARIANTS if name != "continual-mixed"],
        ["variant continual-mixed changes nothing in this configuration, so it would equal self; leave it out"],
    )
    data = config.model_dump(mode="json")
    names, refused = applicable(
        parse_config({**data, "prompts": {"path": "p.jsonl"}, "ablation": {"refine": False}}, "x")
    )
    assert set(VARIANTS) - set(names) == {"gold", "dpo", "no-refinement", "continual-mixed"}
    assert len(refused) == 4
    assert "variant dpo: objective dpo prefers r^ to r" in " ".join(refused)


def test_another_number_of_rounds_leaves_the_pool_as_it_is(tmp_path: Path) -> None:
    data = small_demo(tmp_path, tmp_path / "run").model_dump(mode="json")
    data["prompts"]["count"] = None
    config = parse_config(data, "x")
    pools = {name: settings(config, name, 0, tmp_path) for name in ("self", "one-round", "six-rounds")}
    assert {each.prompts.count for each in pools.values() if each.prompts} == {900}


def test_only_finished_runs_of_known_variants_are_in_the_table(tmp_path: Path) -> None:
    play(tmp_path, ["no-filter"])
    out = tmp_path / "out"
    shutil.copytree(out / "no-filter-seed0", out / "demo-seed0")
    shutil.copytree(out / "no-filter-seed0", out / "no-filter-seedfoo")
    shutil.copytree(out / "no-filter-seed0", out / "no-filter-seed7")
    events = (out / "no-filter-seed7/events.jsonl").read_text().splitlines(keepends=True)
    (out / "no-filter-seed7/events.jsonl").write_text("".join(line for line in events if '"finish"' not in line))
    found = tabulate(out)
    assert found.seeds == [0]
    assert [row.name for row in found.rows] == ["base", "sft", "meta", "self", "no-filter"]


def test_a_run_that_took_models_over_knows_its_best_one(tmp_path: Path) -> None:
    play(tmp_path, ["no-filter"])
    assert best_model(tmp_path / "out/no-filter-seed0").name == "round-3"


def test_a_run_that_has_nothing_of_its_own_to_do_is_finished_too(tmp_path: Path) -> None:
    play(tmp_path, ["labels-16"])  # all the labels of `self`
    counting, found = play(tmp_path, ["labels-16"])
    rows = by_name(found)
    assert rows["labels-16"].rate("direct") == rows["self"].rate("direct")
    assert not any(counting.trained.values())


def test_two_ablations_in_one_folder_wait_for_the_table_and_say_who_has_a_run(tmp_path: Path) -> None:
    play(tmp_path, [])
    with (
        locked(tmp_path / "out/self-seed0"),
        pytest.raises(RunError, match=rf"self-seed0 is in use by process {os.getpid()}, .* wait until it ends, or"),
    ):
        play(tmp_path, [])
    with ThreadPoolExecutor() as pool, locked(tmp_path / "out"):
        other = pool.submit(play, tmp_path, [], (1,))
        time.sleep(1)
        assert not other.done()
    assert other.result()[1].seeds == [0, 1]
