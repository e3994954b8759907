"""`selfevo export`: the rows of a run's rounds as JSONL in the conversational formats of TRL."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from selfevo.errors import ConfigError, DataError, RunError
from selfevo.method import prompts
from selfevo.method.names import round_name, round_number
from selfevo.method.prompts import Wording
from selfevo.method.records import Judged, from_row
from selfevo.method.skills import RESPOND, SKILLS
from selfevo.method.thinking import spoken
from selfevo.models.chat_template import messages
from selfevo.report.wording import FINISHES
from selfevo.rundir.atomic_files import file_fault, read_counts, read_marker, read_rows, write_atomic
from selfevo.rundir.inspect import read_wording, require_run
from selfevo.rundir.layout import Layout, done

Format = Literal["sft", "preference", "trajectories"]
Which = Literal["kept", "all"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of the rows of the rounds: `rows` = `written` + the sum of `left_out`, which counts by reason."""

    path: Path
    rounds: tuple[int, ...]
    rows: int
    written: int
    left_out: Mapping[str, int]


def export_rows(run: Path, form: Format, path: Path, *, rounds: Sequence[int] = (), rows: Which = "kept") -> Exported:
    """Writes the rows of `rounds`, by default of all that are filtered, to a new file `path`.

    "sft": `messages`, the prompt and r^. "preference": `prompt`, `chosen` (r^) and `rejected` (r), where they differ.
    "trajectories": `messages` with p, r, f and r^, and the judgement. Each row has its `id`, its `round` and
    whether it was `kept`. `rows` "kept" takes what the filter kept, "all" what it rejected too.

    Raises ConfigError if `path` exists, RunError if a round is missing or was changed, DataError if no row is left.
    """
    for name, value, choices in (("the format", form, get_args(Format)), ("rows", rows, get_args(Which))):
        if value not in choices:
            raise ConfigError(f"{name} is {value!r}; give one of {', '.join(choices)}")
    if path.exists():
        raise ConfigError(f"{path} exists; give another name, or move it")
    numbers = _filtered(Layout(require_run(run)), rounds)
    wording = read_wording(Layout(run).config)
    entered, written, left_out = 0, 0, Counter[str]()
    for number in numbers:
        count, lost = _lost(Layout(run), round_name(number))
        entered, left_out = entered + count, left_out + lost

    def lines() -> Iterator[bytes]:
        nonlocal written
        for number in numbers:
            for row, reason in _judged(Layout(run), round_name(number)):
                found = _as(form, row, wording) if reason is None or rows == "all" else None
                if found is None:
                    repeats = "the refinement repeats the response"
                    left_out[repeats if reason is None or rows == "all" else reason] += 1
                    continue
                written += 1
                named = {"id": row.id, "round": number, "kept": reason is None}
                yield json.dumps({**named, **found}, ensure_ascii=False).encode() + b"\n"
        if not written:
            remedy = "take other rounds, or all rows" if rows == "kept" else "take other rounds"
            raise DataError(f"{run}: no row can be written as {form}: {said(left_out)}; {remedy}")

    write_atomic(path, lines())
    return Exported(path, tuple(numbers), entered, written, dict(left_out.most_common()))


def said(left_out: Mapping[str, int]) -> str:
    """Counts by reason, in one line."""
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none"


def _filtered(layout: Layout, wanted: Sequence[int]) -> list[int]:
    """The numbers of the rounds to export."""
    there = [round_number(path.name) or 0 for path in layout.rounds() if done(layout.filtered(path.name)).exists()]
    missing = [number for number in wanted if number not in there]
    if missing or not there:
        have = f"has those of rounds {', '.join(map(str, there))}" if there else "has none yet"
        raise RunError(f"{layout.root} has no filtered rows of round {min(missing, default=1)}; it {have}")
    return sorted(set(wanted)) or there


def _lost(layout: Layout, name: str) -> tuple[int, Counter[str]]:
    """How many rows entered a round, and those that never reached its filter, by reason."""
    lost = Counter[str]()
    for skill in SKILLS:
        for row in read_rows(layout.stage(name, skill.name)):
            if row["status"] == "quarantined":
                reason = str(row["reason"])
                lost[f"{skill.name}: {FINISHES.get(reason, reason)}"] += 1
    return read_counts(done(layout.stage(name, RESPOND.name)))["in"], lost


def _judged(layout: Layout, name: str) -> Iterator[tuple[Judged, str | None]]:
    """The rows that reached the filter of a round, each with the reason if it was rejected."""
    path = layout.filtered(name)
    if fault := file_fault(path, read_marker(done(path), sha256=str)["sha256"]):
        raise RunError(f"{fault}; selfevo verify {layout.root} says what to do")
    for row in read_rows(path):
        yield from_row(Judged, row), None if row["kept"] else str(row["reason"])


def _as(form: Format, row: Judged, wording: Wording) -> dict[str, Any] | None:
    """A row in a format. None if it has no such form."""
    asked, answer = prompts.respond(row), _said(row.refinement)
    if form == "sft":
        return {"messages": [*messages(asked, row.system), answer]}
    if form == "preference":
        if spoken(row.refinement).strip() == spoken(row.response).strip():
            return None
        return {"prompt": messages(asked, row.system), "chosen": [answer], "rejected": [_said(row.response)]}
    whole = prompts.refine(row, row.response, row.feedback, wording)
    return {"messages": [*messages(whole, row.system), answer], "judgement": row.judgement}


def _said(text: str) -> dict[str, str]:
    """A turn that is learnt, with its thinking if it has any. Turns before it come without."""
    return {"role": "assistant", "content": text}
