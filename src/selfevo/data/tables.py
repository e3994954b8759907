"""Reads rows from files, folders and hub data sets in several formats."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from selfevo.errors import DataError
from selfevo.rundir.atomic_files import exists, from_user

MAX_LINE = 2**25  # bytes of one JSON line; a longer line is not read into memory


_LINES = (".jsonl", ".ndjson")


_FILES = (*_LINES, ".json", ".parquet")


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


def read_table(source: str) -> Iterator[Row | BadRow]:
    """Every row of `source`, in order. A line that is not a JSON object becomes a BadRow.

    `source` is a .jsonl, .json or .parquet file, a folder of .jsonl and .parquet files, a folder
    saved by `datasets.save_to_disk`, or a hub data set. For the last two, `source:split` selects a
    split. Raises DataError if `source` does not exist or cannot be read at all.
    """
    path, split = locate(source)
    if not exists(path):
        yield from _read_hub(source, source.removesuffix(f":{split}"), split or "train")
    elif path.is_dir():
        yield from _read_folder(path, split)
    else:
        yield from _read_file(path)


def locate(source: str) -> tuple[Path, str]:
    """The path and the split of `source`. Raises DataError if it is no file or folder here and no hub data set."""
    path, split = from_user(source), ""
    if not exists(path):
        name, _, split = source.rpartition(":")
        path = from_user(name or source)
        split = split if name else ""
    here = exists(path) and (path.is_dir() or (path.is_file() and not split))
    if not here and (path.suffix in _FILES or not _HUB_ID.fullmatch(source.removesuffix(f":{split}"))):
        raise DataError(f"{source} does not exist; correct the path, or create the file")
    return path, split


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
            raise DataError(f"{path} has the unknown suffix {path.suffix!r}; use one of {', '.join(_FILES)}")
    except RecursionError:
        raise DataError(f"{path} cannot be read: it nests too deep; write one flat row per line as .jsonl") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {_short(error)}; correct it or write it again") from None


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


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet  # slow to import, and JSONL does not need it

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


def _read_hub(source: str, name: str, split: str) -> Iterator[Row]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # network, unknown name or split: many types
        raise DataError(
            f"{source} is not a file or folder here, and cannot be loaded as a hub data set (split {split!r}): "
            f"{_short(error)}; correct the path, choose a split with name:split, or download the file and give its path"
        ) from error
    for number, values in enumerate(rows, start=1):
        yield Row(source, number, dict(values))


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
