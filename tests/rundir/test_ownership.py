"""A run directory belongs to one configuration and one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from runs import PROMPTS, open_run, scripted
from selfevo.errors import RunError
from selfevo.rundir.atomic_files import hash_file, read_rows, write_atomic
from selfevo.rundir.inspect import entries
from selfevo.rundir.layout import FORMAT
from selfevo.rundir.ownership import NO_LOCKS, Owner, changed_parts, claim, differing_keys, in_use, locked

CONFIG = {"model": "m", "seed": 0, "trainer": {"learning_rate": 1e-5, "lora": None}}


def test_another_configuration_is_refused_with_its_keys(root: Path) -> None:
    claim(root, CONFIG, {}, "yaml")
    claim(root, json.loads(json.dumps(CONFIG)), {}, "yaml")  # the same one resumes
    other = {"model": "m", "seed": 3, "trainer": {"learning_rate": 2e-5, "lora": {"r": 4}}}
    with pytest.raises(RunError) as caught:
        claim(root, other, {}, "yaml")
    message = str(caught.value)
    assert str(root) in message
    assert "seed: 0 in the run, 3 now" in message
    assert "trainer.learning_rate: 1e-05 in the run, 2e-05 now" in message
    assert "trainer.lora: None in the run, {'r': 4} now" in message
    assert "model" not in message
    assert json.loads((root / "config.json").read_text()) == CONFIG


def test_a_run_that_was_moved_goes_on(root: Path) -> None:
    claim(root, {**CONFIG, "output": "here"}, {}, "yaml")
    claim(root, {**CONFIG, "output": "there"}, {}, "yaml")
    assert json.loads((root / "config.json").read_text())["output"] == "here", "written once"


def test_a_key_that_may_change_gets_its_new_value_and_notes_are_no_settings(root: Path) -> None:
    claim(root, CONFIG, {}, "yaml")
    with pytest.raises(RunError, match="seed: 0 in the run, 5 now"):
        claim(root, {**CONFIG, "seed": 5}, {}, "yaml", amendment={"seed": 5})
    assert json.loads((root / "config.json").read_text()) == CONFIG, "what is refused changes nothing"
    claim(root, {**CONFIG, "seed": 5}, {}, "yaml", ("seed",), amendment={"seed": 5, "continued": []})
    assert json.loads((root / "config.json").read_text()) == {**CONFIG, "seed": 5, "continued": []}
    assert yaml.safe_load((root / "config.yaml").read_text()) == {**CONFIG, "seed": 5}
    claim(root, {**CONFIG, "seed": 5}, {}, "yaml")


def test_a_folder_of_something_else_is_left_alone(root: Path) -> None:
    (root / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="is not empty and not a selfevo run"):
        claim(root, CONFIG, {}, "yaml")
    assert [path.name for path in root.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("left", [["config.yaml"], ["config.yaml", "manifest.json"], [".config.yaml.tmp"]])
def test_a_run_killed_in_its_first_moment_can_be_started_again(root: Path, left: list[str]) -> None:
    for name in left:
        (root / name).write_text("{}")
    claim(root, CONFIG, {}, "yaml")
    assert json.loads((root / "config.json").read_text()) == CONFIG


NESTED = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8)


@given(NESTED, NESTED)
def test_differing_keys_finds_a_difference_exactly_where_there_is_one(a: object, b: object) -> None:
    assert differing_keys(a, a) == []
    # A key that is absent and one that is null mean the same in a configuration; no null is drawn here.
    assert bool(differing_keys(a, b)) == (a != b)


def test_a_directory_of_another_format_is_refused_in_one_line(root: Path) -> None:
    claim(root, CONFIG, {"selfevo": "0.1"}, "")
    manifest = root / "manifest.json"
    assert json.loads(manifest.read_text()) == {"format": FORMAT, "selfevo": "0.1"}
    for content, said in (({"selfevo": "0.0"}, "before run directories had a format"), ({"format": 9}, "in format 9")):
        manifest.write_text(json.dumps(content))
        with pytest.raises(
            RunError, match=f"was made {said}, and this selfevo reads format {FORMAT}; give a new output directory"
        ):
            claim(root, CONFIG, {}, "")
        with pytest.raises(RunError, match=said):
            entries(root)


def test_the_source_of_a_part_from_outside_belongs_to_the_run(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("first")
    parts = {"mine:Filter": file}
    claim(root, CONFIG, {}, "", parts=parts)
    claim(root, CONFIG, {}, "", parts=parts)
    assert json.loads((root / "config.json").read_text())["parts"] == {"mine:Filter": hash_file(file)}
    assert changed_parts(root, parts) == []
    file.write_text("second")
    with pytest.raises(RunError) as refused:
        claim(root, CONFIG, {}, "", parts=parts)
    assert str(refused.value) == (
        f"{root} was started with another mine:Filter: {file} was changed since; restore it to resume, or give a new "
        "output directory"
    )
    assert changed_parts(root, {**parts, "other:Filter": file}) == ["mine:Filter"]
    assert changed_parts(tmp_path / "nowhere", parts) == []


def test_one_process_per_run_directory(root: Path) -> None:
    with locked(root):
        os.utime(root / ".owner", (0, time.time() - 7 * 60))
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}, for 7 minutes at: start"), locked(root):
            pass
        assert in_use(root)
    assert not in_use(root)
    with locked(root):
        pass  # free again


def test_whoever_is_patient_waits_for_the_other(root: Path) -> None:
    def wait() -> bool:
        with locked(root, patience=60):
            return True

    with ThreadPoolExecutor() as pool:
        with locked(root):
            waiting = pool.submit(wait)
            time.sleep(0.5)  # more than who is not
            assert not waiting.done()
        assert waiting.result()


def test_whoever_asks_whether_it_is_in_use_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_use(root)
    assert list(root.iterdir()) == []
    with locked(root):
        pass
    assert [path.name for path in root.iterdir()] == [".lock"]

    def denied(lock: FileLock) -> None:
        raise PermissionError

    monkeypatch.setattr(FileLock, "acquire", denied)  # somebody else's folder
    assert not in_use(root)
    (root / ".owner").write_text("1")
    assert in_use(root)
    with pytest.raises(RunError, match="cannot be locked"), locked(root):
        pass


def holder(root: Path, before: str = "") -> list[str]:
    """A command that takes the lock, says so, and keeps it until it is told to end."""
    script = f"""
        import os, sys
        from pathlib import Path
        {before}
        from selfevo.rundir.ownership import locked
        with locked(Path({str(root)!r})):
            print(os.getpid(), flush=True)
            sys.stdin.readline()
    """
    return [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]


@contextmanager
def held(command: list[str]) -> Iterator[int]:
    """The number of a process that holds the lock, and is killed at the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == f"{owner.pid}\n"
        yield owner.pid
        owner.kill()


def test_the_lock_dies_with_its_owner(root: Path) -> None:
    with (
        held(holder(root)) as owner,
        pytest.raises(RunError, match=f"in use by process {owner}, for 0 minutes"),
        locked(root),
    ):
        pass
    left = Owner.read(root / ".owner")
    assert left is not None and left.process == owner, "it had no time to tidy up"
    assert not left.lives
    assert not in_use(root)
    with locked(root) as killed:
        assert killed == "start"
        assert Owner.read(root / ".owner") == Owner.here()


def test_who_deletes_the_lock_file_lets_nobody_in(root: Path) -> None:
    with held(holder(root)) as owner:
        (root / ".lock").unlink()
        assert in_use(root)
        for _ in range(2):
            with pytest.raises(RunError, match=f"in use by process {owner}, for 0 minutes"), locked(root):
                pass
        assert Owner.read(root / ".owner") is not None, "the owner's file is still its own"
    with locked(root):
        pass


@pytest.mark.parametrize(
    ("change", "lives"),
    [({}, True), ({"boot": "another"}, False), ({"started": "1"}, False), ({"process": 2**22 + 1}, False)],
)
def test_a_process_is_known_by_its_number_its_start_and_the_start_of_its_host(
    root: Path, change: dict[str, Any], lives: bool
) -> None:
    with held(holder(root)):
        living = Owner.read(root / ".owner")
        assert living is not None
        (root / ".lock").unlink()
        owner = replace(living, work="train meta", **change)
        owner.write(root / ".owner")
        assert owner.lives == lives == in_use(root)
        if lives:
            with pytest.raises(RunError, match="minutes at: train meta; wait until it ends"), locked(root):
                pass
        else:
            with locked(root) as killed:
                assert killed == "train meta"


def test_what_this_process_left_when_it_let_go_does_not_shut_it_out(root: Path, tmp_path: Path) -> None:
    """As in a notebook, after the run directory went away and was put back."""
    with pytest.raises(RunError, match="has gone while it was in use"), locked(root):
        root.rename(tmp_path / "elsewhere")
        write_atomic(root / "results.json", "{}")
    assert not root.exists()
    (tmp_path / "elsewhere").rename(root)
    assert Owner.read(root / ".owner") == Owner.here()
    assert not in_use(root)
    with locked(root):
        assert in_use(root)


def test_an_owner_on_another_host_is_not_taken_over_until_the_user_says_that_it_has_ended(root: Path) -> None:
    """Its file system may not lock across hosts, and a process there cannot be seen from here."""
    elsewhere = replace(Owner.here(), host="elsewhere", boot="another", work="train meta")
    elsewhere.write(root / ".owner")
    os.utime(root / ".owner", (0, time.time() - 7 * 60))
    for _ in range(2):
        with pytest.raises(RunError) as refused, locked(root):
            pass
        assert str(refused.value) == (
            f"{root} is in use by process {os.getpid()} of host elsewhere, for 7 minutes at: train meta; from here "
            "nobody can see whether it still runs. If it does, wait until it ends, or give another output directory; "
            f"if it has ended, delete {root / '.owner'} and run the same command again"
        )
    assert in_use(root)
    assert Owner.read(root / ".owner") == elsewhere
    (root / ".owner").unlink()  # the remedy
    with locked(root) as killed:
        assert killed == ""
        with pytest.raises(RunError, match=r"taken over by another process"):
            elsewhere.write(root / ".owner")
            write_atomic(root / "results.json", "{}")
    assert Owner.read(root / ".owner") == elsewhere, "what is the other's stays"
    assert not (root / "results.json").exists()


HERE, OTHER = Owner.here(), 2**22 + 1  # the second is no number of a process


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ({"host": "elsewhere", "boot": "another"}, False),
        ({"host": "elsewhere", "boot": ""}, False),  # a system that does not tell when it was started
        ({"host": "elsewhere", "boot": "another", "process": OTHER}, False),
        ({"host": "", "boot": ""}, False),
        ({"boot": "another"}, True),  # this host, before it was started again
        ({"boot": ""}, True),
        ({"host": "elsewhere"}, True),  # another container of this machine: its lock would be seen
        ({"host": "elsewhere", "process": OTHER}, True),
        ({"process": OTHER}, True),
        ({"started": "1"}, True),
    ],
)
def test_who_may_live_is_left_alone_and_who_has_ended_is_not(root: Path, change: dict[str, Any], free: bool) -> None:
    replace(HERE, work="round-1/judge", **change).write(root / ".owner")
    assert in_use(root) == (not free)
    if free:
        with locked(root) as killed:
            assert killed == "round-1/judge"
        assert not (root / ".owner").exists()
    else:
        with pytest.raises(RunError, match="nobody can see whether it still runs"), locked(root):
            pass
        assert (root / ".owner").exists()


def test_a_container_whose_process_lives_is_seen_by_its_lock(root: Path) -> None:
    with held(holder(root)):
        living = Owner.read(root / ".owner")
        assert living is not None
        replace(living, host="container-2").write(root / ".owner")
        assert in_use(root)
        with pytest.raises(RunError, match="is in use by process"), locked(root):
            pass


@pytest.mark.parametrize(
    "content",
    [
        *("", "12", "[]", "{}", "null", '{"process": 1}', "\xff", '{"process": "a", "x": 2}', "[" * 100_000),
        *(
            json.dumps({**asdict(Owner.here()), **change})
            for change in ({"process": 0}, {"process": -1}, {"process": 2**40}, {"process": "1"}, {"host": None})
        ),
    ],
)
def test_an_owners_file_that_cannot_be_read_is_no_owner(root: Path, content: str) -> None:
    (root / ".owner").write_bytes(content.encode("latin-1"))
    assert not in_use(root)
    with locked(root):
        assert in_use(root)


@pytest.mark.parametrize(
    "error", [OSError(number, os.strerror(number)) for number in NO_LOCKS] + [NotImplementedError("no flock")]
)
def test_a_file_system_without_locks_is_named(root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def unsupported(lock: FileLock) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", unsupported)
    with (
        pytest.raises(RunError, match=r"its file system has no locks \(flock\); give an output"),
        locked(root),
    ):
        pass
    assert not in_use(root)


@pytest.mark.parametrize("target", ["", "/etc/passwd", "/nowhere/else"])
def test_what_stands_in_place_of_the_lock_file_is_named(root: Path, target: str) -> None:
    lock = root / ".lock"
    lock.symlink_to(target) if target else lock.mkdir()
    assert not in_use(root)
    with pytest.raises(RunError, match=r"cannot be locked .*; \S+\.lock is no file; delete it"), locked(root):
        pass
    lock.unlink() if target else lock.rmdir()
    with locked(root):
        pass


def test_the_lock_dies_with_its_owner_on_a_system_without_flock(root: Path) -> None:
    command = holder(root, before="sys.modules['fcntl'] = None")
    with held(command) as owner:
        other = subprocess.run(command, input="", capture_output=True, text=True)
        assert f"in use by process {owner}, for 0 minutes" in other.stderr
    with held(command) as owner:
        left = Owner.read(root / ".owner")
        assert left is not None and left.process == owner


def test_data_is_written_once(root: Path) -> None:
    run = open_run(root, scripted())
    run.save_rows("pool", PROMPTS)
    run.save_rows("pool", PROMPTS)
    with pytest.raises(RunError, match=r"pool\.jsonl holds other rows .* use a new output directory"):
        run.save_rows("pool", PROMPTS[1:])
    assert [row["id"] for row in read_rows(root / "data/pool.jsonl")] == [p.id for p in PROMPTS]


def test_seconds_are_summed_by_stage_over_all_processes(root: Path) -> None:
    for stage, seconds in (("round-1", 1), ("round-1/respond", 2), ("round-1/judge", 4), ("round-10/judge", 8)):
        open_run(root, scripted()).event("any", stage=stage, seconds=seconds)
    run = open_run(root, scripted())
    assert (run.seconds("round-1"), run.seconds("round-10"), run.seconds("")) == (7, 8, 15)
