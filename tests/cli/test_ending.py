"""How commands end when an argument, a stream or the file system is at fault, and how early a missing file is found."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from commands import Selfevo, configuration, one_line
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "No such command 'fly'; see: "),
        (["run", "--\x1b[31mx"], "No such option: --\\x1b[31mx"),
        (["run"], "Missing argument"),
        (["eval", "m", "--task", "demo", "--count", "many"], '--count is "many"; give a whole number; see: '),
        (["eval", "m", "--task", "demo", "--count", "0"], '--count is "0"; give a number greater than or equal to 1'),
        (["answer", "m", "hi", "--temperature", "nan"], '--temperature is "nan"; give a number'),
        (["answer", "m", "hi", "--seed", "4294967296"], '--seed is "4294967296"; give a number less than'),
        (["show", "a", "b"], "unexpected extra argument"),
    ],
)
def test_an_argument_that_does_not_parse_is_one_line(selfevo: Selfevo, arguments: list[str], said: str) -> None:
    code, _, err = selfevo(*arguments)
    assert code == 2
    assert said in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["init", "file/x.yaml"], "file: File exists; give another path"),
        (["init", "x" * 300], "xxx: File name too long; give a shorter path"),
        (["runs", "x" * 300], "File name too long; give a shorter path"),
        (["report", "x" * 300], "File name too long; give a shorter path"),
        (["demo", "--write-config", "file/x.yaml"], "file: File exists; give another path"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line(
    selfevo: Selfevo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], said: str
) -> None:
    monkeypatch.setattr("selfevo.cli.demo.demo_model", lambda: tmp_path)
    (tmp_path / "file").write_text("mine")
    code, _, err = selfevo(*arguments)
    assert code == 3
    assert said in one_line(err)


def in_a_shell(folder: Path, command: str, stdin: bytes = b"") -> tuple[int, str, str]:
    done = subprocess.run(
        ["bash", "-c", command.replace("selfevo", f"{sys.executable} -m selfevo")],
        cwd=folder,
        input=stdin,
        capture_output=True,
        timeout=60,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_streams_that_are_closed_or_full_are_no_traceback(tmp_path: Path) -> None:
    assert in_a_shell(tmp_path, "selfevo --version >&-") == (0, "", "")
    assert in_a_shell(tmp_path, "selfevo show nowhere 2>&-") == (3, "", "")
    code, _, err = in_a_shell(tmp_path, "selfevo --version > /dev/full")
    assert code == 3
    assert "standard output, or a file: No space left on device; free some space" in one_line(err)
    code, _, err = in_a_shell(tmp_path, "selfevo show nowhere 2> /dev/full")
    assert code == 3
    code, _, err = in_a_shell(tmp_path, "COLUMNS=0 selfevo show nowhere")
    assert "nowhere is not a run directory" in one_line(err)


def test_output_that_nobody_reads_to_the_end_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "held.py").write_text(
        "import sys\nfrom selfevo.cli.ending import end\nsys.exit(end(lambda: print('held') or input() and 0))\n"
    )
    command = f"(sleep 1; echo) | {sys.executable} held.py | true; echo ${{PIPESTATUS[1]}}"
    assert in_a_shell(tmp_path, command) == (0, "1\n", "")


def test_a_prompt_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    for command, stdin in (("selfevo answer nowhere", b"\xff\xfe"), ("selfevo answer nowhere $'\\xff'", b"")):
        code, _, err = in_a_shell(tmp_path, f"PYTHONUTF8=1 {command}", stdin)
        assert code == 2
        assert "not UTF-8" in one_line(err)


def test_json_on_a_terminal_moves_no_cursor_and_says_the_same(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration(tmp_path)
    said = "a\x1b[2J\x9b1m\x7f\u202e\u2028é😀\\u0041"
    scripted_answer = ScriptedEngine(lambda model, turns: said)
    monkeypatch.setattr("selfevo.serving.refiner.build_engine", lambda *_: scripted_answer)
    code, out, err = selfevo("answer", tmp_path / "base", "hi", "--json", "--refine", "never")
    assert code == 0, err
    assert not set(out) & set("\x1b\x9b\x7f\u202e\u2028")
    assert "é😀" in out
    assert json.loads(out)["text"] == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "none.yaml"], "none.yaml does not exist"),
        (["run", "run.yaml", "--set", "prompts.path=none.jsonl"], "none.jsonl does not exist"),
        (["run", "run.yaml", "--set", "corpus.path=none.jsonl"], "none.jsonl does not exist"),
        (["run", "run.yaml", "--set", "decontaminate=[none.jsonl]"], "none.jsonl does not exist"),
        (["run", "run.yaml", "--set", "prompts={task: {name: dmo}}"], "unknown task 'dmo'; did you mean 'demo'?"),
        (["run", "run.yaml", "--dry-run", "--set", "gate={prompts: none.jsonl}"], "none.jsonl does not exist"),
        (["doctor", "run.yaml", "--set", "evaluation={task: {name: gsm8k, path: n.jsonl}}"], "n.jsonl does not exist"),
        (["annotate", "run.yaml", "--set", "prompts.path=none.jsonl"], "none.jsonl does not exist"),
        (["ablate", "run.yaml", "--set", "prompts.path=none.jsonl"], "none.jsonl does not exist"),
        (["demo", "--task", "dmo", "--write-config", "x.yaml"], "did you mean 'demo'?"),
        (["eval", "base", "--task", "dmo"], "did you mean 'demo'?"),
        (["eval", "base", "--task", "gsm8k", "--path", "none.jsonl"], "none.jsonl does not exist"),
        (["eval", "./none", "--task", "demo"], "folder ./none does not exist"),
        (["answer", "./none", "hi"], "folder ./none does not exist"),
        (["answer", "base", "hi", "--refine", "sometimes"], "refine is 'sometimes'"),
        (["compare", "pool.jsonl", "pool.jsonl", "--judge", "./none", "--column", "prompt"], "./none does not exist"),
    ],
)
def test_what_is_missing_is_found_before_anything_heavy_is_imported(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    configuration(tmp_path)
    code = (
        "import sys; from selfevo.cli import app, demo; from pathlib import Path; "
        f"demo.demo_model = lambda: Path('base'); sys.argv = {['selfevo', *arguments]!r}\n"
        "try:\n    app.main()\n"
        "finally:\n    print(sorted({'torch', 'transformers', 'datasets'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert said in one_line(done.stderr)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_last_resort_needs_neither_a_temporary_folder_nor_an_installed_package(
    selfevo: Selfevo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("seven\nby zero")

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    def gone(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("selfevo.rundir.inspect.summarise", fails)
    monkeypatch.setattr("tempfile.mkstemp", full)
    monkeypatch.setattr("selfevo.cli.ending.metadata", gone)
    code, _, err = selfevo("show", "x")
    assert code == 70
    assert "unforeseen ZeroDivisionError: seven by zero; please report it, from test_ending.py line" in one_line(err)
    assert "its traceback cannot be saved (No space left on device)" in err


def settings(section: type[BaseModel], place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The dotted keys of a section and of the sections in it."""
    found = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += settings(inner, (*place, name))
        else:
            found.append((*place, name))
    return found


@pytest.mark.parametrize("wrong", ["many", -1, 1.5, 1e300, True, None, [], ["x"], {"x": 1}, float("inf"), 10**30])
def test_no_message_speaks_of_pydantic_or_of_valid_input(wrong: Any) -> None:
    minimal = {"model": "m", "output": "out", "prompts": {"path": "p.jsonl"}, "corpus": {"path": "d.jsonl"}}
    for *parents, last in settings(RunConfig):
        data: dict[str, Any] = json.loads(json.dumps(minimal))
        place = data
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = wrong
        try:
            parse_config(data, "x.yaml")
        except ConfigError as error:
            assert "\n" not in str(error)
            for word in ("nput should", "valid ", "should be", "should have", "pydantic", "unable to parse"):
                assert word not in str(error), error
