"""A checker that hangs, dies or eats memory costs one answer and a bounded time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfevo.errors import CheckerError
from selfevo.tasks.sandbox import Child, ChildError


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child(seconds=0.5, megabytes=1024)
    yield child
    child.stop()


def test_results_and_errors_come_back(child: Child) -> None:
    assert child.call(divmod, 17, 5) == (3, 2)
    with pytest.raises(ChildError, match="ZeroDivisionError"):
        child.call(divmod, 1, 0)
    assert child.call(os.getpid) == child.call(os.getpid) != os.getpid()


@pytest.mark.parametrize(("function", "argument"), [(eval, "9**9**9"), (eval, "[x for x in iter(int, 1)]")])
def test_what_does_not_end_is_killed(child: Child, function: object, argument: object) -> None:
    assert callable(function)
    child.call(len, "started")
    begun = time.monotonic()
    with pytest.raises(ChildError, match="no result within"):
        child.call(function, argument)
    assert time.monotonic() - begun < 5
    assert child.call(len, "abc") == 3


def test_what_takes_too_much_memory_fails(child: Child) -> None:
    with pytest.raises(ChildError, match="MemoryError"):
        child.call(bytes, 10**10)
    assert child.call(len, "abc") == 3


def test_a_child_that_dies_is_started_again(child: Child) -> None:
    with pytest.raises(ChildError, match="died"):
        child.call(os._exit, 1)
    assert child.call(len, "abc") == 3


def test_a_call_that_waits_for_its_processor_is_not_killed_and_one_that_sleeps_is_in_the_end() -> None:
    child = Child(seconds=0.1)
    assert child.call(time.sleep, 0.5) is None
    with pytest.raises(ChildError, match=r"no result within 2 s by the clock"):
        child.call(time.sleep, 60)
    child.stop()


def test_what_is_imported_at_the_start_is_no_ones_time() -> None:
    child = Child(seconds=0.05, imports="reasoning_gym")
    assert "reasoning_gym" in child.call(_modules)
    child.stop()


def _modules() -> list[str]:
    return list(sys.modules)


def test_a_child_that_cannot_start_is_no_wrong_answer() -> None:
    child = Child(imports="no_such_module_anywhere")
    with pytest.raises(CheckerError, match="cannot start: ModuleNotFoundError: No module named 'no_such_module_anyw"):
        child.call(len, "abc")
    tiny = Child(megabytes=20, imports="reasoning_gym")
    with pytest.raises(CheckerError, match="the process that checks answers cannot start"):
        tiny.call(len, "abc")


def test_no_process_at_all_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(CheckerError, match="no process can be started to check answers"):
        Child().call(len, "abc")


def test_a_function_that_the_child_cannot_find_is_no_wrong_answer(child: Child) -> None:
    lost = type("Lost", (), {"__module__": __name__, "__qualname__": "Lost", "__call__": lambda self: 3})()
    globals()["Lost"] = type(lost)  # so that it can be pickled by name here, and nowhere else
    with pytest.raises(CheckerError, match="cannot be called in a process of its own: AttributeError"):
        child.call(lost)
    assert child.call(len, "abc") == 3


PROGRAM = r"""
from pathlib import Path
from selfevo.method.records import Prompt
from selfevo.tasks.base import Problem
from selfevo.tasks.latex import LatexProblems

problem = Problem(Prompt.of("p"), r"2\sqrt{3}", "k")
print(LatexProblems("math", Path("x")).is_correct(problem, r"\boxed{\sqrt{12}}"))
"""


@pytest.mark.parametrize("given", ["file", "stdin", "command"])
def test_a_script_without_a_main_guard_checks_answers(tmp_path: Path, given: str) -> None:
    """Run as `python script.py`, `python < script.py` and `python -c`: each once started a child that ran it again."""
    (tmp_path / "script.py").write_text(PROGRAM)
    arguments = {"file": ["script.py"], "stdin": ["-"], "command": ["-c", PROGRAM]}[given]
    with (tmp_path / "script.py").open() as source:
        done = subprocess.run(
            [sys.executable, *arguments], stdin=source, capture_output=True, text=True, cwd=tmp_path, timeout=300
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    program = "from selfevo.tasks.sandbox import Child; import os; print(Child().call(os.getpid))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{int(done.stdout)}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{int(done.stdout)}").exists()
