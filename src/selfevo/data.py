"""Rows from files, folders and the hub: the pool of unlabelled prompts and the corpus D_meta.

A row that cannot be used is set aside with its file, line and reason, so that in = kept + quarantined. A few such rows
are normal in data people collect; many mean that the file is not what its reader thinks it is, and stop the run.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from selfevo.errors import DataError
from selfevo.files import exists
from selfevo.prompts import Verdict, parse_verdict, verdict_line
from selfevo.records import Prompt, Refined, check_fields

MAX_BAD_SHARE = 0.01  # of the rows; above it a reader raises instead of setting rows aside
MAX_LINE = 2**25  # bytes of one JSON line: a longer one is no prompt, and is not read into memory
CORPUS_FIELDS = ("prompt", "response", "feedback", "refinement")

_LINES = (".jsonl", ".ndjson")
_FILES = (*_LINES, ".json", ".parquet")
_HUB_ID = re.compile(r"\w[\w.-]*(?:/[\w.-]+)?")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read. `line` counts from 1: the line in JSONL, else the position in its file."""

    file: str
    line: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was set aside, where it is and why."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """What a source holds: `rows` to use, in order, and `quarantined` with their reasons."""

    rows: list[T]
    quarantined: list[BadRow]


def load_prompts(
    source: str, column: str = "prompt", max_bad_share: float = MAX_BAD_SHARE, setting: str = "prompts.column=..."
) -> Loaded[Prompt]:
    """The distinct prompts of `column`, which `setting` names; a repeated one is quarantined as a duplicate.

    Rows without a column "prompt" may have another known layout: chat `messages` (the first user message), Alpaca's
    `instruction` and `input` (Evol-Instruct's Instruction), or the `turns` of Vicuna-bench (the first).

    Raises DataError when the source or the column is missing, when more than `max_bad_share` of the rows are bad
    (duplicates are not), and when no prompt is left.
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
    """Recorded trajectories (p, r, f, r^). `columns` gives your name for a field, where it differs.

    A row whose feedback ends in no readable verdict is quarantined: it would teach the model feedback that no filter
    can use. Raises DataError as load_prompts does.
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


def check_disjoint(*, allow_empty: Collection[str] = (), **sets: Iterable[Prompt]) -> None:
    """Raises DataError when two of the named sets share a prompt, whatever its case, spacing and Unicode form.

    An empty set is an error too unless `allow_empty` names it: disjointness from nothing would prove nothing.
    """
    contents = {name: {_content(row.prompt): row.prompt for row in rows} for name, rows in sets.items()}
    for name, content in contents.items():
        if not content and name not in allow_empty:
            raise DataError(f"the set {name!r} is empty, so nothing can be said about its overlap; give it prompts")
    for (first, left), (second, right) in combinations(contents.items(), 2):
        if shared := left.keys() & right.keys():
            example = left[min(shared)]
            raise DataError(
                f"{first!r} and {second!r} share {len(shared)} prompt{'s' * (len(shared) > 1)}, for example "
                f"{example[:120]!r}; remove them from one of the two"
            )


def read_table(source: str) -> Iterator[Row | BadRow]:
    """Every row of `source`, in order; a line that is no JSON object comes as a BadRow.

    `source` is a .jsonl, .json or .parquet file, a folder of .jsonl and .parquet files, a folder saved by
    `datasets.save_to_disk`, or a hub data set. For the last two, `source:split` chooses a split.
    Raises DataError when there is no such thing or it cannot be read at all.
    """
    path, split = Path(source).expanduser(), ""
    if not exists(path):
        name, _, split = source.rpartition(":")
        path = Path(name or source).expanduser()
        split = split if name else ""
    if exists(path) and path.is_dir():
        yield from _read_folder(path, split)
    elif exists(path) and path.is_file() and not split:
        yield from _read_file(path)
    elif path.suffix not in _FILES and _HUB_ID.fullmatch(name := source.removesuffix(f":{split}")):
        yield from _read_hub(source, name, split or "train")
    else:
        raise DataError(f"{source} does not exist; correct the path, or make the file")


def instruction(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with a column "prompt", if it is missing and a known layout says what it would be."""
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
    """Reads rows that need the text columns `remedies`; `build` makes the record, or says why the row is set aside."""
    rows: list[T] = []
    faulty: list[BadRow] = []
    quarantined: list[BadRow] = []
    columns: dict[str, None] = {}  # a set that keeps its order
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
            f"{source}: {len(faulty)} of {total} rows cannot be used, more than {max_bad_share:.1%}; repair or remove "
            f"them, or raise max_bad_share: {_listed(faulty)}"
        )
    if not rows:
        why = f"; all {total} rows are set aside: {_listed(quarantined)}" if total else "; it is empty"
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


def _content(text: str) -> str:
    """NFKC, case folded, runs of white space collapsed: what makes two prompts the same question."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def _read_file(path: Path) -> Iterator[Row | BadRow]:
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix == ".json" and (text := path.read_text(encoding="utf-8-sig").lstrip()).startswith("["):
            for number, value in enumerate(json.loads(text), start=1):
                yield _row(path, number, value)
        elif path.suffix in _FILES:
            yield from _read_lines(path)
        else:
            raise DataError(f"{path} is of unknown kind {path.suffix!r}; use one of {', '.join(_FILES)}")
    except RecursionError:
        raise DataError(f"{path} cannot be read: it nests too deep; write one flat row a line as .jsonl") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {_short(error)}; repair it or write it again") from None


def _read_lines(path: Path) -> Iterator[Row | BadRow]:
    with path.open("rb") as file:  # bytes: text mode would fail on the whole file for one line that is not UTF-8
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                size = len(line) + _skip_line(file)
                yield BadRow(str(path), number, f"is {size:,} bytes long; a line may have {MAX_LINE:,}")
            elif line.strip():
                yield _row(path, number, _parse(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line))


def _skip_line(file: BinaryIO) -> int:
    """Reads to the end of a line in pieces; returns the bytes skipped."""
    size = 0
    while piece := file.readline(MAX_LINE):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def _parse(line: bytes) -> Any:
    """The value of one JSON line, or the error as a value: one torn line must not cost the file."""
    try:
        return json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        return DataError(f"is not JSON: {error.msg} at column {error.colno}")
    except UnicodeDecodeError as error:
        return DataError(f"is not UTF-8: {error.reason} at byte {error.start + 1}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nesting without end
        return DataError(f"is not usable JSON: {_short(error)}")


def _row(path: Path, number: int, value: Any) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(str(path), number, value)
    reason = str(value) if isinstance(value, DataError) else f"holds {type(value).__name__}, not an object of columns"
    return BadRow(str(path), number, reason)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet  # here, so that reading JSONL does not wait for it

    number = 0
    with pyarrow.parquet.ParquetFile(path) as table:
        for batch in table.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Row(str(path), number, values)


def _read_folder(path: Path, split: str) -> Iterator[Row | BadRow]:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        yield from _read_saved(path, split)
        return
    if split:
        raise DataError(f"{path} was not saved by datasets, so it has no split {split!r}; give the file of the split")
    files = sorted(file for file in path.iterdir() if file.suffix in (*_LINES, ".parquet"))
    if not files:
        raise DataError(f"{path} holds no .jsonl or .parquet file and was not saved by datasets; give another folder")
    for file in files:
        yield from _read_file(file)


def _read_saved(path: Path, split: str) -> Iterator[Row]:
    import datasets  # takes seconds

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever it meets in a damaged folder; the type does not matter to the reader
        raise DataError(f"{path} cannot be read: {_short(error)}; save it again with save_to_disk") from error
    if isinstance(saved, datasets.DatasetDict):
        if not split and len(saved) == 1:
            split = next(iter(saved))
        if split not in saved:
            shown = f"no split {split!r}" if split else "several splits"
            raise DataError(f"{path} has {shown}; append one of {', '.join(f':{name}' for name in saved)}")
        saved = saved[split]
    elif split:
        raise DataError(f"{path} has no splits; leave out ':{split}'")
    for number, values in enumerate(saved, start=1):
        yield Row(str(path), number, dict(values))


def _read_hub(source: str, name: str, split: str) -> Iterator[Row]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # network, unknown name, unknown split: many types, one remedy
        raise DataError(
            f"{source} is no file or folder here, and as a hub data set (split {split!r}) it cannot be loaded: "
            f"{_short(error)}; correct the path, choose a split with name:split, or download the file and give its path"
        ) from error
    for number, values in enumerate(rows, start=1):
        yield Row(source, number, dict(values))


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
