"""Files appear whole, whoever else writes them at the same moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfevo.rundir.atomic_files import link, write_atomic

WRITER = """
import sys
from pathlib import Path
from selfevo.rundir.atomic_files import write_atomic
for _ in range(200):
    write_atomic(Path(sys.argv[1]), sys.argv[2] * 5000)
"""


def test_several_processes_write_one_file_and_it_is_always_whole(tmp_path: Path) -> None:
    """A report that is written by hand beside a run that writes it too must not end the run."""
    path = tmp_path / "report.html"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter]) for letter in "abc"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_text())
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen <= {letter * 5000 for letter in "abc"}
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = (tmp_path / f".a.json.{number}-00.tmp" for number in (ended.pid, 1))
    other = tmp_path / f".b.json.{ended.pid}-00.tmp"
    for left in (dead, alive, other):
        left.write_text("torn")
    write_atomic(tmp_path / "a.json", "whole")
    assert not dead.exists() and alive.exists() and other.exists()
    link(tmp_path / "a.json", tmp_path / "b.json")
    assert (tmp_path / "b.json").read_text() == "whole" and not other.exists()


def test_a_write_that_is_interrupted_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def interrupted() -> Iterator[bytes]:
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, interrupted())
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"
