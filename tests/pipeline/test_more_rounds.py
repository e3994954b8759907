"""More rounds on a run: what is finished stays, byte for byte, and the further rounds get prompts of their own."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import KilledError, small_demo, student, timeless, tree
from runs import results as results_of
from selfevo.config.base import merged
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import DataError, RunError
from selfevo.inputs.splits import draw_splits
from selfevo.method.prompts import REFINE
from selfevo.method.protocols import Generation
from selfevo.method.records import Turns
from selfevo.pipeline.run import open_run, run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.inspect import collect, prompts_seen, summarise, verify
from selfevo.trainers.scripted import ScriptedTrainer

YES, NO = "Fine.\nVerdict: qualified", "Off by one.\nVerdict: not qualified"


def changed(config: RunConfig, **keys: Any) -> RunConfig:
    return parse_config(merged(config.model_dump(mode="json"), keys), "test")


def able(model: Path, turns: Turns) -> str | Generation:
    if len(turns) == 3:
        return NO if turns[1] == "3" else YES
    return "4" if turns[-1] == REFINE else "3"


def run(config: RunConfig, answer: Any = able, trainer: ScriptedTrainer | None = None) -> list[str]:
    """Runs, and returns the names of the models that were trained."""
    trainer = trainer or ScriptedTrainer()
    before = set((config.output / "models").glob("*"))
    run_loop(config, Silent(), ScriptedEngine(answer), trainer)
    return sorted(path.name for path in set((config.output / "models").glob("*")) - before)


def prompts_of(config: RunConfig, name: str) -> list[str]:
    return [str(row["prompt"]) for row in read_rows(config.output / f"stages/{name}/respond.jsonl")]


def pool(folder: Path, *texts: str) -> None:
    with (folder / "pool.jsonl").open("a") as file:
        file.writelines(json.dumps({"prompt": text}) + "\n" for text in texts)


@pytest.fixture
def files(tmp_path: Path) -> RunConfig:
    """A run on files: six prompts in three rounds."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    pool(tmp_path, *(f"{i}+{i}" for i in range(6)))
    row = {"prompt": "7+7", "response": "3", "feedback": NO, "refinement": "14"}
    (tmp_path / "d_meta.jsonl").write_text(json.dumps(row) + "\n")
    given = {
        "model": str(base),
        "output": str(tmp_path / "run"),
        "prompts": {"path": str(tmp_path / "pool.jsonl")},
        "corpus": {"path": str(tmp_path / "d_meta.jsonl")},
        "rounds": 3,
    }
    return parse_config(given, "test")


def test_prompts_added_to_the_file_are_shared_by_the_further_rounds(files: RunConfig, tmp_path: Path) -> None:
    assert run(files) == ["meta", "round-1", "round-2", "round-3"]
    before = tree(files.output)
    pool(tmp_path, "a", "b", "c", "0+0")  # the last is there already
    more = changed(files, rounds=5)
    assert run(more) == ["round-4", "round-5"]
    after = tree(files.output)
    assert {path: after[path] for path in before} == before, "nothing that was finished is touched"
    assert prompts_of(files, "round-4") == ["a"]
    assert prompts_of(files, "round-5") == ["b", "c"]
    assert [row["prompt"] for row in read_rows(files.output / "data/pool-2.jsonl")] == ["a", "b", "c"]
    (row,) = read_rows(files.output / "data/quarantined-2.jsonl")
    assert row["line"] == 10
    assert summarise(files.output).status == "finished"
    assert verify(files.output)[1] == []
    assert len(prompts_seen(files.output / "models/round-5")) == 10, "nine of the pool, one of D_meta"
    for text in ((files.output / "config.yaml").read_text(), (files.output / "config.json").read_text()):
        assert yaml.safe_load(text)["rounds"] == 5
    assert run(more) == []
    assert run(parse_config(yaml.safe_load((files.output / "config.yaml").read_text()), "test")) == []
    assert tree(files.output) == after


def test_more_rounds_can_be_asked_for_again(files: RunConfig, tmp_path: Path) -> None:
    run(files)
    for rounds, further in ((4, ["a"]), (6, ["b", "c"]), (7, ["d", "e", "f"])):
        pool(tmp_path, *further)
        before = tree(files.output)
        run(changed(files, rounds=rounds))
        after = tree(files.output)
        assert {path: after[path] for path in before} == before
    sizes = [len(prompts_of(files, f"round-{t}")) for t in range(1, 8)]
    assert sizes == [2, 2, 2, 1, 1, 1, 3]
    assert sorted(path.stem for path in (files.output / "data").glob("pool*.jsonl")) == [
        "pool",
        "pool-2",
        "pool-3",
        "pool-4",
    ]


def test_without_further_prompts_the_error_says_what_to_do(files: RunConfig, tmp_path: Path) -> None:
    run(files)
    before = tree(files.output)
    said = (
        r"rounds 1 to 3 took 6 of the 6 prompts .* leaves 0 for rounds 4 to 5; add prompts at the end of prompts\.path"
    )
    with pytest.raises(DataError, match=said):
        run(changed(files, rounds=5))
    pool(tmp_path, "a")
    with pytest.raises(DataError, match="leaves 1 for rounds 4 to 5"):
        run(changed(files, rounds=5))
    assert tree(files.output) == before
    assert summarise(files.output).status == "finished"
    assert json.loads((files.output / "config.json").read_text())["rounds"] == 3
    assert run(changed(files, rounds=4)) == ["round-4"]


def test_fewer_rounds_than_have_begun_are_refused(files: RunConfig) -> None:
    run(files)
    with pytest.raises(RunError, match="has begun round 3, and rounds is 2 now; set rounds to 3 or more"):
        run(changed(files, rounds=2))


def test_prompts_that_were_changed_are_refused(files: RunConfig, tmp_path: Path) -> None:
    run(files)
    lines = (tmp_path / "pool.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "pool.jsonl").write_text("".join([*lines[1:], lines[0], '{"prompt": "new"}\n']))
    with pytest.raises(RunError, match=r"pool\.jsonl holds other rows"):
        run(changed(files, rounds=4))


def test_prompts_without_more_rounds_are_refused_as_before(files: RunConfig, tmp_path: Path) -> None:
    run(files)
    pool(tmp_path, "a")
    with pytest.raises(RunError, match=r"pool\.jsonl holds other rows"):
        run(files)
    run(changed(files, rounds=4))
    pool(tmp_path, "b")
    with pytest.raises(RunError, match=r"pool-2\.jsonl holds other rows"):
        run(changed(files, rounds=4))


def test_other_keys_are_still_refused(files: RunConfig, tmp_path: Path) -> None:
    run(files)
    pool(tmp_path, "a")
    with pytest.raises(RunError, match=r"beta: 1\.0 in the run, 0\.5 now") as caught:
        run(changed(files, rounds=4, beta=0.5))
    assert "rounds" not in str(caught.value).partition("beta")[2]
    with pytest.raises(RunError, match=r"prompts\.count: None in the run, 3 now"):
        run(changed(files, prompts={"count": 3}))


def stopped_in_round_2(files: RunConfig) -> None:
    def dies(model: Path, turns: Turns) -> str | Generation:
        if model.name == "round-1":
            raise KilledError
        return able(model, turns)

    with pytest.raises(KilledError):
        run(files, dies)
    assert (files.output / "stages/round-2").is_dir()


@pytest.mark.parametrize(("rounds", "sizes"), [(2, [2, 2]), (3, [2, 2, 2]), (4, [2, 2, 1, 1])])
def test_rounds_that_have_not_begun_share_what_is_left(
    files: RunConfig, rounds: int, sizes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_in_round_2(files)
    more = changed(files, rounds=rounds)
    run(more)
    assert [len(prompts_of(files, f"round-{t}")) for t in range(1, rounds + 1)] == sizes
    assert run(more) == []
    assert summarise(files.output).status == "finished"
    assert ("2 prompts of its pool stay unused" in capsys.readouterr().err) == (rounds == 2)
    assert verify(files.output)[1] == []


def test_before_the_first_round_all_is_shared_anew(files: RunConfig) -> None:
    def dies(model: Path, turns: Turns) -> str | Generation:
        raise KilledError

    with pytest.raises(KilledError):
        run(files, dies)
    for path in (files.output / "stages/round-1").glob("*"):
        path.unlink()
    (files.output / "stages/round-1").rmdir()
    run(changed(files, rounds=2))
    assert [len(prompts_of(files, f"round-{t}")) for t in (1, 2)] == [3, 3]


def test_a_kill_between_the_change_and_its_prompts_does_no_harm(files: RunConfig, tmp_path: Path) -> None:
    run(files)
    pool(tmp_path, "a", "b")
    more = changed(files, rounds=5)
    run(more)
    whole = tree(files.output)
    for path in (files.output / "data").glob("pool-2.*"):
        path.unlink()
    run(more)
    assert tree(files.output) == whole


def test_a_kill_in_a_further_round_ends_as_if_it_had_not_been(files: RunConfig, tmp_path: Path) -> None:
    run(files)
    pool(tmp_path, "a", "b")
    more = changed(files, rounds=5)

    def dies(model: Path, turns: Turns) -> str | Generation:
        if model.name == "round-4":
            raise KilledError
        return able(model, turns)

    with pytest.raises(KilledError):
        run(more, dies)
    assert summarise(files.output).status == "stopped"
    assert run(more) == ["round-5"]
    assert summarise(files.output).status == "finished"


def test_the_model_that_gc_keeps_is_enough(files: RunConfig, tmp_path: Path) -> None:
    mixed = changed(files, policy="continual-mixed")
    run(mixed)
    assert collect(files.output) > 0
    pool(tmp_path, "a")
    assert run(changed(mixed, rounds=4)) == ["round-4"]


def test_a_list_of_rounds_can_get_longer(files: RunConfig, tmp_path: Path) -> None:
    """A model that writes prompts sees those that it would have seen without the further rounds."""
    (tmp_path / "more.jsonl").write_text('{"prompt": "further 1"}\n{"prompt": "further 2"}\n')
    pool(tmp_path, "please sort these letters", "please add these numbers")
    own = {"self_instruct": {"count": 2, "min_words": 1}}
    first = [{"prompts": str(tmp_path / "pool.jsonl")}, own]
    shown: list[str] = []

    def writes(model: Path, turns: Turns) -> str | Generation:
        if len(turns) == 1 and "\n" in turns[0]:
            shown.append(turns[0])
            return f"wholly new task {random.Random(turns[0]).random()}"
        return able(model, turns)

    given = {**files.model_dump(mode="json"), "prompts": None}
    run(parse_config({**given, "rounds": first}, "test"), writes)
    before = tree(files.output)
    assert shown
    asked = len(shown)
    longer = parse_config({**given, "rounds": [*first, {"prompts": str(tmp_path / "more.jsonl")}, own]}, "test")
    assert run(longer, writes) == ["round-3", "round-4"]
    after = tree(files.output)
    assert {path: after[path] for path in before} == before
    assert len(shown) > asked
    assert not any("further" in text for text in shown[:asked])
    assert run(longer, writes) == []
    with pytest.raises(RunError, match="rounds: "):
        run(parse_config({**given, "rounds": first[:1]}, "test"))


@pytest.mark.parametrize("count", [None, 9])
def test_a_task_draws_further_problems_and_nothing_else_changes(tmp_path: Path, count: int | None) -> None:
    small = small_demo(tmp_path, tmp_path / "run")
    config = changed(small, prompts={"count": count}, audit={"task": {"name": "demo"}, "count": 5})
    few = changed(config, prompts={"count": 6}) if count is None else config
    run(few, student(few))
    before, figures = tree(few.output), results_of(few)
    with pytest.raises(DataError, match=r"raise prompts\.count"):
        run(changed(few, rounds=4), student(few))
    more = changed(few, rounds=5, prompts={"count": 20})
    skill = student(more)

    def known(model: Path, turns: Turns) -> str | Generation:
        return skill(
            model.with_name(min(model.name, "round-3") if model.name.startswith("round") else model.name), turns
        )

    assert run(more, known) == ["round-4", "round-5"]
    after, found = tree(few.output), results_of(few)
    assert {path: after[path] for path in before} == before
    assert len([path for path in after if path not in before]) > 8
    assert [each.name for each in found.rounds] == [f"round-{t}" for t in range(1, 6)]
    assert timeless(found).models[: len(figures.models)] == timeless(figures).models
    assert found.rounds[:3] == figures.rounds
    with pytest.raises(RunError, match=r"prompts\.count"):
        run(changed(few, rounds=5, prompts={"count": 19}), known)


def test_a_task_without_a_count_draws_as_many_again(tmp_path: Path) -> None:
    config = small_demo(tmp_path, tmp_path / "run")
    more = changed(config, prompts={"count": None}, rounds=2)
    assert len(draw_splits(more).pool) == 600
    run(more, student(more))
    splits = draw_splits(changed(more, rounds=3))
    assert [len(each) for each in splits.pools] == [300, 300, 300]
    assert len({prompt.id for prompt in splits.pool}) == 900
    assert not {prompt.id for prompt in splits.pool} & {problem.prompt.id for problem in splits.evaluation}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_changed_in_whatever_order_rounds_keep_their_prompts(
    files: RunConfig, tmp_path: Path, data: st.DataObject
) -> None:
    """Starts with other numbers of rounds and further prompts, each killed somewhere: no prompt moves or is lost."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    texts = [f"{i}+{i}" for i in range(data.draw(st.integers(3, 9)))]
    pool(folder, *texts)
    config = changed(files, output=str(folder / "run"), prompts={"path": str(folder / "pool.jsonl")})
    rounds, begun = data.draw(st.integers(1, 3)), list[list[str]]()
    for _ in range(data.draw(st.integers(1, 5))):
        before = tree(folder / "run")
        try:
            with open_run(changed(config, rounds=rounds), Silent(), ScriptedEngine(able), ScriptedTrainer()) as opened:
                pools = [[prompt.prompt for prompt in each] for each in opened[2].pools]
        except (DataError, RunError) as error:
            assert "\n" not in str(error)
            assert tree(folder / "run") == before, "what is refused changes nothing"
            assert rounds < len(begun) or isinstance(error, DataError) or "other rows" in str(error)
        else:
            assert pools[: len(begun)] == begun, "a round that has begun keeps its prompts"
            assert len(pools) == rounds
            assert all(pools)
            given_out = [text for each in pools for text in each]
            assert given_out == texts[: len(given_out)], "each prompt once, in order"
            assert given_out == texts or rounds == len(begun)
            after = tree(folder / "run")
            assert {path: after[path] for path in before} == before
            kept = [row["prompt"] for path in in_order(folder / "run/data") for row in read_rows(path)]
            assert kept == texts
            for number in range(len(begun), data.draw(st.integers(len(begun), rounds))):
                (folder / f"run/stages/round-{number + 1}").mkdir(parents=True)
                begun.append(pools[number])
        more = [f"{len(texts) + i}+1" for i in range(data.draw(st.integers(0, 3)))]
        wanted = data.draw(st.integers(1, 6))
        if more and wanted != rounds:
            pool(folder, *more)
            texts += more
        rounds = wanted


def in_order(folder: Path) -> list[Path]:
    """The files of the pool, in the order in which they were written."""
    return sorted(folder.glob("pool*.jsonl"), key=lambda path: int(path.stem.partition("-")[2] or 1))
