"""D_meta is checked: what is odd is counted by reason, in the manifest, the dry run and the doctor; too much stops."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from selfevo.checks.doctor import examine
from selfevo.checks.preview import preview
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError, DataError
from selfevo.inputs.corpus_check import CHANGED, CONTRADICTED, REPEATED, UNCHANGED, WORDLESS, count
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.records import Prompt, Refined
from selfevo.method.verdicts import Verdict
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_marker
from selfevo.tasks import steps
from selfevo.teachers.oracle import OracleTeacher
from selfevo.trainers.scripted import ScriptedTrainer
from wordings import JAPANESE

YES, NO = "Good.\nVerdict: qualified", "Bad.\nVerdict: not qualified"


def row(feedback: str = NO, response: str = "r", refinement: str = "s", prompt: str = "p") -> Refined:
    return Refined(Prompt.of(prompt).id, prompt, response, feedback, refinement)


@pytest.mark.parametrize(
    ("rows", "doubtful"),
    [
        ([row()], {}),
        ([row(YES, refinement="r")], {}),
        ([row(YES, "a b\n", " a  b")], {}),
        ([row(YES)], {CHANGED: 1}),
        ([row(YES, "<think>Hm.</think>r", "r")], {}),
        ([row(NO, "<think>Hm.</think>r", "<think>Ah.</think>\n\nr")], {UNCHANGED: 1}),
        ([row(NO, refinement=" r ")], {UNCHANGED: 1}),
        ([row(), row()], {REPEATED: 1}),
        ([row(), row(), row()], {REPEATED: 2}),
        ([row(), row(response="r2"), row(prompt="p2")], {}),
        ([row(), row(YES, refinement="r")], {CONTRADICTED: 2}),
        ([row(), row(YES)], {CONTRADICTED: 2, CHANGED: 1}),
        ([row("Verdict: not qualified")], {WORDLESS: 1}),
        ([row("**Verdict: not qualified**\n---")], {WORDLESS: 1}),
    ],
)
def test_each_doubt_has_its_reason(rows: list[Refined], doubtful: dict[str, int]) -> None:
    counts = count(rows, ENGLISH)
    assert counts.doubtful == doubtful
    assert counts.rows == len(rows) == counts.verdicts.total()
    assert bool(doubtful) == bool(counts.doubtful_rows)
    assert counts.doubtful_rows <= len(rows)


def test_verdicts_are_counted_in_the_words_of_the_run() -> None:
    rows = [row("良い。\n判定：合格", refinement="r"), row("誤り。\n判定：不合格", "r2"), row(YES, "r3", "r3")]
    assert count(rows, JAPANESE).verdicts == {"qualified": 1, "not qualified": 1, "unknown": 1}


@given(st.lists(st.tuples(st.sampled_from([YES, NO, "?"]), *3 * [st.sampled_from("ab")]), max_size=8))
def test_no_row_is_lost_and_none_is_counted_twice(rows: list[tuple[str, str, str, str]]) -> None:
    counts = count([row(*each) for each in rows], ENGLISH, ["x"])
    assert counts.rows == len(rows)
    assert counts.doubtful_rows <= len(rows) <= sum(counts.doubtful.values()) + len(rows)
    assert json.loads(json.dumps(counts.as_json()))["quarantined"] == {"x": 1}


@pytest.mark.parametrize("wording", [ENGLISH, JAPANESE])
def test_what_the_program_annotates_is_never_doubtful(wording: Wording) -> None:
    task = steps.StepsTask("demo", tuple(steps.KINDS))
    problems = task.problems(40, 0, frozenset())
    teacher = OracleTeacher(task, {problem.prompt.id: problem for problem in problems})
    rows = []
    for problem in problems:
        for response in (problem.answer, "1 2 3", f"It is\n{problem.answer}"):
            drafted = Refined(problem.prompt.id, problem.prompt.prompt, response, "", "")
            [[(_, annotation)]] = teacher.annotate([drafted])
            rows.append(row(wording.restated(annotation.feedback), response, annotation.refinement, drafted.prompt))
    counts = count(rows, wording)
    assert (counts.doubtful_rows, counts.verdicts) == (0, {"qualified": 80, "not qualified": 40})


def good(i: int) -> dict[str, str]:
    verdict, refinement = (YES, f"r{i}") if i % 2 else (NO, f"s{i}")
    return {"prompt": f"q{i}", "response": f"r{i}", "feedback": verdict, "refinement": refinement}


def configured(folder: Path, rows: list[dict[str, str]], model: Path | None = None, **corpus: Any) -> RunConfig:
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    (folder / "d_meta.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (folder / "pool.jsonl").write_text("".join(json.dumps({"prompt": f"pool {i}"}) + "\n" for i in range(4)))
    data = {
        "model": str(model or base),
        "output": str(folder / "run"),
        "prompts": {"path": str(folder / "pool.jsonl")},
        "corpus": {"path": str(folder / "d_meta.jsonl"), **corpus},
        "rounds": 1,
        "trainer": {"device": "cpu", "dtype": "float32"},
        "engine": {"device": "cpu", "dtype": "float32"},
        "skills": {name: {"max_new_tokens": 16} for name in ("respond", "critique", "refine", "judge")},
    }
    return parse_config(data, "test")


def run(config: RunConfig) -> dict[str, Any]:
    run_loop(config, Silent(), ScriptedEngine(lambda _, turns: YES if len(turns) == 3 else "a"), ScriptedTrainer())
    found: dict[str, Any] = read_marker(config.output / "manifest.json")["d_meta"]
    return found


CHANGES = {**good(1), "refinement": "better"}  # it is qualified
UNREADABLE = {**good(2), "feedback": "Fine."}


def test_the_manifest_has_the_counts_by_reason(tmp_path: Path) -> None:
    rows = [*map(good, range(3, 30)), CHANGES, good(3), UNREADABLE]
    found = run(configured(tmp_path, rows, max_bad_share=0.1))
    assert found["rows"] == 29
    assert found["verdicts"] == {"not qualified": 13, "qualified": 16}
    assert found["doubtful"] == {CHANGED: 1, REPEATED: 1}
    assert [(reason.partition(";")[0], number) for reason, number in found["quarantined"].items()] == [
        ("column 'feedback' has no readable verdict", 1)
    ]


@pytest.mark.parametrize(
    ("rows", "setting", "message"),
    [
        (
            [*map(good, range(3, 24)), *[{**CHANGES, "prompt": f"c{i}"} for i in range(3)]],
            {"max_doubtful_share": 0.13},
            r"D_meta: 3 of 24 rows are doubtful \(3 qualified, but the refinement changes the response\), more than "
            r"10\.0%; correct or remove them, or raise corpus\.max_doubtful_share",
        ),
        (
            [good(i) for i in range(1, 60, 2)],
            {"max_one_verdict": 1},
            r"D_meta: of 30 rows 30 qualified, so one verdict has more than 95\.0%.* or raise corpus\.max_one_verdict",
        ),
        (
            [good(i) for i in range(0, 16, 2)],
            {"max_one_verdict": 1},
            r"D_meta: of 8 rows 8 not qualified, so one verdict has more than 95\.0%.* raise corpus\.max_one_verdict",
        ),
    ],
)
def test_too_much_is_an_error_until_it_is_allowed(
    rows: list[dict[str, str]], setting: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        run(configured(tmp_path, rows))
    assert not list((tmp_path / "run/models").glob("*")), "before the first training"
    assert run(configured(tmp_path, rows, **setting))["rows"] == len(rows), "the same run goes on"


def test_a_small_corpus_is_only_warned_of(tmp_path: Path) -> None:
    assert run(configured(tmp_path, [CHANGES]))["doubtful"] == {CHANGED: 1}


@pytest.mark.parametrize("rows", [range(0, 14, 2), [*range(0, 36, 2), 1]])
def test_a_few_rows_may_lean_to_one_verdict(tmp_path: Path, rows: Iterable[int]) -> None:
    assert run(configured(tmp_path, [good(i) for i in rows]))["doubtful"] == {}


def test_unreadable_verdicts_above_the_share_are_an_error(tmp_path: Path) -> None:
    rows = [*map(good, range(3, 30)), UNREADABLE]
    with pytest.raises(DataError, match=r"1 of 28 rows cannot be used, .* max_bad_share: .*no readable verdict"):
        run(configured(tmp_path, rows))


def test_the_doctor_and_the_dry_run_say_it(tiny_model: Path, tmp_path: Path) -> None:
    def finding(rows: list[dict[str, str]], **corpus: Any) -> dict[str, tuple[str, str]]:
        checks = examine(configured(tmp_path, rows, tiny_model, **corpus))
        return {check.name: (check.status, f"{check.finding}; {check.remedy}") for check in checks}

    sound = [*map(good, range(3, 30))]
    assert finding(sound)["D_meta"] == ("pass", "verdict and refinement agree in all of 27 rows; ")
    status, said = finding([*sound, CHANGES])["D_meta"]
    assert (status, said.partition(";")[2]) == (
        "warn",
        " doubtful: 1 qualified, but the refinement changes the response; correct these rows, or go on with them",
    )
    changed = [{**CHANGES, "prompt": f"c{i}"} for i in range(9)]
    assert finding([*sound, *changed])["D_meta"][0] == "fail"
    assert finding([*sound, *changed], max_doubtful_share=1)["D_meta"][0] == "warn"
    assert finding([good(i) for i in range(1, 60, 2)])["verdicts"][0] == "fail"
    shown = io.StringIO()
    with pytest.raises(DataError, match="D_meta: 9 of 36 rows are doubtful"):
        preview(configured(tmp_path, [*sound, *changed], tiny_model), Console(file=shown, width=500))
    assert "estimate" in shown.getvalue(), "all is shown before"
    assert "doubtful: 9 qualified, but the refinement changes the response" in shown.getvalue()


def test_an_annotator_of_your_own_is_checked_as_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "careless_annotators.py").write_text(
        "from selfevo import Annotation\n"
        "class Careless:\n"
        "    def key(self, draft):\n"
        "        return draft.prompt\n"
        "    def annotate(self, drafts):\n"
        "        no = 'Bad.\\nVerdict: not qualified'\n"
        "        texts = [(no, 's'), ('Hm.', 's'), (no, ' ')]\n"
        "        for position, draft in enumerate(drafts):\n"
        "            yield [(position, Annotation(*texts[position % 3]))]\n"
    )
    monkeypatch.chdir(tmp_path)
    config = configured(tmp_path, [good(1)]).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps({"prompt": f"seed {i}"}) + "\n" for i in range(6)))
    config["corpus"] = {
        "prompts": "seeds.jsonl",
        "labels": 6,
        "annotator": {"kind": "careless_annotators:Careless"},
    }
    found = run(parse_config(config, "test"))
    assert found["verdicts"] == {"not qualified": 2}
    assert found["quarantined"] == {"the feedback has no readable verdict": 2, "the refinement is empty": 2}


def test_a_share_is_between_0_and_1(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.max_doubtful_share is 2; give a number less than or equal to 1"):
        configured(tmp_path, [good(1)], max_doubtful_share=2)


def test_counts_are_in_one_order() -> None:
    counts = count([row(YES, "r", "s"), row(NO, "x", "y")], ENGLISH, ["b", "a"])
    assert str(counts) == (f"1 not qualified, 1 qualified; doubtful: 1 {CHANGED}; quarantined: 1 a, 1 b")
    assert Counter(counts.as_json()["verdicts"]) == {Verdict.QUALIFIED.value: 1, Verdict.NOT_QUALIFIED.value: 1}
