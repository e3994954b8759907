"""Loads the pool of unlabelled prompts and the corpus D_meta from files, folders and the hub.

An unusable row is quarantined with its file, line and reason, so that in = kept + quarantined. A
few such rows are normal. Many mean that the file is probably the wrong one, so they stop the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from selfevo.data.conversations import PROMPT, Conversation, has_prompts, read_conversation, said, text_fault
from selfevo.data.tables import BadRow, Row, Source, read_table
from selfevo.errors import DataError
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.records import Prompt, Refined, as_row, check_fields
from selfevo.method.verdicts import Verdict

MAX_BAD_SHARE = 0.01  # share of unusable rows; above it the reader raises DataError
CORPUS_FIELDS = ("response", "feedback", "refinement")
DUPLICATE = "duplicate of line"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """The content of a source: usable `rows`, in order, and `quarantined` ones with their reasons.

    `unusable` are those of them that are no mere duplicates. `layouts` counts the forms of the prompts with the columns
    they were read from, `left_off` what of the rows is not asked.
    """

    rows: list[T]
    quarantined: list[BadRow]
    unusable: list[BadRow] = field(default_factory=list)
    layouts: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)
    left_off: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return len(self.rows) + len(self.quarantined)

    def fault(self, max_bad_share: float) -> str:
        """Why a run does not take the source: too many rows cannot be used. "" if it does."""
        if len(self.unusable) <= max_bad_share * self.total:
            return ""
        return (
            f"{len(self.unusable)} of {self.total} rows cannot be used, more than {max_bad_share:.1%}; correct or "
            f"remove them, or raise max_bad_share: {_listed(self.unusable)}"
        )

    def count(self, read: Conversation) -> None:
        self.layouts[read.layout, read.columns] += 1
        if read.left_off:
            self.left_off[read.left_off] += 1


def load_prompts(
    source: str | Source,
    column: str = PROMPT,
    max_bad_share: float = MAX_BAD_SHARE,
    setting: str = "prompts.column=...",
    system: str = "",
) -> Loaded[Prompt]:
    """The distinct prompts in `column`, in any layout of conversations.py. A repeated prompt is quarantined.

    `setting` is the name of the option that sets `column`; messages quote it. `system` is the system
    prompt of rows that have none.

    Raises DataError if the source or the column is missing, if more than `max_bad_share` of the
    rows are unusable (duplicates do not count), or if no prompt is left.
    """
    places: dict[str, Row] = {}
    loaded: Loaded[Prompt] = Loaded([], [])

    def build(row: Row) -> Prompt | BadRow | str:
        read = read_conversation(row.values, column, system)
        if isinstance(read, str):
            return BadRow(row.file, row.line, read)
        first = places.setdefault(read.prompt.id, row)
        if first is not row:
            return f"{DUPLICATE} {first.line}" + (f" of {first.file}" if first.file != row.file else "")
        loaded.count(read)
        return read.prompt

    _load(
        source,
        loaded,
        {column: f"name the column of the prompts with {setting}"},
        column,
        build,
        "prompts",
        max_bad_share,
    )
    return loaded


def load_corpus(
    source: str | Source,
    columns: Mapping[str, str],
    max_bad_share: float = MAX_BAD_SHARE,
    system: str = "",
    wording: Wording = ENGLISH,
) -> Loaded[Refined]:
    """Recorded trajectories (p, r, f, r^). `columns` maps a field to its column name, if they differ.

    The prompt p may be a conversation, as in load_prompts; if that ends in the response, the response is taken from
    its own column all the same.

    A row whose feedback has no readable verdict is unusable, because it would teach the model
    feedback that no filter can use. Raises DataError as load_prompts does.
    """
    column = columns.get("prompt", PROMPT)
    names = {field: columns.get(field, field) for field in CORPUS_FIELDS}
    loaded: Loaded[Refined] = Loaded([], [])

    def build(row: Row) -> Refined | BadRow | str:
        read = read_conversation(row.values, column, system)
        if isinstance(read, str):
            return BadRow(row.file, row.line, read)
        texts = {name: said(row.values.get(name)) for name in names.values()}
        if reason := _text_fault({**row.values, **texts}, tuple(texts)):
            return BadRow(row.file, row.line, reason)
        response, feedback, refinement = (texts[names[field]].strip() for field in CORPUS_FIELDS)
        if read.answer not in ("", response):
            return BadRow(row.file, row.line, f"the messages end in an answer that is not in {names['response']!r}")
        if wording.parse(feedback) is Verdict.UNKNOWN:
            yes, no = (wording.line(verdict) for verdict in (Verdict.QUALIFIED, Verdict.NOT_QUALIFIED))
            reason = f"column {names['feedback']!r} has no readable verdict; its last line must be {yes!r} or {no!r}"
            return BadRow(row.file, row.line, f"{reason}, or your own words in wording")
        loaded.count(replace(read, answer=""))
        return Refined(**as_row(read.prompt), response=response, feedback=feedback, refinement=refinement)

    remedies = {name: f"map it with corpus.columns.{field}=..." for field, name in {"prompt": column, **names}.items()}
    _load(source, loaded, remedies, column, build, "trajectories", max_bad_share)
    return loaded


def _load(
    source: str | Source,
    loaded: Loaded[T],
    remedies: Mapping[str, str],
    prompt: str,
    build: Callable[[Row], T | BadRow | str],
    what: str,
    max_bad_share: float,
) -> None:
    """Fills `loaded`. `build` returns the record, a BadRow for one that cannot be used, or why it is set aside."""
    columns: dict[str, None] = {}  # used as an ordered set
    for row in read_table(source):
        built = build(row) if isinstance(row, Row) else row
        if isinstance(row, Row):
            columns |= dict.fromkeys(row.values)
        if isinstance(built, BadRow):
            loaded.unusable.append(built)
            loaded.quarantined.append(built)
        elif isinstance(built, str):
            loaded.quarantined.append(BadRow(row.file, row.line, built))
        else:
            loaded.rows.append(built)
    for column, remedy in remedies.items():
        there = has_prompts(columns, column) if column == prompt else column in columns
        if columns and not there:
            raise DataError(f"{source} has no column {column!r}; it has {', '.join(map(repr, columns))}; {remedy}")
    if fault := loaded.fault(max_bad_share):
        raise DataError(f"{source}: {fault}")
    if not loaded.rows:
        total = loaded.total
        why = f"; all {total} rows are quarantined: {_listed(loaded.quarantined)}" if total else "; it is empty"
        raise DataError(f"{source} holds no {what}{why}")


def _text_fault(values: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    if reason := check_fields(values, columns):
        return reason
    return next((f"column {name!r} {fault}" for name in columns if (fault := text_fault(values[name]))), None)


def _listed(rows: list[BadRow]) -> str:
    listed = "; ".join(f"{row.file} line {row.line}: {row.reason}" for row in rows[:3])
    return listed + ("; ..." if len(rows) > 3 else "")
