"""A command that did what was asked but has nothing to show for it says so last, and ends with exit code 7."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.cells import cell_len

from commands import NO, YES, Selfevo, configuration, one_line
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.prompts import REFINE
from selfevo.method.protocols import Generation
from selfevo.method.records import Turns
from selfevo.rundir.results import load_results

CUT = Generation("and so on and so", "length", 9, 256)


def never_qualified(model: Path, turns: Turns) -> str:
    return NO if len(turns) == 3 else "3"


def cut_on_problems(model: Path, turns: Turns) -> str | Generation:
    """The problems of the evaluation are longer than the prompts of the pool."""
    if len(turns) == 1 and len(turns[0]) > 10:
        return CUT
    if len(turns) == 3:
        return NO if turns[1] == "3" else YES
    return "4" if turns[-1] == REFINE else "3"


def test_a_round_that_keeps_nothing_is_an_alarm(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    scripted.answer = never_qualified
    code, out, err = selfevo("run", configuration(tmp_path))
    assert code == 7
    assert "0 of 3" in out
    *_, first, second = err.splitlines()
    assert first.startswith("selfevo: alarm: round-1: it kept none of its 3 rows (filter: 3 verdict not qual")
    assert second.startswith("selfevo: alarm: round-2: it kept none") and "choose another filter" in second
    assert [(alarm.kind, alarm.place) for alarm in load_results(tmp_path / "out").alarms] == [
        ("empty round", "round-1"),
        ("empty round", "round-2"),
    ]
    assert selfevo("run", configuration(tmp_path))[0] == 7, "the same command says the same"
    code, out, err = selfevo("report", "out")
    assert (code, err.count("alarm: round-")) == (0, 2), "to look at a run is no failure"


def test_rows_that_were_cut_are_an_alarm_with_the_limit(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    scripted.answer = lambda model, turns: CUT
    code, _, err = selfevo("run", configuration(tmp_path, evaluation=None))
    assert code == 7
    assert err.splitlines()[-1].endswith(
        "it kept none of its 3 rows (respond: 3 cut at the token limit); raise skills.respond.max_new_tokens above 256"
    )


def test_an_evaluation_whose_answers_were_all_cut_is_an_alarm(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    scripted.answer = cut_on_problems
    code, out, err = selfevo("run", configuration(tmp_path))
    assert code == 7
    said = [line for line in err.splitlines() if line.startswith("selfevo: alarm: ")]
    assert [line.split()[2] for line in said] == ["base:", "sft:", "meta:", "round-1:", "round-2:"]
    assert "5 of 5 answers are incomplete and count as wrong (5 cut at the token limit)" in said[0]
    assert said[0].endswith("raise skills.respond.max_new_tokens above 256")
    assert "incomplete" in out
    assert load_results(tmp_path / "out").models[0].incomplete == {"length": 5}

    code, out, err = selfevo("eval", "base", "--task", "add-to-each", "--count", "5")
    assert code == 7
    assert one_line(err).endswith("raise max_new_tokens above 256")
    assert selfevo("eval", "base", "--task", "add-to-each", "--count", "5", "--quiet")[1].startswith(
        "add-to-each, seed 0"
    )


def test_one_whole_answer_in_five_is_no_alarm(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    configuration(tmp_path)
    asked: list[str] = []

    def answer(model: Path, turns: Turns) -> str | Generation:
        asked.append(turns[0])
        return cut_on_problems(model, turns) if turns[0] != asked[0] else YES

    scripted.answer = answer
    code, out, _ = selfevo("eval", "base", "--task", "add-to-each", "--count", "5")
    assert code == 0
    assert " 4 " in out


def test_an_annotation_that_loses_most_rows_is_an_alarm(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    (tmp_path / "written.py").write_text(
        "from selfevo.teachers.base import Annotation\n"
        "class Broken:\n"
        "    key = staticmethod(lambda draft: draft.id)\n"
        "    def annotate(self, drafts):\n"
        "        for place, draft in enumerate(drafts):\n"
        "            reason = 'no verdict' if place else ''\n"
        "            yield [(place, Annotation('Fine.\\nVerdict: qualified', draft.response, reason or None))]\n"
    )
    corpus = {"prompts": "pool.jsonl", "annotator": "written:Broken"}
    path = configuration(tmp_path, corpus=corpus, prompts={"path": "other.jsonl"}, evaluation=None)
    (tmp_path / "other.jsonl").write_text("".join(json.dumps({"prompt": f"{i}-{i}"}) + "\n" for i in range(4)))
    code, out, err = selfevo("annotate", path)
    assert code == 7, err
    assert "1 rows" in out
    assert "d_meta: 5 of 6 prompts gave no row (5 no verdict), so D_meta is small" in err.splitlines()[-1]
    code, _, err = selfevo("run", path)
    assert code == 7
    assert load_results(tmp_path / "out").alarms[0].kind == "annotation"


def test_an_ablation_goes_on_after_an_alarm(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    scripted.answer = never_qualified
    code, out, err = selfevo("ablate", configuration(tmp_path), "--only", "no-filter", "--seeds", "0")
    assert code == 7
    assert "no-filter" in out and "table: " in out
    assert [line.split(": ")[2] for line in err.splitlines() if "alarm: " in line] == [
        "self-seed0, round-1",
        "self-seed0, round-2",
    ]


def test_an_ablation_names_a_run_that_an_alarm_stopped(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    scripted.answer = never_qualified
    path = configuration(tmp_path, monitors={"on_alarm": "stop"})
    code, out, err = selfevo("ablate", path, "--only", "no-filter", "--seeds", "0")
    assert code == 7 and "table: " in out
    for name in ("self-seed0", "no-filter-seed0"):
        assert f"alarm: {name}: an alarm stopped it (monitors.on_alarm is stop), so the table leaves it out; set" in err


def test_a_run_without_an_evaluation_says_what_was_done(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    code, out, _ = selfevo("run", configuration(tmp_path, evaluation=None))
    assert code == 0
    assert "None" not in out
    assert "no model was measured on held-out problems, for there is no evaluation" in out
    assert "rows of the rounds" in out
    assert "models: meta, round-1, round-2, in out/models" in out
    code, out, _ = selfevo("run", configuration(tmp_path, evaluation=None), "--quiet")
    assert out.startswith("no model was measured")


def test_an_answer_that_was_cut_is_printed_with_the_reason(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    configuration(tmp_path)
    scripted.answer = lambda model, turns: CUT
    code, out, err = selfevo("answer", "base", "1+1")
    assert code == 7
    assert out == "and so on and so\n[not whole: cut at the token limit; raise --max-new-tokens above 256]\n"
    assert one_line(err) == (
        "selfevo: 1 of 1 answers not whole: cut at the token limit; raise --max-new-tokens above 256"
    )
    code, out, _ = selfevo("answer", "base", "1+1", "--json", "--max-new-tokens", "7")
    found = json.loads(out)
    assert code == 7
    assert (found["text"], found["finish"], found["partial"]) == ("", "length", "and so on and so")
    scripted.answer = lambda model, turns: Generation("", "overlong", 900, 0)
    code, out, _ = selfevo("answer", "base", "1+1")
    assert (
        out
        == "[not whole: the prompt does not fit the context; give shorter prompts, or a model with a longer context]\n"
    )


def test_the_work_shows_what_was_cut(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    configuration(tmp_path)
    scripted.answer = lambda model, turns: NO if len(turns) == 3 else CUT if turns[-1] == REFINE else "3"
    code, out, _ = selfevo("answer", "base", "1+1", "--show-work")
    assert code == 0, "the draft is whole, and it is the answer"
    assert "its refinement, which does not replace it\nand so on and so\n[not whole: cut" in out
    assert out.endswith("verdict not qualified\n3\n")
    scripted.answer = lambda model, turns: CUT if len(turns) == 3 else "3"
    code, out, _ = selfevo("answer", "base", "1+1", "--show-work")
    assert "3\nand so on and so\n[not whole: cut at the token limit; raise --max-new-tokens above 512]\n" in out


@pytest.mark.parametrize("width", [50, 80, 100])
def test_every_table_fits_the_terminal(
    width: int, selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / ("a-model-with-a-long-name-" * 6)
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    out = "runs/" + "a-run-with-a-long-name-" * 6
    path = configuration(tmp_path, base, output=out, samples_per_prompt=2)
    monkeypatch.setattr("selfevo.report.terminal.console._width", width)
    for arguments in (
        ("run", path),
        ("show", out),
        ("runs", "runs"),
        ("report", out),
        ("ablate", path, "--only", "one-round", "--seeds", "0"),
        ("eval", base, "--task", "demo", "--count", "6", "--consistency", "2"),
    ):
        _, shown, err = selfevo(*arguments)
        table = [line for line in shown.splitlines() if line[:1] in set("┏┃┡│└")]
        assert table, err
        assert max(map(cell_len, table)) <= width, arguments
        assert {line[-1] for line in table} <= set("┓┃┩│┘"), "no column is cut off"
        assert "…" not in "".join(table), "no number is cut off"
