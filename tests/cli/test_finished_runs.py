"""A finished run that is started again says so, and goes on with more rounds."""

from __future__ import annotations

import json
from pathlib import Path

from commands import Selfevo, configuration
from selfevo.engines.scripted import ScriptedEngine


def test_a_finished_run_says_that_it_is_and_how_to_go_on(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    file = configuration(tmp_path)
    assert "finished before" not in selfevo("run", file)[1]
    said = "this run was finished before, so nothing was left to do; --set rounds=3 goes on with one more round"
    assert said in selfevo("run", file)[1]
    code, _, err = selfevo("run", file, "--set", "rounds=3")
    assert (code, err.count("\n")) == (2, 1)
    assert "add prompts at the end of prompts.path" in err
    with (tmp_path / "pool.jsonl").open("a") as pool:
        pool.write(json.dumps({"prompt": "9+9"}) + "\n")
    code, out, err = selfevo("run", file, "--set", "rounds=3")
    assert code == 0, err
    assert "out goes on with 3 rounds instead of 2; prompts of each round: 3, 3, 1" in err
    assert "finished before" not in out
    assert (tmp_path / "out/models/round-3").is_dir()
    code, _, err = selfevo("run", file, "--set", "rounds=2")
    assert code == 3
    assert "has begun round 3, and rounds is 2 now; set rounds to 3 or more" in err
