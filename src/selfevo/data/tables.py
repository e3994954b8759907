"""Reads rows from files, folders and hub data sets in several formats."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from selfevo.errors import DataError
from selfevo.rundir.atomic_files import exists, from_user

MAX_LINE = 2**25  # bytes of one JSON line; a longer line is not read into memory


_LINES = (".jsonl", ".ndjson")


_TABLES = (".csv", ".tsv")


_FILES = (*_LINES, ".json", ".parquet", *_TABLES)


_MARKS = {",": "comma", ";": "semicolon", "\t": "tab"}


_HUB_ID = re.compile(r"\w[\w.-]*(?:/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `line` counts from 1: the line number in JSONL, else the position in the file."""

    file: str
    line: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """An unusable row: its place and the reason."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from: a file, a folder or a hub data set.

    `split` is a part of a hub data set or of a folder saved by `datasets`. `subset` (its configuration, by the name of
    `datasets`) and `revision` (a branch, tag or commit) belong to a hub data set alone.
    """

    path: str
    split: str | None = None
    subset: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return self.path


def read_table(source: str | Source) -> Iterator[Row | BadRow]:
    """Every row of `source`, in order. A line that is not a JSON object becomes a BadRow.

    `source` is a .jsonl, .json, .parquet, .csv or .tsv file, a folder of such files, a folder saved
    by `datasets.save_to_disk`, or a hub data set. For the last two, `path:split` selects a split
    too. Raises DataError if `source` does not exist or cannot be read at all.
    """
    path, asked = locate(source)
    if not exists(path):
        yield from _read_hub(asked)
    elif path.is_dir():
        yield from _read_folder(path, asked.split)
    else:
        yield from _read_file(path)


def locate(source: str | Source) -> tuple[Path, Source]:
    """The path of `source`, and the source with its split apart from the path.

    Raises DataError if it is no file or folder here and no hub data set, or if one here is asked for what only another
    kind has.
    """
    asked = source if isinstance(source, Source) else Source(source)
    path = from_user(asked.path)
    if not exists(path):
        name, _, split = asked.path.rpartition(":")
        if name and asked.split and asked.split != split:
            raise DataError(f"{asked} names the split {split!r}, and the setting is {asked.split!r}; give one of them")
        if name:
            asked, path = replace(asked, path=name, split=split), from_user(name)
    here = exists(path) and (path.is_dir() or path.is_file())
    if here and path.is_file() and asked.path != str(source):
        here = False  # a.jsonl:train
    if not here and (path.suffix.lower() in _FILES or not _HUB_ID.fullmatch(asked.path)):
        raise DataError(f"{source} does not exist; correct the path, or create the file")
    for name in ("subset", "revision") if here else ():
        if getattr(asked, name):
            raise DataError(f"{source} is here, and only a hub data set has a {name}; remove {name}, or give its name")
    if here and path.is_file() and asked.split:
        raise DataError(f"{source} is a file, which has no splits; remove split, or give the file of {asked.split!r}")
    return path, asked


def _read_file(path: Path) -> Iterator[Row | BadRow]:
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            yield from _read_parquet(path)
        elif kind == ".json" and (rows := _listed(path)) is not None:
            for number, value in enumerate(rows, start=1):
                yield _row(path, number, value)
        elif kind in _TABLES:
            yield from _read_csv(path)
        elif kind in _FILES:
            yield from _read_lines(path)
        else:
            raise DataError(f"{path} has the unknown suffix {path.suffix!r}; use one of {', '.join(_FILES)}")
    except RecursionError:
        raise DataError(f"{path} cannot be read: it nests too deep; write one flat row per line as .jsonl") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {_short(error)}; correct it or write it again") from None


def _listed(path: Path) -> list[Any] | None:
    """The values of a JSON list. None for JSON lines under the name .json."""
    text = path.read_text(encoding="utf-8-sig").strip()
    if text.startswith("["):
        values: list[Any] = json.loads(text)
        return values
    if text.startswith("{\n") or text.startswith("{\r\n"):  # no row on one line begins so
        raise DataError(f"{path} is one JSON object; write the rows as a list, [{{...}}, {{...}}], or one a line")
    return None


def _read_lines(path: Path) -> Iterator[Row | BadRow]:
    with path.open("rb") as file:  # binary: in text mode one line that is not UTF-8 would fail the whole file
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                size = len(line) + _skip_line(file)
                yield BadRow(str(path), number, f"is {size:,} bytes long; at most {MAX_LINE:,} are allowed")
            elif line.strip():
                yield _row(path, number, _parse(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line))


def _skip_line(file: BinaryIO) -> int:
    """Reads to the end of a line in pieces. Returns the number of bytes skipped."""
    size = 0
    while piece := file.readline(MAX_LINE):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def _parse(line: bytes) -> Any:
    """The value of one JSON line, or a DataError as a value, so that the other lines are still read."""
    try:
        return json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        return DataError(f"is not JSON: {error.msg} at column {error.colno}")
    except UnicodeDecodeError as error:
        return DataError(f"is not UTF-8: {error.reason} at byte {error.start + 1}")
    except (ValueError, RecursionError) as error:  # a number with thousands of digits; nesting too deep
        return DataError(f"is not usable JSON: {_short(error)}")


def _row(path: Path, number: int, value: Any) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(str(path), number, value)
    reason = str(value) if isinstance(value, DataError) else f"holds {type(value).__name__}, not a JSON object"
    return BadRow(str(path), number, reason)


def _read_csv(path: Path) -> Iterator[Row | BadRow]:
    """Rows under a header. What stands most often in the header parts the cells: a comma, a semicolon or a tab."""
    csv.field_size_limit(MAX_LINE)
    # Bytes that are not UTF-8 become half surrogates, so that they cost their own row only.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        header = file.readline(MAX_LINE)
        if _not_utf8(header):
            raise DataError(f"{path} is not UTF-8; save it again as CSV in UTF-8")
        file.seek(0)
        reader = csv.reader(file, delimiter=max(_MARKS, key=header.count), strict=True, skipinitialspace=True)
        names = [name.strip() for name in next(reader, [])]
        if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
            raise DataError(f"{path} has the column {twice[0]!r} twice; rename one of them")
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error):  # the cell has all lines to the end of the file in it
                    raise DataError(
                        f"{path} line {line} opens a quotation mark that is never closed; close it, or double it"
                    ) from None
                yield BadRow(str(path), line, f"is not CSV: {error}")
                continue
            if not cells:
                continue
            if any(map(_not_utf8, cells)):
                yield BadRow(str(path), line, "is not UTF-8")
            elif len(cells) != len(names):
                reason = f"has {len(cells)} cells, and the header has {len(names)}; put quotation marks around a cell"
                yield BadRow(str(path), line, f"{reason} with a {_MARKS[reader.dialect.delimiter]} in it")
            else:
                yield Row(str(path), line, dict(zip(names, cells, strict=True)))


def _not_utf8(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet  # slow to import, and JSONL does not need it

    number = 0
    with pyarrow.parquet.ParquetFile(path) as table:
        for batch in table.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Row(str(path), number, values)


def _read_folder(path: Path, split: str | None) -> Iterator[Row | BadRow]:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        yield from _read_saved(path, split)
        return
    if split:
        raise DataError(f"{path} was not saved by datasets, so it has no split {split!r}; give the file of the split")
    files = sorted(file for file in path.iterdir() if _has_rows(file))
    if not files:
        raise DataError(
            f"{path} holds no file of {', '.join(_FILES)} and was not saved by datasets; give another folder"
        )
    for file in files:
        yield from _read_file(file)


def _has_rows(file: Path) -> bool:
    """Whether a file of a folder holds rows. An object in a .json file says something about the others."""
    kind = file.suffix.lower()
    if kind == ".json" and file.is_file():
        with file.open("rb") as opened:
            return opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    return kind in _FILES


def _read_saved(path: Path, split: str | None) -> Iterator[Row]:
    import datasets  # slow to import

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged folder can raise many types
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


def _read_hub(source: Source) -> Iterator[Row]:
    import datasets

    split = source.split or "train"
    place = f"{source}:{source.split}" if source.split else str(source)
    chosen = {"revision": source.revision} if source.revision else {}
    try:
        rows = datasets.load_dataset(source.path, source.subset, split=split, **chosen)
    except Exception as error:  # network, unknown name, subset or split: many types
        parts = [f"split {split!r}"]
        parts += [f"{name} {value!r}" for name in ("subset", "revision") if (value := getattr(source, name))]
        raise DataError(
            f"{source} is not a file or folder here, and cannot be loaded as a hub data set ({', '.join(parts)}): "
            f"{_short(error)}; correct the path, choose a split with name:split, or download the file and give its path"
        ) from error
    for number, values in enumerate(rows, start=1):
        yield Row(place, number, dict(values))


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
