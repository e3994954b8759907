"""Files appear whole, whoever else writes them at the same moment."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from selfevo.errors import RunError
from selfevo.rundir.atomic_files import ABANDONED_SECONDS, append, link, move, seal, write_atomic, write_done

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
    here = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
    dead, alive = (tmp_path / f".a.json.{here}-{number}-00.tmp" for number in (ended.pid, 1))
    other = tmp_path / f".b.json.{here}-{ended.pid}-00.tmp"
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


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the file system, in order."""
    told: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        told.append(f"sync {'folder ' * path.is_dir()}{_named(path)}")
        fsync(descriptor)

    def replaced(source: Any, target: Any, **more: Any) -> None:
        told.append(f"rename {_named(Path(target))}")
        replace(source, target, **more)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return told


def _named(path: Path) -> str:
    return "temporary" if path.name.startswith(".") else path.name


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the name of an open file in /proc")


@linux
def test_content_is_on_disk_before_its_name_and_its_name_before_its_marker(tmp_path: Path, steps: list[str]) -> None:
    write_done(tmp_path / "a/b/x.jsonl", ["{}"], lambda: {"rows": {"in": 1}})
    assert steps == [
        *("sync folder a", f"sync folder {tmp_path.name}"),  # the new folders, each in the one above it
        *("sync temporary", "rename x.jsonl", "sync folder b"),
        *("sync temporary", "rename x.done.json", "sync folder b"),
    ]


@linux
def test_a_sealed_folder_is_on_disk_before_its_marker(tmp_path: Path, steps: list[str]) -> None:
    folder = tmp_path / "model"
    (folder / "templates").mkdir(parents=True)
    for name in ("model.safetensors", "templates/a.jinja"):
        (folder / name).write_text("x")
    seal(folder, {})
    assert steps == [
        *("sync model.safetensors", "sync folder templates", "sync a.jinja"),
        *("sync temporary", "rename selfevo.json", "sync folder model"),
    ]
    move(folder, tmp_path / "final")
    assert steps[-2:] == ["rename final", f"sync folder {tmp_path.name}"]


@linux
def test_a_file_that_grows_has_its_name_on_disk_with_its_first_lines(tmp_path: Path, steps: list[str]) -> None:
    for _ in range(2):
        append(tmp_path / "events.jsonl", "{}\n")
    assert steps == ["sync events.jsonl", f"sync folder {tmp_path.name}", "sync events.jsonl"]


@pytest.mark.parametrize("folder", [True, False])
def test_a_rename_that_the_server_did_twice_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    """NFS: the answer is lost, the client asks again, and the server finds nothing to rename any more."""

    def twice(source: Any, target: Any) -> None:
        replace(source, target)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))

    replace = os.replace
    monkeypatch.setattr(os, "replace", twice)
    if folder:
        (tmp_path / "temporary").mkdir()
        move(tmp_path / "temporary", tmp_path / "final")
        assert (tmp_path / "final").is_dir()
    else:
        write_atomic(tmp_path / "a.json", "old")
        write_atomic(tmp_path / "a.json", "new")
        assert (tmp_path / "a.json").read_text() == "new"


def test_a_rename_that_was_not_done_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(source: Any, target: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))

    write_atomic(tmp_path / "a.json", "old")
    monkeypatch.setattr(os, "replace", never)
    for name in ("a.json", "b.json"):
        with pytest.raises(FileNotFoundError):
            write_atomic(tmp_path / name, "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_link_that_the_server_made_twice_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(source: Any, target: Any) -> None:
        made(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))

    made = os.link
    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(os, "link", twice)
    link(tmp_path / "a", tmp_path / "deep/b")
    assert (tmp_path / "deep/b").samefile(tmp_path / "a")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["b"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK])
def test_where_there_are_no_links_it_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(source: Any, target: Any) -> None:
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "a").write_text("x")
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "x"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EIO, errno.ENOSPC])
def test_a_folder_that_cannot_be_synced_is_no_failure_and_a_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Windows shares and some FUSE file systems refuse to sync a folder. A disk that fails is another thing."""

    def refused(descriptor: int) -> None:
        if refuse(stat.S_ISDIR(os.fstat(descriptor).st_mode)):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    refuse: Callable[[bool], bool] = lambda is_folder: is_folder  # noqa: E731
    if number in (errno.EIO, errno.ENOSPC):
        with pytest.raises((OSError, RunError)):
            write_atomic(tmp_path / "a.json", "new")
    else:
        write_atomic(tmp_path / "a.json", "new")
        append(tmp_path / "b.jsonl", "{}\n")
        assert (tmp_path / "a.json").read_text() == "new"
    refuse = lambda is_folder: not is_folder  # noqa: E731
    with pytest.raises((OSError, RunError)):
        write_atomic(tmp_path / "c.json", "new")
    assert not (tmp_path / "c.json").exists(), "what is not on disk has no name"


def test_what_another_host_writes_is_left_alone_until_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a shared disk the number of a process of another host is no process here, and it may be writing now."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    young, old = (tmp_path / f".a.json.deadbeef-{ended.pid}-{number}.tmp" for number in "01")
    for left in (young, old):
        left.write_text("torn")
    os.utime(old, (0, time.time() - 2 * ABANDONED_SECONDS))
    write_atomic(tmp_path / "a.json", "whole")
    assert young.exists() and not old.exists()
