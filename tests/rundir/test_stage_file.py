"""A stage of many windows is one file in the order of its inputs, whatever was killed on the way."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import KilledError, tree
from selfevo.errors import RunError
from selfevo.report.progress import Silent
from selfevo.rundir import stage_file as stage
from selfevo.rundir.atomic_files import read_marker, read_rows

ROWS = list(range(23))


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "WINDOW", 5)


class Worker:
    """Gives results in pairs, from the last row of a window to the first, and dies when `lives` are used up."""

    def __init__(self, lives: float = float("inf")) -> None:
        self.lives, self.asked, self.largest = lives, list[int](), 0

    def __call__(self, window: Mapping[str, int], done: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
        self.largest = max(self.largest, len(window))
        owed = [key for key in reversed(list(window)) if key not in done]
        for pair in (owed[i : i + 2] for i in range(0, len(owed), 2)):
            if self.lives <= 0:
                raise KilledError
            self.lives -= 1
            self.asked += [window[key] for key in pair]
            yield {key: {"square": window[key] ** 2} for key in pair}, "detail"


def squares(root: Path, worker: Worker, rows: list[int] = ROWS, at_once: int = 1) -> Path:
    path = root / "stages/room/square.jsonl"
    root.mkdir(exist_ok=True)
    file: stage.StageFile[int] = stage.StageFile(
        path,
        key=lambda row: f"k{row}",
        line=lambda row, result: {"row": row, **result, "status": "quarantined" if row % 7 == 3 else "ok"},
        marker={"model": "m"},
    )
    file.fill(rows, worker, Silent(), at_once)
    return path


def test_rows_are_in_input_order_and_counted(tmp_path: Path) -> None:
    worker = Worker()
    path = squares(tmp_path, worker)
    assert [(row["row"], row["square"]) for row in read_rows(path)] == [(row, row**2) for row in ROWS]
    assert read_marker(path.with_suffix(".done.json"))["rows"] == {"in": 23, "out": 20, "quarantined": 3}
    assert worker.largest == 5
    assert sorted(p.name for p in path.parent.iterdir()) == ["square.done.json", "square.jsonl"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    deaths=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), max_size=4),
    at_once=st.integers(1, 6),
    cut=st.integers(0, 60),
    torn=st.booleans(),
)
def test_a_stage_killed_anywhere_ends_with_the_same_bytes(
    tmp_path: Path, deaths: list[tuple[int, int]], at_once: int, cut: int, torn: bool
) -> None:
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    expected = squares(root / "whole", Worker()).read_bytes()
    asked: list[int] = []
    for lives, together in deaths:
        worker = Worker(lives)
        with contextlib.suppress(KilledError):
            squares(root / "killed", worker, at_once=together)
        asked += worker.asked
        partial = root / "killed/stages/room/square.partial.jsonl"
        if torn and partial.exists():
            partial.write_bytes(partial.read_bytes()[: -cut or None])
    last = Worker()
    path = squares(root / "killed", last, at_once=at_once)
    assert path.read_bytes() == expected
    assert last.largest <= 5 * at_once
    assert tree(root / "killed") == tree(root / "whole")
    if not (torn and cut):
        assert sorted(asked + last.asked) == ROWS, "nothing was asked twice"


@pytest.mark.parametrize("cut", [1, 30, 200, 400])
def test_a_window_torn_while_it_was_written_is_put_together_again(tmp_path: Path, cut: int) -> None:
    """The partial file is removed after the window is safe, so the window can be written again from it."""
    whole = squares(tmp_path / "whole", Worker())
    with pytest.raises(KilledError):
        squares(tmp_path / "torn", Worker(7))
    growing = tmp_path / "torn/stages/room/square.growing.jsonl"
    content = growing.read_bytes()
    growing.write_bytes(content[:-cut])
    assert squares(tmp_path / "torn", Worker()).read_bytes() == whole.read_bytes()


def test_a_kill_between_the_last_row_and_the_marker_asks_nothing(tmp_path: Path) -> None:
    path = squares(tmp_path, Worker())
    path.with_suffix(".done.json").unlink()
    worker = Worker()
    squares(tmp_path, worker)
    assert worker.asked == []
    assert path.with_suffix(".done.json").exists()


def test_rows_of_other_inputs_are_not_taken(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        squares(tmp_path, Worker(7))
    worker = Worker()
    path = squares(tmp_path, worker, [100, *ROWS[1:]])
    assert [row["row"] for row in read_rows(path)] == [100, *ROWS[1:]]
    with pytest.raises(RunError, match=r"square\.jsonl holds results for other rows"):
        squares(tmp_path, Worker(), ROWS)
