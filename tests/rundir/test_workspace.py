"""A killed run goes on where it stopped and ends with the same bytes; nothing stale is ever served."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import MODEL, PROMPTS, KilledError, asked, judged, open_run, reply, scripted, tree
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import EngineError, RunError
from selfevo.method.filters import ByVerdict
from selfevo.method.protocols import Generation, Model, Request, Sampling, generate_all, stream
from selfevo.method.records import Drafted, Prompt
from selfevo.method.skills import CRITIQUE, RESPOND
from selfevo.rundir.atomic_files import read_rows


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


@pytest.fixture
def uninterrupted(tmp_path: Path) -> dict[str, bytes]:
    root = tmp_path / "uninterrupted"
    root.mkdir()
    open_run(root, scripted()).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    return tree(root)


def test_rows_come_back_in_input_order_and_the_others_are_on_disk_with_their_reason(tmp_path: Path) -> None:
    drafted = list(open_run(tmp_path, scripted()).runner("round-1", MODEL).generate(RESPOND, PROMPTS))
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
        open_run(root, dying).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    assert not (root / "stages/round-1/respond.jsonl").exists(), "an unfinished stage looks unfinished"
    open_run(root, second).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
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
        sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
        from pathlib import Path
        from test_workspace import Dying, KilledError, MODEL, PROMPTS, open_run
        from selfevo.method.skills import RESPOND
        class Exiting(Dying):
            def generate(self, *args):
                try:
                    return super().generate(*args)
                except KilledError:
                    os._exit(9)
        open_run(Path({str(root)!r}), Exiting(2)).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert ended.returncode == 9, ended.stderr
    second = scripted()
    open_run(root, second).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    assert tree(root) == uninterrupted
    assert len(second.calls) == len(PROMPTS) - 8


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 400))
def test_a_torn_tail_costs_only_the_rows_it_tore(tmp_path: Path, uninterrupted: dict[str, bytes], cut: int) -> None:
    root = Path(tempfile.mkdtemp(dir=tmp_path))  # hypothesis replays an example: a folder for each time
    partial = root / "stages/round-1/respond.partial.jsonl"
    with pytest.raises(KilledError):
        open_run(root, Dying(3)).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    partial.write_bytes(partial.read_bytes()[:-cut])
    whole = partial.read_bytes().count(b"\n")
    second = scripted()
    open_run(root, second).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    assert tree(root) == uninterrupted
    assert len(second.calls) == len(PROMPTS) - whole


def test_a_line_torn_inside_a_letter_is_owed_again(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    """A kill does not wait for the end of a UTF-8 sequence."""
    root = tmp_path / "torn"
    root.mkdir()
    with pytest.raises(KilledError):
        open_run(root, Dying(3)).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    partial = root / "stages/round-1/respond.partial.jsonl"
    content = partial.read_bytes()
    partial.write_bytes(content[: content.rindex("é".encode()) + 1])
    open_run(root, scripted()).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
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
    first = open_run(tmp_path, scripted()).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    engine = scripted()
    assert open_run(tmp_path, engine).runner("round-1", MODEL).generate(RESPOND, PROMPTS) == first
    assert len(first) == len(list(first)) == 18
    assert engine.calls == []


def test_a_kill_between_the_rows_and_their_marker_loses_nothing(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    """The marker is written last; without it the rows are put together again from the partial file."""
    root = tmp_path / "killed"
    root.mkdir()
    with pytest.raises(KilledError):
        open_run(root, Dying(4)).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    (root / "stages/round-1/respond.jsonl").write_text("half of the final fi")
    open_run(root, scripted()).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    assert tree(root) == uninterrupted


def test_a_finished_file_that_was_damaged_is_refused(tmp_path: Path) -> None:
    """Its marker holds a SHA-256; rows that no longer fit it must not be trained on in silence."""
    runner = open_run(tmp_path, scripted()).runner("round-1", MODEL)
    runner.generate(RESPOND, PROMPTS)
    path = tmp_path / "stages/round-1/respond.jsonl"
    path.write_text(path.read_text().replace("answer to question 7", "answer to anything"))
    with pytest.raises(RunError, match=r"respond\.jsonl"):
        runner.generate(RESPOND, PROMPTS)


def test_a_finished_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    runner = open_run(tmp_path, scripted()).runner("round-1", MODEL)
    runner.generate(RESPOND, PROMPTS)
    path = tmp_path / "stages/round-1/respond.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match=r"respond\.jsonl"):
        runner.generate(RESPOND, PROMPTS)


def keys_of(root: Path, stage: str) -> set[str]:
    return {row["key"] for row in read_rows(root / "stages" / stage)}


@pytest.mark.parametrize("change", ["weights", "sampling", "seed", "runner", "words"])
def test_a_row_is_known_by_everything_its_text_depends_on(tmp_path: Path, change: str) -> None:
    """Else a later round could be served an earlier round's answer."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    open_run(a, scripted()).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    run = open_run(b, scripted(), temperature=0.5 if change == "sampling" else 0.0)
    run.seed = 1 if change == "seed" else 0
    model = Model("base", Path("base"), "weights-1") if change == "weights" else MODEL
    name = "round-2" if change == "runner" else "round-1"
    rows = [Prompt(p.id, p.prompt + "!") for p in PROMPTS] if change == "words" else PROMPTS
    run.runner(name, model).generate(RESPOND, rows)
    assert not keys_of(a, "round-1/respond.jsonl") & keys_of(b, f"{name}/respond.jsonl")


def test_the_name_and_place_of_a_model_do_not_matter(tmp_path: Path) -> None:
    """A run directory can be moved, the base model too."""
    open_run(tmp_path, scripted()).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    engine = scripted()
    moved = Model("other", Path("/elsewhere"), "weights-0")
    open_run(tmp_path, engine).runner("round-1", moved).generate(RESPOND, PROMPTS)
    assert engine.calls == []


def test_partial_answers_of_other_weights_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        open_run(tmp_path, Dying(3)).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    engine = scripted()
    open_run(tmp_path, engine).runner("round-1", Model("base", Path("base"), "weights-1")).generate(RESPOND, PROMPTS)
    assert len(engine.calls) == len(PROMPTS)


def test_finished_answers_of_other_weights_are_refused(tmp_path: Path) -> None:
    open_run(tmp_path, scripted()).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    other = open_run(tmp_path, scripted()).runner("round-1", Model("base", Path("base"), "weights-1"))
    with pytest.raises(
        RunError, match=r"respond\.jsonl holds results for other rows, another model .* use a new output directory"
    ):
        other.generate(RESPOND, PROMPTS)


def test_each_request_has_its_own_seed_that_does_not_depend_on_the_order(tmp_path: Path) -> None:
    seeds = []
    for name, rows in (("a", PROMPTS), ("b", PROMPTS[::-1])):
        (tmp_path / name).mkdir()
        engine = scripted()
        open_run(tmp_path / name, engine).runner("round-1", MODEL).generate(RESPOND, rows)
        seeds.append({request.turns: request.seed for _, request in engine.calls})
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0].values())) == len(PROMPTS)


def test_a_stage_without_rows_ends(tmp_path: Path) -> None:
    run = open_run(tmp_path, scripted())
    assert list(run.runner("round-1", MODEL).generate(CRITIQUE, [])) == []
    assert json.loads((tmp_path / "stages/round-1/critique.done.json").read_text())["rows"]["in"] == 0


def test_an_engine_that_answers_too_few_is_caught(tmp_path: Path) -> None:
    class Forgetful(Dying):
        def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
            return super().generate(model, requests, sampling)[:-1]

    with pytest.raises(EngineError, match="3 answers to 4 requests"):
        open_run(tmp_path, Forgetful(9)).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    # Nobody knows which answer is missing, so none of them may be on disk as the answer to its row.
    assert list(read_rows(tmp_path / "stages/round-1/respond.partial.jsonl")) == []


def test_a_rejected_row_stays_on_disk_with_its_reason(tmp_path: Path) -> None:
    rows = [judged(1, "Verdict: qualified"), judged(2, "Verdict: not qualified"), judged(3, "what?")]
    runner = open_run(tmp_path, scripted()).runner("round-1", MODEL)
    kept = runner.filter(rows, [ByVerdict()])
    assert (len(kept), list(kept)) == (1, rows[:1])
    lines = list(read_rows(tmp_path / "stages/round-1/filter.jsonl"))
    assert [(line["id"], line["kept"], line["reason"]) for line in lines] == [
        ("1", True, None),
        ("2", False, "verdict not qualified"),
        ("3", False, "verdict unreadable"),
    ]
    assert [line["refinement"] for line in lines] == ["s1", "s2", "s3"]


@dataclass
class Streaming(ScriptedEngine):
    """Does the slices from the last to the first, and dies before the first `lasts`."""

    lasts: int = 0
    seen: list[int] = field(default_factory=list)

    def stream(
        self, model: Path, slices: Sequence[Sequence[Request]], sampling: Sampling
    ) -> Iterator[tuple[int, list[Generation]]]:
        self.seen = [len(requests) for requests in slices]
        for place in reversed(range(len(slices))):
            if place < self.lasts:
                raise EngineError("the server is gone")
            yield place, self.generate(model, slices[place], sampling)


def test_slices_are_committed_as_they_come(tmp_path: Path) -> None:
    engine = Streaming(reply, batch_size=3, lasts=4)
    with pytest.raises(EngineError, match="the server is gone"):
        open_run(tmp_path / "run", engine).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    assert engine.seen == [3, 3, 3, 3, 3, 3, 2]
    kept = list(read_rows(tmp_path / "run/stages/round-1/respond.partial.jsonl"))
    assert len(kept) == 8, "the three slices that came"
    second = Streaming(reply, batch_size=3)
    rows = open_run(tmp_path / "run", second).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    assert len(second.calls) == 12
    assert second.seen == [3, 3, 3, 3], "none that is done is asked again"
    assert list(rows) == list(open_run(tmp_path / "b", scripted()).runner("round-1", MODEL).generate(RESPOND, PROMPTS))


def test_an_engine_that_only_generates_is_streamed_slice_by_slice() -> None:
    requests = [Request((f"{i}",), 0) for i in range(6)]
    slices = [requests[:2], requests[2:4], requests[4:]]
    come = list(stream(scripted(), Path("base"), slices, Sampling(8)))
    assert [place for place, _ in come] == [0, 1, 2]
    together = generate_all(Streaming(reply, batch_size=2), Path("base"), requests, Sampling(8))
    assert together == [generation for _, several in come for generation in several], "in order, as they may come"
