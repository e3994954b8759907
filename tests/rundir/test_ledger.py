"""The ledger knows every call: billed, failed, and left without a bill by a process that was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.inspect import costs
from selfevo.rundir.ledger import Cost, Ledger, finished_rounds, write_event

STAGE = "d_meta/annotate"


@pytest.mark.parametrize(
    ("events", "rounds"),
    [
        ([], None),
        ([("start", 3)], None),
        ([("start", 3), ("finish", 3)], 3),
        ([("start", 3), ("finish", 3), ("start", 3)], 3),
        ([("start", 3), ("finish", 3), ("start", 5)], None),
        ([("start", 3), ("finish", 3), ("start", 5), ("finish", 5)], 5),
        ([("start", 5), ("start", 3), ("finish", 3)], 3),
        ([("start", None), ("finish", None), ("start", None)], 0),
    ],
)
def test_a_run_is_finished_until_more_rounds_are_asked_for(
    tmp_path: Path, events: list[tuple[str, int | None]], rounds: int | None
) -> None:
    for kind, number in events:
        write_event(tmp_path, kind, stage="", seconds=0, **({} if number is None else {"rounds": number}))
    assert finished_rounds(tmp_path) == rounds


def test_a_later_process_knows_what_was_spent(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, STAGE)
    for cost in (Cost(10, 5, 0.1), Cost(), Cost(20, 0, 0.2)):
        ledger.bill(ledger.call(Cost(100, 50, 1.0)), cost)
    assert ledger.spent == Ledger(tmp_path, STAGE).spent
    assert (ledger.spent.tokens, round(ledger.spent.dollars, 9)) == (35, 0.3)
    assert Ledger(tmp_path, "d_meta/other").spent == Cost()


def test_a_call_without_a_bill_counts_with_its_most_once(tmp_path: Path) -> None:
    killed = Ledger(tmp_path, STAGE)
    killed.bill(killed.call(Cost(100, 50, 1.0)), Cost(10, 5, 0.1))
    killed.call(Cost(100, 50, 1.0))
    killed.call(Cost(7, 8, 0.5))
    second = Ledger(tmp_path, STAGE)
    assert second.spent == Cost(117, 63, 1.6)
    second.bill(second.call(Cost(100, 50, 1.0)), Cost(1, 1, 0.0))
    assert Ledger(tmp_path, STAGE).spent == Cost(118, 64, 1.6)
    assert costs(tmp_path)["total"]["prompt_tokens"] == 118


def test_a_torn_line_is_a_call_that_was_not_made_or_a_bill_that_did_not_come(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, STAGE)
    ledger.bill(ledger.call(Cost(100, 50, 1.0)), Cost(10, 5, 0.1))
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-9])  # the bill
    assert Ledger(tmp_path, STAGE).spent == Cost(100, 50, 1.0)
    assert [event["event"] for event in read_rows(path)] == ["call", "annotate"]


def test_other_events_of_the_stage_do_not_disturb_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, STAGE)
    ledger.bill(ledger.call(Cost(9, 9, 0.0)), Cost(1, 2, 0.0))
    write_event(tmp_path, "rows", stage=STAGE, seconds=1.5, rows=3)
    write_event(tmp_path, "generate", stage="round-1/respond", seconds=1, prompt_tokens=50, new_tokens=50)
    assert Ledger(tmp_path, STAGE).spent == Cost(1, 2, 0.0)


def test_without_a_run_directory_it_is_kept_in_memory() -> None:
    ledger = Ledger()
    ledger.bill(ledger.call(Cost(9, 9, 1.0)), Cost(1, 2, 0.5))
    assert ledger.spent == Cost(1, 2, 0.5)
