"""What becomes of a model's thinking in the rows of a run: dropped, kept for training, or shown to the critic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from runs import MODEL, PROMPTS, open_run
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.evolution import trajectories
from selfevo.method.protocols import Generation
from selfevo.method.records import Turns
from selfevo.method.skills import RESPOND
from selfevo.method.thinking import Thinking
from selfevo.method.training_examples import self_examples
from selfevo.rundir.atomic_files import read_rows

THOUGHT = "<think>\nsecret\n</think>\n\n"


def thinks(model: Path, turns: Turns) -> str | Generation:
    if len(turns) == 3:
        return THOUGHT + "Fine.\nVerdict: qualified"
    if turns[0] == PROMPTS[1].prompt:
        return "<think>\nsecret and so on"
    return THOUGHT + ("better" if len(turns) == 5 else "good")


@pytest.mark.parametrize(
    ("thinking", "response", "refinement", "heard"),
    [
        ("drop", "good", "better", "good"),
        ("keep", THOUGHT + "good", THOUGHT + "better", "good"),
        ("show", "secret\n\ngood", "secret\n\nbetter", "secret\n\ngood"),
    ],
)
def test_rows_hold_what_the_setting_says(
    tmp_path: Path, thinking: Thinking, response: str, refinement: str, heard: str
) -> None:
    engine = ScriptedEngine(thinks)
    workspace = replace(open_run(tmp_path, engine), thinking=thinking)
    rows = list(trajectories(workspace.runner("round-1", MODEL), PROMPTS[:3]))
    assert [row.id for row in rows] == [PROMPTS[0].id, PROMPTS[2].id]
    assert {(row.response, row.refinement) for row in rows} == {(response, refinement)}
    assert self_examples(rows)[0].turns[-1] == refinement
    assert {request.turns[1] for _, request in engine.calls if len(request.turns) == 5} == {heard}
    if thinking != "show":
        assert "secret" not in str([request.turns for _, request in engine.calls])
    drafts = list(read_rows(tmp_path / "stages/round-1/respond.jsonl"))
    assert [row["generation"]["text"] for row in drafts][::2] == [THOUGHT + "good"] * 2, "nothing is lost"
    assert (drafts[1]["reason"], drafts[1]["status"]) == ("length", "quarantined")
    [measured, *_] = workspace.runner("evaluate", MODEL).generations(RESPOND, PROMPTS[:1])
    assert measured.text == response


def test_rows_of_another_setting_are_not_taken(tmp_path: Path) -> None:
    keys = []
    for thinking in ("drop", "keep", "show"):
        root = tmp_path / thinking
        root.mkdir()
        workspace = replace(open_run(root, ScriptedEngine(thinks)), thinking=thinking)
        workspace.runner("round-1", MODEL).generate(RESPOND, PROMPTS[:1])
        keys.append(json.loads((root / "stages/round-1/respond.jsonl").read_text())["key"])
    assert len(set(keys)) == 3
