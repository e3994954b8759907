"""Input that nobody would give on purpose: one line with the value, the place and a remedy, never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands import Selfevo, configuration, one_line
from selfevo.engines.scripted import ScriptedEngine
from selfevo.report.terminal import printable

Damage = Callable[[Path], object]


def output(name: str) -> Damage:
    return lambda folder: configuration(folder, output=name)


def text(old: str, new: str) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "run.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


def rows(*lines: str | bytes, name: str = "pool.jsonl") -> Damage:
    encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
    return lambda folder: (folder / name).write_bytes(b"\n".join(encoded) + b"\n")


def appended(line: str) -> Damage:
    return lambda folder: (folder / "run.yaml").open("a").write(line + "\n")


def a_folder(name: str) -> Damage:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def dangling(folder: Path) -> None:
    (folder / "out").symlink_to(folder / "gone" / "away")


def a_file(folder: Path) -> None:
    (folder / "out").write_text("mine")


def read_only(folder: Path) -> None:
    (folder / "sub").mkdir(mode=0o500)
    configuration(folder, output="sub/out")


MISTAKES: dict[str, tuple[Damage, int, str]] = {
    "the output is a file": (a_file, 3, "out cannot be locked \\(File exists\\); give another path"),
    "the output is in a file": (output("pool.jsonl/out"), 3, "a part of it is a file, not a folder"),
    "the output is a dangling link": (dangling, 3, "out cannot be locked"),
    "NUL in the output": (output("a\0b"), 2, "output: .* is no name of a directory; give another one"),
    "half a surrogate in the output": (output("a\ud800"), 2, "output: .* is no name of a directory; give another"),
    "300 characters": (output("x" * 300), 2, "output: xxx.* has 300 bytes; a name has at most 255"),
    "300 bytes": (output("runs/" + "ü" * 150), 2, "output: üüü.* has 300 bytes"),
    "a negative seed": (appended("seed: -1"), 2, "seed is -1; .*greater than or equal to 0"),
    "a seed of 2^32": (appended("seed: 4294967296"), 2, "seed is 4294967296; .*less than 4294967296"),
    "a seed that is a text": (appended("seed: one"), 2, 'seed is "one"'),
    "a key that is a date": (appended("2026-01-02: x"), 2, "unknown key '2026-01-02'"),
    "a key that is a number": (appended("1: x"), 2, "the key '1' is no text; quote it"),
    "a key that is true": (appended("yes: x"), 2, "the key 'yes' is no text; quote it"),
    "a key that is nothing": (appended("~: x"), 2, "the key '~' is no text; quote it"),
    "a key that is a list": (appended("[a, b]: x"), 2, "is no text; quote it"),
    "a key twice": (appended("rounds: 3"), 2, "the key 'rounds' is there twice"),
    "a key twice further in": (appended("trainer: {max_length: 1, max_length: 2}"), 2, "'max_length' is there twice"),
    "a value that is a date": (text("rounds: 2", "rounds: 2026-01-02"), 2, 'rounds is "2026-01-02"'),
    "an alias that holds itself": (appended("engine: &a {kind: *a}"), 2, "an alias .* must not hold itself"),
    "a list that holds itself": (appended("decontaminate: &a [*a]"), 2, "an alias .* must not hold itself"),
    "deep nesting": (appended("x: " + "[" * 3000 + "]" * 3000), 2, "it is nested too deeply"),
    "deep keys": (appended("x: " + "{a: " * 3000 + "1" + "}" * 3000), 2, "it is nested too deeply"),
    "a tag of Python": (appended("x: !!python/object/apply:os.system [id]"), 2, "is not YAML for a configuration"),
    "no YAML": (appended("x: [1"), 2, "is not YAML for a configuration"),
    "a tab": (appended("x:\n\t- 1"), 2, "is not YAML for a configuration"),
    "no configuration": (lambda f: (f / "run.yaml").write_text("[1, 2]"), 2, "holds list, not keys and values"),
    "an empty configuration": (lambda f: (f / "run.yaml").write_text(""), 2, "holds NoneType, not keys and values"),
    "a configuration in Latin-1": (
        lambda f: (f / "run.yaml").write_bytes(b"model: \xe9"),
        2,
        "give a text file in UTF",
    ),
    "a configuration in UTF-16": (
        lambda f: (f / "run.yaml").write_text("model: x", encoding="utf-16"),
        2,
        "cannot be read|not YAML",
    ),
    "a configuration that is a folder": (
        a_folder("run.yaml"),
        2,
        "run.yaml does not exist|cannot be read",
    ),
    "infinity": (appended("beta: .inf"), 2, "beta"),
    "no number": (appended("beta: .nan"), 2, "beta"),
    "no prompts in UTF-8": (rows(b'{"prompt": "\xff"}'), 2, "pool.jsonl"),
    "no JSON": (rows("{"), 2, "pool.jsonl"),
    "no object": (rows("[1]", "2", "null"), 2, "pool.jsonl"),
    "an empty file": (rows(), 2, "pool.jsonl"),
    "another column": (rows('{"question": "1+1"}'), 2, "pool.jsonl.*'?question'?"),
    "a number too long": (rows('{"prompt": ' + "1" * 5000 + "}"), 2, "pool.jsonl"),
    "deep JSON": (rows('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}"), 2, "pool.jsonl"),
    "half surrogates alone": (rows(json.dumps({"prompt": "\ud800 and"})), 2, "pool.jsonl"),
    "prompts that are a folder": (a_folder("pool.jsonl"), 2, "pool.jsonl"),
    "no D_meta": (lambda f: (f / "d_meta.jsonl").unlink(), 2, "d_meta.jsonl"),
    "a D_meta without verdicts": (
        rows('{"prompt": "a", "response": "b", "feedback": "c", "refinement": "d"}', name="d_meta.jsonl"),
        2,
        "d_meta",
    ),
    "no model": (text("/base", "/nowhere"), 2, "folder .*nowhere does not exist"),
    "a model that is a file": (text("/base", "/pool.jsonl"), 2, "folder .*pool.jsonl does not exist"),
    "lora on the output layer": (appended("trainer: {lora: {target_modules: [lm_head]}}"), 2, "lm_head"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    damage, expected, said = MISTAKES[name]
    configuration(tmp_path)
    damage(tmp_path)
    code, _, err = selfevo("run", "run.yaml", "--no-check")
    assert code == expected, err
    line = one_line(err)
    assert re.search(said, line), line


@pytest.mark.parametrize("seed", ["-1", str(2**32), "one", "1.5"])
@pytest.mark.parametrize("command", [("eval", "base", "--task", "demo"), ("answer", "base", "hi"), ("demo",)])
def test_a_seed_out_of_range_is_refused(selfevo: Selfevo, command: tuple[str, ...], seed: str) -> None:
    code, _, err = selfevo(*command, "--seed", seed)
    assert code == 2
    assert f"--seed is {json.dumps(seed)}; give a " in one_line(err)


@pytest.mark.parametrize("seeds", ["-1", str(2**32), "1,,2", "²", "0;1", ""])
def test_seeds_out_of_range_are_refused(selfevo: Selfevo, tmp_path: Path, seeds: str) -> None:
    configuration(tmp_path)
    code, _, err = selfevo("ablate", "run.yaml", "--seeds", seeds)
    assert code == 2
    assert "give numbers below 2^32 separated by commas" in one_line(err)


def test_one_bad_row_among_good_ones_is_set_aside(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    configuration(tmp_path, prompts={"path": "pool.jsonl", "max_bad_share": 0.5})
    good = [json.dumps({"prompt": f"{i}+{i}"}) for i in range(6)]
    rows(*good, json.dumps({"prompt": "half \ud800"}), "{", '{"prompt": 7}')(tmp_path)
    code, _, err = selfevo("run", "run.yaml", "--no-check")
    assert code == 0, err
    assert "3 rows" in err


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "results.json"])
@pytest.mark.parametrize("content", ["{}", "[]", "null", "{", "", '{"format": 2}', "\xff", "1" * 5000, "[" * 10_000])
@pytest.mark.parametrize("command", ["run", "show", "report", "verify", "gc", "runs"])
def test_a_damaged_file_of_a_run_is_no_traceback(
    selfevo: Selfevo, scripted: ScriptedEngine, finished: Path, name: str, content: str, command: str
) -> None:
    path = finished / "out" / name
    kept = path.read_bytes()
    path.write_bytes(content.encode("latin-1"))
    arguments = {"run": ["run.yaml", "--no-check"], "runs": ["."], "gc": ["out", "--yes"]}.get(command, ["out"])
    code, _, err = selfevo(command, *arguments)
    path.write_bytes(kept)
    assert code in (0, 1, 2, 3), err
    assert "unforeseen" not in err
    assert (code == 0) == (err == "" or command in ("runs", "run", "show", "verify", "gc", "report")) or one_line(err)


@pytest.fixture
def finished(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> Path:
    configuration(tmp_path)
    assert selfevo("run", "run.yaml", "--no-check")[0] == 0
    return tmp_path


@pytest.mark.parametrize(
    "marker", ["stages/round-1/judge.done.json", "models/meta/selfevo.json", "data/d_meta.done.json"]
)
@pytest.mark.parametrize(
    "content", ["{}", "[]", "null", "{", "", "\xff", '{"sha256": 1}', '{"files": 1}', '{"rows": 1}']
)
def test_a_damaged_marker_is_one_line(
    selfevo: Selfevo, scripted: ScriptedEngine, finished: Path, marker: str, content: str
) -> None:
    (finished / "out" / marker).write_bytes(content.encode("latin-1"))
    for command in (("run", "run.yaml", "--no-check"), ("verify", "out"), ("show", "out"), ("gc", "out", "--yes")):
        code, _, err = selfevo(*command)
        assert code in (0, 3), (command, err)
        assert "unforeseen" not in err
        if code:
            one_line(err)


def test_what_nobody_foresaw_is_a_line_with_a_file_to_report(
    selfevo: Selfevo, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("[bold]what?\x1b[2J")

    monkeypatch.setattr("selfevo.rundir.inspect.entries", broken)
    code, _, err = selfevo("show", "out")
    assert code == 70
    line = one_line(err)
    assert "unforeseen KeyError: '[bold]what?\\x1b[2J'" in line
    file = Path(line.partition("please report it with ")[2].partition(", at ")[0])
    assert "Traceback" in file.read_text()
    file.unlink()


def test_a_file_system_that_fails_is_one_line(
    selfevo: Selfevo, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(30, "Read-only file system", "/mnt/[red]x")

    monkeypatch.setattr("selfevo.rundir.inspect.entries", broken)
    code, _, err = selfevo("show", "out")
    assert code == 3
    assert "/mnt/[red]x: Read-only file system; give a path on" in one_line(err)


def test_output_that_cannot_be_encoded_or_read_ends_nothing(finished: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "selfevo", "show", "out"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=finished, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    closed = subprocess.run(f"{' '.join(command)} | true", shell=True, cwd=finished, capture_output=True, text=True)
    assert closed.stderr == ""


# --- text is data -------------------------------------------------------------------------------------------------

HOSTILE = "[bold]x[/] s[a:b:c] :smile: [/INST] \x1b[2J\x1b]0;title\x07 \u202eabc <b>"
SHOWN = "[bold]x[/] s[a:b:c] :smile: [/INST] \\x1b[2J\\x1b]0;title\\x07 \\u202eabc <b>"


def test_an_answer_is_printed_as_it_is(selfevo: Selfevo, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda model, turns: HOSTILE)
    monkeypatch.setattr("selfevo.serving.refiner.build_engine", lambda *_: engine)
    code, out, err = selfevo("answer", "out/models/meta", "hi", "--show-work")
    assert code == 0, err
    assert out.count(SHOWN) >= 2
    assert "\x1b" not in out


def test_a_path_is_printed_as_it_is(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    name = "[red]o:smile:[x]"
    configuration(tmp_path, output=name)
    code, out, err = selfevo("run", "run.yaml", "--no-check")
    assert code == 0, err
    assert f"run directory: {name}" in out
    for command in (("show", name), ("report", name), ("runs", "."), ("gc", name, "--yes"), ("verify", name)):
        code, out, err = selfevo(*command)
        assert code == 0, err
    code, _, err = selfevo("show", "[red]no\x1b[2J")
    assert "[red]no\\x1b[2J is not a run directory" in one_line(err)


@pytest.mark.parametrize(
    "name", ["a\n\n# b", "x\n---\nlicense: mine", "<script>alert(1)</script>", "a|b|c", "[x](y)", "`"]
)
def test_a_name_in_a_model_card_is_a_name(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path, name: str
) -> None:
    base = tmp_path / name.replace("/", "_")
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    configuration(tmp_path, base)
    assert selfevo("run", "run.yaml", "--no-check")[0] == 0
    card = (tmp_path / "out/models/meta/README.md").read_text()
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert "license" not in head.replace("license: mine", "") or "license: mine" not in head.split("model_name")[0]
    assert body.count("\n# ") + body.startswith("# ") == 1
    assert "<script>" not in body.replace("\\<script", "")


@given(st.text())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_what_is_printable_moves_no_cursor_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert not any(c < " " and c not in "\n\t" for c in shown)
    assert not set(shown) & set("\x7f\x9b\x9d\u202e\u2066\u2028")
    plain = text.isprintable()
    assert not plain or shown == text
