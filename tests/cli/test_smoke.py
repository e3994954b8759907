"""The smoke demo shows the path: every step on next to nothing, no table of accuracies, no alarm that only says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import Selfevo, one_line
from runs import student
from selfevo.cli.demo import DEFAULT, FULL, SMOKE, demo_config
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.records import Turns
from selfevo.rundir.results import Alarm, load_results


@pytest.fixture
def demo(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Selfevo:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("selfevo.cli.demo.demo_model", lambda: base)
    scripted.answer = student(demo_config(base, tmp_path / "out", 0, SMOKE))
    return selfevo


def unreadable(model: Path, turns: Turns) -> str:
    return "I cannot say."


def test_it_ends_well_and_says_what_it_is(demo: Selfevo, scripted: ScriptedEngine) -> None:
    scripted.answer = unreadable
    code, out, err = demo("demo", "--smoke", "--output", "out")
    assert code == 0, err
    assert "alarm: " not in err
    alarms = load_results("out").alarms
    assert {alarm.kind for alarm in alarms} == {"monitor", "empty round"}
    *_, said, last = out.splitlines()
    assert said == (
        "The path works: D_meta, SFT, meta-skill learning and 3 rounds, on 4 labels, 6 prompts and 4 problems. No "
        f"model learns from so few, so there is no table of accuracies here and no list of the {len(alarms)} alarms "
        "that come of it: the numbers in the report mean nothing."
    )
    assert last == "The demo itself: selfevo demo"
    for word in ("%", "┃", "│", "McNemar", "95"):
        assert word not in out, "no number that looks like evidence"
    assert "report: out/report.html" in out
    assert "models: sft, warm-up, meta, round-1, round-2, round-3, in out/models" in out
    again, said_again, _ = demo("demo", "--smoke", "--output", "out", "--quiet")
    assert again == 0
    assert said_again.splitlines()[-2:] == [said, last]
    assert "finished before" in said_again


def test_an_alarm_that_is_not_of_its_smallness_stays(
    demo: Selfevo, scripted: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Alarm(kind="training", place="meta", finding="9 of 10 training sequences were left out", remedy="raise it")
    monkeypatch.setattr("selfevo.pipeline.observe.of_training", lambda *_: [long])
    code, _, err = demo("demo", "--smoke", "--output", "out", "--quiet")
    assert code == 7
    assert err.splitlines()[-1] == f"selfevo: alarm: {long}"


def test_the_demo_itself_has_its_table_and_its_alarms(
    demo: Selfevo, scripted: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfevo.cli.demo.DEFAULT", SMOKE)  # few rows, to save time
    scripted.answer = unreadable
    code, out, err = demo("demo", "--output", "out", "--quiet")
    assert code == 7
    assert "McNemar exact p" in out and "The path works" not in out
    assert "alarm: " in err.splitlines()[-1]


def test_a_size_is_one_of_two(demo: Selfevo) -> None:
    code, _, err = demo("demo", "--smoke", "--full")
    assert code == 2
    assert one_line(err) == "selfevo: --smoke and --full are two sizes of the demo; give one of them"


@pytest.mark.parametrize(
    ("arguments", "labels", "folder"),
    [
        ((), DEFAULT.labels, "runs/demo-seed3"),
        (("--full",), 80, "runs/demo-seed3" if DEFAULT == FULL else "runs/demo-full-seed3"),
        (("--smoke",), 4, "runs/demo-smoke-seed3"),
    ],
)
def test_each_size_has_a_folder_of_its_own(arguments: tuple[str, ...], labels: int, folder: str, demo: Selfevo) -> None:
    code, _, err = demo("demo", *arguments, "--seed", "3", "--write-config", "demo.yaml")
    assert code == 0, err
    written = Path("demo.yaml").read_text()
    assert f"labels: {labels}\n" in written
    assert f"output: {folder}\n" in written
