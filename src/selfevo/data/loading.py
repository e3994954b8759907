"""Loads the pool of unlabelled prompts and the corpus D_meta from files, folders and the hub.

An unusable row is quarantined with its file, line and reason, so that in = kept + quarantined. A
few such rows are normal. Many mean that the file is probably the wrong one, so they stop the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from selfevo.data.tables import BadRow, Row, read_table
from selfevo.errors import DataError
from selfevo.method.prompts import Verdict, parse_verdict, verdict_line
from selfevo.method.records import Prompt, Refined, check_fields

MAX_BAD_SHARE = 0.01  # share of unusable rows; above it the reader raises DataError
CORPUS_FIELDS = ("prompt", "response", "feedback", "refinement")


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """The content of a source: usable `rows`, in order, and `quarantined` ones with their reasons."""

    rows: list[T]
    quarantined: list[BadRow]


def load_prompts(
    source: str, column: str = "prompt", max_bad_share: float = MAX_BAD_SHARE, setting: str = "prompts.column=..."
) -> Loaded[Prompt]:
    """The distinct prompts in `column`. A repeated prompt is quarantined as a duplicate.

    `setting` is the name of the option that sets `column`; messages quote it. Rows without a column
    "prompt" may have another known layout: chat `messages` (the first user message is taken),
    Alpaca's `instruction` and `input` (Evol-Instruct's Instruction), or the `turns` of Vicuna-bench
    (the first turn is taken).

    Raises DataError if the source or the column is missing, if more than `max_bad_share` of the
    rows are unusable (duplicates do not count), or if no prompt is left.
    """
    places: dict[str, Row] = {}

    def build(row: Row) -> Prompt | str:
        prompt = Prompt.of(row.values[column])
        first = places.setdefault(prompt.id, row)
        if first is row:
            return prompt
        return f"duplicate of line {first.line}" + (f" of {first.file}" if first.file != row.file else "")

    remedy = f"name the column of the prompts with {setting}"
    return _load(source, {column: remedy}, build, "prompts", max_bad_share, instruction)


def load_corpus(source: str, columns: Mapping[str, str], max_bad_share: float = MAX_BAD_SHARE) -> Loaded[Refined]:
    """Recorded trajectories (p, r, f, r^). `columns` maps a field to its column name, if they differ.

    A row whose feedback has no readable verdict is quarantined, because it would teach the model
    feedback that no filter can use. Raises DataError as load_prompts does.
    """
    names = {field: columns.get(field, field) for field in CORPUS_FIELDS}

    def build(row: Row) -> Refined | str:
        prompt, response, feedback, refinement = (row.values[names[field]].strip() for field in CORPUS_FIELDS)
        if parse_verdict(feedback) is Verdict.UNKNOWN:
            return (
                f"column {names['feedback']!r} has no readable verdict; its last line must be "
                f"{verdict_line(Verdict.QUALIFIED)!r} or {verdict_line(Verdict.NOT_QUALIFIED)!r}"
            )
        return Refined(Prompt.of(prompt).id, prompt, response, feedback, refinement)

    remedies = {name: f"map it with corpus.columns.{field}=..." for field, name in names.items()}
    return _load(source, remedies, build, "trajectories", max_bad_share)


def instruction(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with a column "prompt". If it is missing, it is built from a known layout."""
    found: Any = None
    match {name.lower(): value for name, value in values.items()}:
        case {"prompt": _}:
            return values
        case {"messages": [*messages]}:
            found = next((m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "user"), None)
        case {"instruction": str(instruction), "input": str(given)} if given.strip():
            found = f"{instruction}\n\n{given}"
        case {"instruction": str(instruction)}:
            found = instruction
        case {"turns": [first, *_]}:
            found = first
    return values if found is None else {**values, "prompt": found}


def _load(
    source: str,
    remedies: dict[str, str],
    build: Callable[[Row], T | str],
    what: str,
    max_bad_share: float,
    adapt: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Loaded[T]:
    """Reads rows with the text columns in `remedies`. `build` returns the record, or why it cannot."""
    rows: list[T] = []
    faulty: list[BadRow] = []
    quarantined: list[BadRow] = []
    columns: dict[str, None] = {}  # used as an ordered set
    for row in read_table(source):
        if isinstance(row, Row):
            row = Row(row.file, row.line, adapt(row.values))
            columns |= dict.fromkeys(row.values)
            if reason := _text_fault(row, tuple(remedies)):
                row = BadRow(row.file, row.line, reason)
        if isinstance(row, BadRow):
            faulty.append(row)
            quarantined.append(row)
            continue
        built = build(row)
        if isinstance(built, str):
            quarantined.append(BadRow(row.file, row.line, built))
        else:
            rows.append(built)
    for column, remedy in remedies.items():
        if columns and column not in columns:
            raise DataError(f"{source} has no column {column!r}; it has {', '.join(map(repr, columns))}; {remedy}")
    total = len(rows) + len(quarantined)
    if len(faulty) > max_bad_share * total:
        raise DataError(
            f"{source}: {len(faulty)} of {total} rows cannot be used, more than {max_bad_share:.1%}; correct or remove "
            f"them, or raise max_bad_share: {_listed(faulty)}"
        )
    if not rows:
        why = f"; all {total} rows are quarantined: {_listed(quarantined)}" if total else "; it is empty"
        raise DataError(f"{source} holds no {what}{why}")
    return Loaded(rows, quarantined)


def _text_fault(row: Row, columns: tuple[str, ...]) -> str | None:
    if reason := check_fields(row.values, columns):
        return reason
    for column in columns:
        if "\0" in row.values[column]:
            return f"column {column!r} holds a NUL character"
        if any("\ud800" <= character <= "\udfff" for character in row.values[column]):
            return f"column {column!r} holds half a surrogate pair, which cannot be written as UTF-8"
    return None


def _listed(rows: list[BadRow]) -> str:
    listed = "; ".join(f"{row.file} line {row.line}: {row.reason}" for row in rows[:3])
    return listed + ("; ..." if len(rows) > 3 else "")
