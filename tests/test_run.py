"""A killed run goes on where it stopped and ends with the same bytes; nothing stale is ever served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import KilledError, tree
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import DataError, EngineError, RunError, TrainingError
from selfevo.examples import self_examples
from selfevo.filters import by_verdict
from selfevo.progress import Silent
from selfevo.prompts import Turns
from selfevo.protocols import Generation, Model, Request, Sampling
from selfevo.records import Drafted, Example, Judged, Prompt
from selfevo.run import Run, claim, differing_keys, hash_weights, locked, read_rows
from selfevo.skills import CRITIQUE, RESPOND
from selfevo.trainers.scripted import ScriptedTrainer

PROMPTS = [Prompt.of(f"question {i} " + "x" * (i % 7)) for i in range(20)]
MODEL = Model("base", Path("base"), "weights-0")


def reply(model: Path, turns: Turns) -> str | Generation:
    """Every fifth question is cut off; the text holds what JSON lines could trip over."""
    if " 5 " in turns[0] or " 10 " in turns[0]:
        return Generation("half an ans", "length", 3, 8)
    return f"answer to {turns[0]}\nline two \u2028 \x85 \r é"


@dataclass
class Dying:
    """Passes on to a scripted engine until `calls` batches are done, then dies in the middle of the next."""

    calls: int
    inner: ScriptedEngine = field(default_factory=lambda: ScriptedEngine(reply, batch_size=4))
    batch_size: int = 4

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        if self.calls == 0:
            raise KilledError
        self.calls -= 1
        return self.inner.generate(model, requests, sampling)

    def release(self) -> None: ...


def open_run(
    root: Path, engine: ScriptedEngine | Dying, trainer: ScriptedTrainer | None = None, **sampling: float
) -> Run:
    limits = {name: Sampling(8, **sampling) for name in ("respond", "critique", "refine", "judge")}
    return Run(root, engine, lambda name: trainer or ScriptedTrainer(), limits, 0, Silent())


def scripted() -> ScriptedEngine:
    return ScriptedEngine(reply, batch_size=4)


def asked(engine: ScriptedEngine) -> list[str]:
    return [request.turns[0] for _, request in engine.calls]


@pytest.fixture
def uninterrupted(tmp_path: Path) -> dict[str, bytes]:
    root = tmp_path / "uninterrupted"
    root.mkdir()
    open_run(root, scripted()).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    return tree(root)


def test_rows_come_back_in_input_order_and_the_others_are_on_disk_with_their_reason(tmp_path: Path) -> None:
    drafted = open_run(tmp_path, scripted()).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    assert [row.id for row in drafted] == [p.id for i, p in enumerate(PROMPTS) if i not in (5, 10)]
    assert drafted[0] == Drafted(PROMPTS[0].id, PROMPTS[0].prompt, str(reply(Path(), (PROMPTS[0].prompt,))))
    rows = list(read_rows(tmp_path / "stages/round-1/respond.jsonl"))
    assert [row["id"] for row in rows] == [p.id for p in PROMPTS]
    assert [(row["id"], row["reason"]) for row in rows if row["status"] == "quarantined"] == [
        (PROMPTS[5].id, "length"),
        (PROMPTS[10].id, "length"),
    ]
    marker = json.loads((tmp_path / "stages/round-1/respond.done.json").read_text())
    assert marker["rows"] == {"in": 20, "out": 18, "quarantined": 2}
    assert marker["model"] == "weights-0"
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize("finished", [0, 1, 3, 4])
def test_a_killed_stage_ends_with_the_same_bytes_and_asks_nothing_twice(
    tmp_path: Path, uninterrupted: dict[str, bytes], finished: int
) -> None:
    root = tmp_path / "killed"
    root.mkdir()
    dying, second = Dying(finished), scripted()
    with pytest.raises(KilledError):
        open_run(root, dying).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    assert not (root / "stages/round-1/respond.jsonl").exists(), "an unfinished stage looks unfinished"
    open_run(root, second).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    assert tree(root) == uninterrupted
    first = asked(dying.inner)
    assert len(first) == 4 * finished
    assert sorted(first + asked(second)) == sorted(p.prompt for p in PROMPTS)


def test_a_process_that_dies_without_a_word_loses_only_its_batch(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    root = tmp_path / "killed"
    root.mkdir()
    script = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_run import Dying, KilledError, MODEL, PROMPTS, open_run
        from selfevo.skills import RESPOND
        class Exiting(Dying):
            def generate(self, *args):
                try:
                    return super().generate(*args)
                except KilledError:
                    os._exit(9)
        open_run(Path({str(root)!r}), Exiting(2)).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert ended.returncode == 9, ended.stderr
    second = scripted()
    open_run(root, second).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    assert tree(root) == uninterrupted
    assert len(second.calls) == len(PROMPTS) - 8


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 400))
def test_a_torn_tail_costs_only_the_rows_it_tore(tmp_path: Path, uninterrupted: dict[str, bytes], cut: int) -> None:
    root = Path(tempfile.mkdtemp(dir=tmp_path))  # hypothesis replays an example: a folder for each time
    partial = root / "stages/round-1/respond.partial.jsonl"
    with pytest.raises(KilledError):
        open_run(root, Dying(3)).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    partial.write_bytes(partial.read_bytes()[:-cut])
    whole = partial.read_bytes().count(b"\n")
    second = scripted()
    open_run(root, second).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    assert tree(root) == uninterrupted
    assert len(second.calls) == len(PROMPTS) - whole


def test_a_line_torn_inside_a_letter_is_owed_again(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    """A kill does not wait for the end of a UTF-8 sequence."""
    root = tmp_path / "torn"
    root.mkdir()
    with pytest.raises(KilledError):
        open_run(root, Dying(3)).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    partial = root / "stages/round-1/respond.partial.jsonl"
    content = partial.read_bytes()
    partial.write_bytes(content[: content.rindex("é".encode()) + 1])
    open_run(root, scripted()).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    assert tree(root) == uninterrupted


def test_a_torn_line_in_the_log_does_not_cost_the_run(tmp_path: Path) -> None:
    run = open_run(tmp_path, scripted())
    run.event("train", stage="meta", seconds=2)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "generate", "sta')
    run.event("train", stage="round-1", seconds=3)
    assert run.seconds("round-1") == 3
    assert run.seconds("meta") == 2


def test_a_finished_stage_is_read_and_not_asked_again(tmp_path: Path) -> None:
    first = open_run(tmp_path, scripted()).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    engine = scripted()
    assert open_run(tmp_path, engine).room("round-1", MODEL).rows(RESPOND, PROMPTS) == first
    assert engine.calls == []


def test_a_kill_between_the_rows_and_their_marker_loses_nothing(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    """The marker is written last; without it the rows are put together again from the partial file."""
    root = tmp_path / "killed"
    root.mkdir()
    with pytest.raises(KilledError):
        open_run(root, Dying(4)).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    (root / "stages/round-1/respond.jsonl").write_text("half of the final fi")
    open_run(root, scripted()).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    assert tree(root) == uninterrupted


def test_a_finished_file_that_was_damaged_is_refused(tmp_path: Path) -> None:
    """Its marker holds a SHA-256; rows that no longer fit it must not be trained on in silence."""
    room = open_run(tmp_path, scripted()).room("round-1", MODEL)
    room.rows(RESPOND, PROMPTS)
    path = tmp_path / "stages/round-1/respond.jsonl"
    path.write_text(path.read_text().replace("answer to question 7", "answer to anything"))
    with pytest.raises(RunError, match=r"respond\.jsonl"):
        room.rows(RESPOND, PROMPTS)


def test_a_finished_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    room = open_run(tmp_path, scripted()).room("round-1", MODEL)
    room.rows(RESPOND, PROMPTS)
    path = tmp_path / "stages/round-1/respond.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match=r"respond\.jsonl"):
        room.rows(RESPOND, PROMPTS)


def keys_of(root: Path, stage: str) -> set[str]:
    return {row["key"] for row in read_rows(root / "stages" / stage)}


@pytest.mark.parametrize("change", ["weights", "sampling", "seed", "room", "words"])
def test_a_row_is_known_by_everything_its_text_depends_on(tmp_path: Path, change: str) -> None:
    """Else a later round could be served an earlier round's answer."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    open_run(a, scripted()).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    run = open_run(b, scripted(), **({"temperature": 0.5} if change == "sampling" else {}))
    run.seed = 1 if change == "seed" else 0
    model = Model("base", Path("base"), "weights-1") if change == "weights" else MODEL
    name = "round-2" if change == "room" else "round-1"
    rows = [Prompt(p.id, p.prompt + "!") for p in PROMPTS] if change == "words" else PROMPTS
    run.room(name, model).rows(RESPOND, rows)
    assert not keys_of(a, "round-1/respond.jsonl") & keys_of(b, f"{name}/respond.jsonl")


def test_the_name_and_place_of_a_model_do_not_matter(tmp_path: Path) -> None:
    """A run directory can be moved, the base model too."""
    open_run(tmp_path, scripted()).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    engine = scripted()
    moved = Model("other", Path("/elsewhere"), "weights-0")
    open_run(tmp_path, engine).room("round-1", moved).rows(RESPOND, PROMPTS)
    assert engine.calls == []


def test_partial_answers_of_other_weights_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        open_run(tmp_path, Dying(3)).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    engine = scripted()
    open_run(tmp_path, engine).room("round-1", Model("base", Path("base"), "weights-1")).rows(RESPOND, PROMPTS)
    assert len(engine.calls) == len(PROMPTS)


def test_finished_answers_of_other_weights_are_refused(tmp_path: Path) -> None:
    open_run(tmp_path, scripted()).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    other = open_run(tmp_path, scripted()).room("round-1", Model("base", Path("base"), "weights-1"))
    with pytest.raises(RunError, match=r"round-1 holds answers .* use a new --output"):
        other.rows(RESPOND, PROMPTS)


def test_each_request_has_its_own_seed_that_does_not_depend_on_the_order(tmp_path: Path) -> None:
    seeds = []
    for name, rows in (("a", PROMPTS), ("b", PROMPTS[::-1])):
        (tmp_path / name).mkdir()
        engine = scripted()
        open_run(tmp_path / name, engine).room("round-1", MODEL).rows(RESPOND, rows)
        seeds.append({request.turns: request.seed for _, request in engine.calls})
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0].values())) == len(PROMPTS)


def test_a_stage_without_rows_ends(tmp_path: Path) -> None:
    run = open_run(tmp_path, scripted())
    assert run.room("round-1", MODEL).rows(CRITIQUE, []) == []
    assert json.loads((tmp_path / "stages/round-1/critique.done.json").read_text())["rows"]["in"] == 0


def test_an_engine_that_answers_too_few_is_caught(tmp_path: Path) -> None:
    class Forgetful(Dying):
        def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
            return super().generate(model, requests, sampling)[:-1]

    with pytest.raises(EngineError, match="3 answers to 4 requests"):
        open_run(tmp_path, Forgetful(9)).room("round-1", MODEL).rows(RESPOND, PROMPTS)
    # Nobody knows which answer is missing, so none of them may be on disk as the answer to its row.
    assert list(read_rows(tmp_path / "stages/round-1/respond.partial.jsonl")) == []


# --- the filter ---------------------------------------------------------------------------------------------------


def judged(i: int, judgement: str) -> Judged:
    return Judged(str(i), f"p{i}", "r", "f", f"s{i}", judgement)


def test_a_rejected_row_stays_on_disk_with_its_reason(tmp_path: Path) -> None:
    rows = [judged(1, "Verdict: qualified"), judged(2, "Verdict: not qualified"), judged(3, "what?")]
    room = open_run(tmp_path, scripted()).room("round-1", MODEL)
    assert room.keep(rows, by_verdict) == rows[:1]
    lines = list(read_rows(tmp_path / "stages/round-1/filter.jsonl"))
    assert [(line["id"], line["kept"], line["reason"]) for line in lines] == [
        ("1", True, None),
        ("2", False, "verdict not qualified"),
        ("3", False, "verdict unreadable"),
    ]
    assert [line["refinement"] for line in lines] == ["s1", "s2", "s3"]


# --- models -------------------------------------------------------------------------------------------------------

EXAMPLES = self_examples([judged(1, "v"), judged(2, "v")])


@pytest.fixture
def base(tmp_path: Path) -> Model:
    folder = tmp_path / "base-model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return Model("base", folder, hash_weights(folder))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_a_model_is_trained_once(root: Path, base: Model) -> None:
    trainer = ScriptedTrainer()
    first = open_run(root, scripted(), trainer).model("meta", base, EXAMPLES)
    again = open_run(root, scripted(), trainer).model("meta", base, EXAMPLES)
    assert first == again == Model("meta", root / "models/meta", hash_weights(root / "models/meta"))
    assert len(trainer.calls) == 1
    marker = json.loads((root / "models/meta/selfevo.json").read_text())
    assert (marker["start"], marker["start_weights"], marker["examples"]) == ("base", base.id, {"self": 2})


def test_a_training_that_dies_leaves_no_model_and_is_done_again(root: Path, base: Model) -> None:
    def die(path: Path, examples: Sequence[Example]) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        open_run(root, scripted(), ScriptedTrainer(before=die)).model("meta", base, EXAMPLES)
    assert not (root / "models/meta").exists()
    trainer = ScriptedTrainer()
    open_run(root, scripted(), trainer).model("meta", base, EXAMPLES)
    assert len(trainer.calls) == 1
    assert sorted(path.name for path in (root / "models").iterdir()) == ["meta"]


def test_a_folder_that_was_left_half_written_does_not_count(root: Path, base: Model) -> None:
    """KilledError while saving: what lies there has no marker and may lack half of its weights."""
    torn = root / "models/.meta.tmp"
    torn.mkdir(parents=True)
    (torn / "model-00001-of-00002.safetensors").write_bytes(b"half")
    model = open_run(root, scripted(), ScriptedTrainer()).model("meta", base, EXAMPLES)
    assert sorted(p.name for p in model.path.iterdir()) == ["examples.jsonl", "model.safetensors", "selfevo.json"]
    assert not torn.exists()


def test_scratch_space_survives_a_kill_so_that_training_can_go_on(root: Path, base: Model) -> None:
    class Checkpointing(ScriptedTrainer):
        def train(
            self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, **rest: object
        ) -> dict[str, float]:  # type: ignore[override]
            if not (work / "checkpoint").exists():
                (work / "checkpoint").write_text("half way")
                raise KilledError
            found.append((work / "checkpoint").read_text())
            return super().train(base, examples, output, work=work, **rest)  # type: ignore[arg-type]

    found: list[str] = []
    with pytest.raises(KilledError):
        open_run(root, scripted(), Checkpointing()).model("meta", base, EXAMPLES)
    open_run(root, scripted(), Checkpointing()).model("meta", base, EXAMPLES)
    assert found == ["half way"]
    assert not (root / "models/.meta.work").exists()


@pytest.mark.parametrize("change", ["examples", "start", "seed"])
def test_a_model_of_another_lineage_is_refused(root: Path, base: Model, change: str) -> None:
    open_run(root, scripted()).model("meta", base, EXAMPLES)
    run = open_run(root, scripted())
    run.seed = 1 if change == "seed" else 0
    start = Model("base", base.path, "other weights") if change == "start" else base
    with pytest.raises(RunError, match=r"models/meta was trained from other rows .* use a new --output"):
        run.model("meta", start, EXAMPLES[:1] if change == "examples" else EXAMPLES)


def test_nothing_to_train_on_is_said_before_training(root: Path, base: Model) -> None:
    trainer = ScriptedTrainer()
    with pytest.raises(TrainingError, match="nothing to train round-1 on: every row was rejected"):
        open_run(root, scripted(), trainer).model("round-1", base, [])
    assert trainer.calls == []


def test_a_trainer_that_saves_no_safetensors_is_refused(root: Path, base: Model) -> None:
    class Pickling(ScriptedTrainer):
        def train(self, *args: Path, **rest: object) -> dict[str, float]:  # type: ignore[override]
            return {}

    with pytest.raises(DataError, match="safetensors"):
        open_run(root, scripted(), Pickling()).model("meta", base, EXAMPLES)
    assert not (root / "models/meta").exists()


def test_weights_are_known_by_their_bytes(tmp_path: Path) -> None:
    def folder(name: str, **files: bytes) -> str:
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / f"{file}.safetensors").write_bytes(content)
        (tmp_path / name / "config.json").write_text(name)
        return hash_weights(tmp_path / name)

    one = folder("a", model=b"123")
    assert folder("b", model=b"123") == one
    assert len({one, folder("c", model=b"124"), folder("d", m1=b"1", m2=b"23"), folder("e", m1=b"12", m2=b"3")}) == 4
    with pytest.raises(DataError, match=r"holds no \*\.safetensors file"):
        folder("f")


# --- the directory ------------------------------------------------------------------------------------------------

CONFIG = {"model": "m", "seed": 0, "trainer": {"learning_rate": 1e-5, "lora": None}}


def test_another_configuration_is_refused_with_its_keys(root: Path) -> None:
    claim(root, CONFIG, {}, "yaml")
    claim(root, json.loads(json.dumps(CONFIG)), {}, "yaml")  # the same one resumes
    other = {"model": "m", "seed": 3, "trainer": {"learning_rate": 2e-5, "lora": {"r": 4}}}
    with pytest.raises(RunError) as caught:
        claim(root, other, {}, "yaml")
    message = str(caught.value)
    assert str(root) in message
    assert "seed: 0 in the run, 3 now" in message
    assert "trainer.learning_rate: 1e-05 in the run, 2e-05 now" in message
    assert "trainer.lora: None in the run, {'r': 4} now" in message
    assert "model" not in message
    assert json.loads((root / "config.json").read_text()) == CONFIG


def test_a_folder_of_something_else_is_left_alone(root: Path) -> None:
    (root / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="is not empty and not a selfevo run"):
        claim(root, CONFIG, {}, "yaml")
    assert [path.name for path in root.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("left", [["config.yaml"], ["config.yaml", "manifest.json"], [".config.yaml.tmp"]])
def test_a_run_killed_in_its_first_moment_can_be_started_again(root: Path, left: list[str]) -> None:
    for name in left:
        (root / name).write_text("{}")
    claim(root, CONFIG, {}, "yaml")
    assert json.loads((root / "config.json").read_text()) == CONFIG


NESTED = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8)


@given(NESTED, NESTED)
def test_differing_keys_finds_a_difference_exactly_where_there_is_one(a: object, b: object) -> None:
    assert differing_keys(a, a) == []
    # A key that is absent and one that is null mean the same in a configuration; no null is drawn here.
    assert bool(differing_keys(a, b)) == (a != b)


def test_one_process_per_run_directory(root: Path) -> None:
    with locked(root), pytest.raises(RunError, match=f"in use by process {os.getpid()}"), locked(root):
        pass
    with locked(root):
        pass  # free again


def test_the_lock_dies_with_its_owner(root: Path) -> None:
    script = f"""
        import os, sys
        from pathlib import Path
        from selfevo.run import locked
        with locked(Path({str(root)!r})):
            print(os.getpid(), flush=True)
            sys.stdin.readline()
            os._exit(9)
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    number = owner.stdout.readline().strip()
    with pytest.raises(RunError, match=f"in use by process {number}"), locked(root):
        pass
    owner.communicate("\n")
    with locked(root):
        assert (root / ".lock").read_text() == str(os.getpid())


def test_data_is_written_once(root: Path) -> None:
    run = open_run(root, scripted())
    run.save_rows("pool", PROMPTS)
    run.save_rows("pool", PROMPTS)
    with pytest.raises(RunError, match=r"pool\.jsonl holds other rows .* use a new --output"):
        run.save_rows("pool", PROMPTS[1:])
    assert [row["id"] for row in read_rows(root / "data/pool.jsonl")] == [p.id for p in PROMPTS]


def test_seconds_are_summed_by_stage_over_all_processes(root: Path) -> None:
    for stage, seconds in (("round-1", 1), ("round-1/respond", 2), ("round-1/judge", 4), ("round-10/judge", 8)):
        open_run(root, scripted()).event("any", stage=stage, seconds=seconds)
    run = open_run(root, scripted())
    assert (run.seconds("round-1"), run.seconds("round-10"), run.seconds("")) == (7, 8, 15)
