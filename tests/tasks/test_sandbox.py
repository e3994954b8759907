"""A checker that hangs, dies or eats memory costs one answer and a bounded time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

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


def test_a_child_that_dies_while_it_imports_is_said() -> None:
    child = Child(imports="no_such_module_anywhere")
    with pytest.raises(ChildError, match="died while it imported no_such_module_anywhere"):
        child.call(len, "abc")
