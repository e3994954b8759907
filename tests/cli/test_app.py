"""The commands as a user types them: help with an example, one line and an exit code for every mistake."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import COMMANDS, NO, Selfevo, configuration, one_line
from selfevo.config.loading import load_config
from selfevo.engines.scripted import ScriptedEngine
from selfevo.rundir.results import load_results


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_says_what_it_does_and_gives_an_example(selfevo: Selfevo, command: str) -> None:
    code, out, _ = selfevo(command, "--help")
    assert code == 0
    words = " ".join(out.split())
    said = " ".join((COMMANDS[command].help or "").partition("\n\n")[0].replace("`", "").split())
    assert said
    assert said in words
    assert f"selfevo {command} " in words.partition("Example")[2]


def test_help_names_every_command(selfevo: Selfevo) -> None:
    code, out, _ = selfevo("--help")
    assert code == 0
    for command in COMMANDS:
        assert command in out


def test_without_arguments_there_is_help(selfevo: Selfevo) -> None:
    _, out, err = selfevo()
    assert "Usage" in out + err


def test_version(selfevo: Selfevo) -> None:
    assert selfevo("--version") == (0, version("selfevo") + "\n", "")


def test_the_installed_command_exits_with_the_code_of_its_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "selfevo", "run", "absent.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "40"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "absent.yaml does not exist" in one_line(done.stderr), "a narrow terminal does not break the line"


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"polcy": "restart"}, "unknown key 'polcy'; did you mean 'policy'?"),
        ({"rounds": 0}, "rounds is 0"),
        ({"corpus": {}}, "give exactly one of path, prompts and task"),
        ({"model": "./nowhere"}, "./nowhere does not exist"),
        ({"prompts": {"path": "absent.jsonl"}}, "absent.jsonl does not exist"),
        ({"prompts": {"path": "pool.jsonl", "column": "text"}}, "no column 'text'; it has 'prompt'"),
        ({"evaluation": {"task": {"name": "add-to-eac"}}}, "unknown task 'add-to-eac'; did you mean 'add-to-each'?"),
        ({"evaluation": {"task": {"name": "gsm8k"}}}, "give task.path"),
        ({"prompts": {"path": "d_meta.jsonl"}, "rounds": 1}, "share 1 prompt"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line_and_exit_code_2(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path, settings: dict[str, Any], part: str
) -> None:
    code, _, err = selfevo("run", configuration(tmp_path, **settings))
    assert code == 2
    assert part in one_line(err)
    assert scripted.calls == []


@pytest.mark.parametrize(
    ("override", "part"),
    [("seed", "does not have the form key.subkey=value"), ("sede=1", "did you mean 'seed'?"), ("seed=[1", "YAML")],
)
def test_a_mistake_in_an_override_is_one_line_and_exit_code_2(
    selfevo: Selfevo, tmp_path: Path, override: str, part: str
) -> None:
    code, _, err = selfevo("run", configuration(tmp_path), "--set", override)
    assert code == 2
    assert part in one_line(err)


def test_brackets_in_a_message_are_shown_as_they_are(selfevo: Selfevo, tmp_path: Path) -> None:
    """Rich would take [bold] for markup and drop it."""
    code, _, err = selfevo("run", "a[bold]b.yaml")
    assert code == 2
    assert "a[bold]b.yaml" in one_line(err)


def test_init_writes_a_configuration_that_loads(selfevo: Selfevo, tmp_path: Path) -> None:
    code, out, _ = selfevo("init", "mine.yaml")
    assert code == 0
    assert "selfevo run mine.yaml" in out
    config = load_config(tmp_path / "mine.yaml")
    assert config.policy == "restart"
    # What it shows as values are the defaults, so that deleting a line changes nothing.
    bare = {name: config.model_dump(mode="json")[name] for name in ("model", "output", "prompts", "corpus")}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(bare))
    assert load_config(tmp_path / "bare.yaml") == config


def test_init_overwrites_nothing_unless_told(selfevo: Selfevo, tmp_path: Path) -> None:
    (tmp_path / "selfevo.yaml").write_text("mine")
    code, _, err = selfevo("init")
    assert code == 2
    assert "--force" in one_line(err)
    assert (tmp_path / "selfevo.yaml").read_text() == "mine"
    assert selfevo("init", "--force")[0] == 0
    load_config(tmp_path / "selfevo.yaml")


def test_init_makes_the_folder_it_writes_into(selfevo: Selfevo, tmp_path: Path) -> None:
    assert selfevo("init", "configs/mine.yaml")[0] == 0
    load_config(tmp_path / "configs/mine.yaml")


def test_a_run_prints_its_table_and_can_be_started_again(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    path = configuration(tmp_path)
    code, out, _ = selfevo("run", path)
    assert code == 0
    for word in ("base", "sft", "meta", "round-1", "round-2", "out/report.html", "McNemar"):
        assert word in out
    asked = len(scripted.calls)
    assert selfevo("run", path)[0] == 0
    assert len(scripted.calls) == asked


def test_overrides_reach_the_run(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    assert selfevo("run", configuration(tmp_path), "--set", "rounds=1", "--set", "output=elsewhere")[0] == 0
    assert (tmp_path / "elsewhere/models/round-1").is_dir()
    assert not (tmp_path / "elsewhere/models/round-2").exists()


def test_another_configuration_for_the_same_run_is_exit_code_3(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    path = configuration(tmp_path)
    selfevo("run", path)
    code, _, err = selfevo("run", path, "--set", "beta=0.5")
    assert code == 3
    assert "beta: 1.0 in the run, 0.5 now" in one_line(err)


def test_a_round_that_keeps_nothing_is_exit_code_5(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    scripted.answer = lambda model, turns: NO if len(turns) == 3 else "3"
    code, _, err = selfevo("run", configuration(tmp_path, policy="continual-latest"))
    assert code == 5
    *alarms, last = err.splitlines(keepends=True)
    assert "no training examples, because no kept row gives one" in one_line(last)
    assert all("round-1: " in alarm for alarm in alarms)


def test_report_shows_a_finished_run_again(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    selfevo("run", configuration(tmp_path))
    (tmp_path / "out/report.html").unlink()
    code, out, _ = selfevo("report", "out")
    assert code == 0
    assert "round-2" in out
    assert (tmp_path / "out/report.html").read_text().startswith("<!")


def test_report_on_what_is_no_run_is_exit_code_3(selfevo: Selfevo, tmp_path: Path) -> None:
    code, _, err = selfevo("report", tmp_path)
    assert code == 3
    assert "is not a selfevo run" in one_line(err)
    assert selfevo("report", "absent")[0] == 3


def test_report_on_a_run_that_has_just_begun_is_no_traceback(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    """Killed before the first model was measured: the page can be written, there is no table yet."""
    selfevo("run", configuration(tmp_path))
    (tmp_path / "out/results.json").unlink()
    code, out, _ = selfevo("report", "out")
    assert code == 0
    assert "report.html" in out


def test_runs_show_verify_and_gc(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    selfevo("run", configuration(tmp_path), "--set", "output=runs/mine", "--set", "rounds=3")
    code, out, _ = selfevo("runs")
    assert code == 0
    assert "runs/mine" in out
    assert "finished" in out
    code, out, _ = selfevo("show", "runs/mine")
    assert code == 0
    for word in ("round-1/respond", "round-3/filter", "rejected or quarantined", "sft"):
        assert word in out
    code, out, _ = selfevo("verify", "runs/mine")
    assert (code, "are unchanged" in out) == (0, True)
    code, out, _ = selfevo("gc", "runs/mine", "--yes")
    assert code == 0
    assert "runs/mine/models/sft" in out
    assert "freed" in out
    assert "nothing to remove" in selfevo("gc", "runs/mine")[1]
    (tmp_path / "runs/mine/models/round-3/model.safetensors").write_bytes(b"other")
    code, _, err = selfevo("verify", "runs/mine")
    assert code == 3
    assert "round-3/model.safetensors was changed" in one_line(err)


def test_gc_asks_first(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selfevo("run", configuration(tmp_path))
    weights = tmp_path / "out/models/meta/model.safetensors"
    for answer, left in (("n", True), ("y", False)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{answer}\n"))
        code, out, _ = selfevo("gc", "out")
        assert (code, "remove these?" in out) == (0, True)
        assert weights.exists() is left


@pytest.mark.parametrize("command", ["show", "verify", "gc"])
def test_a_folder_that_is_no_run_is_exit_code_3(selfevo: Selfevo, command: str) -> None:
    code, _, err = selfevo(command, "absent")
    assert code == 3
    assert "`selfevo runs FOLDER` lists" in one_line(err)


def test_a_folder_without_runs_is_exit_code_2(selfevo: Selfevo) -> None:
    code, _, err = selfevo("runs", "absent")
    assert code == 2
    assert "holds no run directory" in one_line(err)


def test_eval_prints_the_table_of_one_model(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    configuration(tmp_path)
    code, out, _ = selfevo("eval", "base", "--task", "demo", "--count", 6, "--output", "measured")
    assert code == 0
    assert "base" in out
    assert load_results(tmp_path / "measured").models[0].direct.n == 6


@pytest.mark.parametrize(
    ("task", "part"),
    [
        ("add-to-eac", "did you mean 'add-to-each'?"),
        ("gsm-8k", "did you mean 'gsm8k'?"),
        ("gsm8k", "give task.path"),
        ("nothing-like-it", "known: demo"),
    ],
)
def test_eval_with_a_task_that_is_not_there_names_a_close_one(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path, task: str, part: str
) -> None:
    configuration(tmp_path)
    code, _, err = selfevo("eval", "base", "--task", task)
    assert code == 2
    assert part in one_line(err)


def test_eval_of_a_model_that_is_not_there(selfevo: Selfevo, scripted: ScriptedEngine) -> None:
    code, _, err = selfevo("eval", "./nowhere", "--task", "demo")
    assert code == 2
    assert "./nowhere does not exist" in one_line(err)


@pytest.mark.parametrize("arguments", [["fly"], ["run"], ["eval"], ["eval", "m", "--task", "demo", "--count", "0"]])
def test_arguments_that_do_not_parse_are_exit_code_2(selfevo: Selfevo, arguments: list[str]) -> None:
    code, _, err = selfevo(*arguments)
    assert code == 2
    assert "--help" in one_line(err)


def test_a_dry_run_shows_what_is_learnt_and_leaves_nothing(selfevo: Selfevo, tiny_model: Path, tmp_path: Path) -> None:
    path = configuration(tmp_path, tiny_model)
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, _ = selfevo("run", path, "--dry-run")
    assert code == 0
    for shown in ("7+7", "<|im_start|>assistant", "Off by one.", "Verdict: not qualified", "in the loss", "max_length"):
        assert shown in out
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_dry_run_shows_the_layout_of_what_an_annotator_has_yet_to_write(
    selfevo: Selfevo, tiny_model: Path, tmp_path: Path
) -> None:
    path = configuration(tmp_path, tiny_model)
    (tmp_path / "asked.jsonl").write_text('{"prompt": "What is new?"}\n')
    data = yaml.safe_load(path.read_text())
    data["corpus"] = {"prompts": str(tmp_path / "asked.jsonl"), "annotator": {"model": "m"}}
    path.write_text(yaml.safe_dump(data))
    code, out, _ = selfevo("run", path, "--dry-run")
    assert code == 0
    for shown in ("What is new?", "(the feedback)", "(r^)", "not known yet"):
        assert shown in out
