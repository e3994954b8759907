"""Files that a command is asked to write: a mistake is found before the work that they are for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from commands import Selfevo, one_line


def a_fifo(path: Path) -> None:
    os.mkfifo(path)  # to open it would wait for a reader, for ever


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/null")  # whoever may write in /dev would replace it


MADE = {"a fifo": a_fifo, "a folder": a_folder, "a link to a device": a_link_to_a_device}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The work that was done for a file."""
    calls: list[str] = []
    monkeypatch.setattr("selfevo.evaluation.pairwise.compare_answers", lambda *_: calls.append("compared"))
    return calls


@pytest.mark.parametrize("kind", MADE)
def test_the_comparisons_are_not_made_for_what_is_no_file(
    selfevo: Selfevo, tmp_path: Path, called: list[str], kind: str
) -> None:
    MADE[kind](tmp_path / "out")
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "p", "text": "t"}) + "\n")
    options = ("--judge", "m", "--base-url", "http://localhost/v1", "--output")
    code, _, err = selfevo("compare", "a.jsonl", "a.jsonl", *options, "out")
    assert (code, called) == (2, [])
    assert "out is no file; give the path of a file to write" in one_line(err)


@pytest.mark.parametrize("place", ["gone/out.jsonl", "a.jsonl/out.jsonl"])
def test_nor_for_a_folder_that_is_not_there(selfevo: Selfevo, tmp_path: Path, called: list[str], place: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "p", "text": "t"}) + "\n")
    options = ("--judge", "m", "--base-url", "http://localhost/v1", "--output")
    code, _, err = selfevo("compare", "a.jsonl", "a.jsonl", *options, place)
    assert (code, called) == (2, [])
    assert "is no folder in which you can write; create it, or give another path" in one_line(err)


@pytest.mark.parametrize("kind", MADE)
def test_init_replaces_files_only(selfevo: Selfevo, tmp_path: Path, kind: str) -> None:
    MADE[kind](tmp_path / "out")
    code, _, err = selfevo("init", "out", "--force")
    assert code == 2
    assert "out is no file" in one_line(err)
