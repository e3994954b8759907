"""An annotator of one's own, which keeps no ledger, is booked by what it says of each annotation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from selfevo.method.records import Drafted, Prompt
from selfevo.rundir.ledger import Cost, Ledger
from selfevo.teachers.base import Annotation, BookedTeacher


class Dear:
    """Charges for each prompt what its number says."""

    def key(self, draft: Drafted) -> str:
        return draft.id

    def annotate(self, drafts: Sequence[Drafted]) -> Iterator[list[tuple[int, Annotation]]]:
        for start in range(0, len(drafts), 2):
            yield [
                (i, Annotation("f", "r", prompt_tokens=10 * i, new_tokens=i, dollars=i / 10))
                for i in range(start, min(start + 2, len(drafts)))
            ]


def test_what_it_costs_is_on_record_before_the_rows_are_given(tmp_path: Path) -> None:
    drafts = [Drafted(Prompt.of(f"p{i}").id, f"p{i}", "r") for i in range(5)]
    teacher = BookedTeacher(Dear(), Ledger(tmp_path, "d_meta/annotate"))
    seen = [Ledger(tmp_path, "d_meta/annotate").spent.new_tokens for _ in teacher.annotate(drafts)]
    assert seen == [0 + 1, 0 + 1 + 2 + 3, 10]
    spent = Ledger(tmp_path, "d_meta/annotate").spent
    assert (spent.prompt_tokens, spent.new_tokens, round(spent.dollars, 9)) == (100, 10, 1.0)
    assert teacher.key(drafts[0]) == drafts[0].id


def test_one_that_costs_nothing_writes_nothing(tmp_path: Path) -> None:
    teacher = BookedTeacher(Dear(), ledger := Ledger(tmp_path, "d_meta/annotate"))
    assert len(list(teacher.annotate([Drafted("x", "p", "r")]))) == 1
    assert ledger.spent == Cost() and not (tmp_path / "events.jsonl").exists()
