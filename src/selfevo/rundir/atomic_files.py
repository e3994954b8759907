"""Writes files that survive a crash: complete or absent, with their SHA-256 beside them."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfevo.errors import DataError, RunError, SelfevoError

MODEL_MARKER = "selfevo.json"
_PARTS = {"data", "stages", "models"}  # folders of a run directory
MADE = {
    "name": str,
    "lineage": str,
    "weights": str,
    "start": str,
    "start_weights": str,
    "examples": dict,
    "files": dict,
}
CARD = "README.md"  # in a model's folder; it is written again after each measurement

# Beside the weights, the files of a model's folder that decide its text.
_DECIDING = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken"),
    *("chat_template.json", "*.jinja", "additional_chat_templates/*.jinja"),
)


def write_atomic(path: Path, content: str | Iterable[bytes]) -> None:
    """Writes all of `content` to `path`, or nothing if it crashes. Raises RunError on a full disk."""
    pieces = [content.encode("utf-8")] if isinstance(content, str) else content
    temporary = _temporary(path)
    try:
        with space_for(path, len(content) if isinstance(content, str) else 2**16):
            check_there(path.parent)
            with temporary.open("wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
    except BaseException:  # also an interrupt: in a notebook the process lives on
        temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other process or thread uses. Removes what dead processes left under such names."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.removesuffix(".tmp").rpartition(".")[2].partition("-")[0]
        if number.isdecimal() and not is_alive(int(number)):
            left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_alive(process: int) -> bool:
    """Whether a process of this host with this number lives."""
    if os.name != "posix":
        return True  # there, os.kill would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def space_for(path: Path, size: int) -> Iterator[None]:
    """Raises RunError if the disk fills up while `path`, about `size` bytes, is written.

    Libraries may hide the error number of a failed write, so the free space is checked too.
    """
    try:
        yield
    except SelfevoError:
        raise
    except Exception as error:
        place = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(place).free
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and free >= min(size, 2**20):
            raise
        raise RunError(
            f"no space left on the disk for {path}: it needs about {size:,} bytes and {free:,} are free; "
            "free some space, then run the same command again to resume"
        ) from error


def make_folder(folder: Path) -> None:
    """Makes a folder of data/, stages/ or models/ if it is missing. The run directory itself is not made anew.

    Raises RunError if the run directory has gone: made anew, it would hold a second, empty run.
    """
    inner = next((path.parent for path in (folder, *folder.parents) if path.name in _PARTS), folder)
    check_there(inner)
    folder.mkdir(parents=True, exist_ok=True)


def check_there(root: Path) -> None:
    """Raises RunError if a run directory has gone while it was in use."""
    if not root.is_dir():
        raise RunError(
            f"{root} has gone while it was in use: it was moved or deleted, or its disk was unmounted; put it back and "
            "run the same command again"
        )


def exists(path: Path) -> bool:
    """Whether `path` exists. False for a name that the file system does not allow."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file. A line cut off by a crash is skipped; its row is computed again."""
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_model(folder: Path) -> str:
    """SHA-256 over all that decides a model's text: weights, configurations, tokenizer and chat templates.

    Raises DataError if the folder holds no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} holds no *.safetensors file; give a folder that save_pretrained() wrote")
    total = hashlib.sha256()
    files += sorted(path for pattern in _DECIDING for path in folder.glob(pattern))
    for path in files:
        total.update(f"{path.relative_to(folder)}:{hash_file(path)}\n".encode())
    return total.hexdigest()


def append(path: Path, text: str) -> None:
    """Appends whole lines to a file and syncs it to disk. Raises RunError on a full disk."""
    content = text.encode("utf-8")
    make_folder(path.parent)
    with space_for(path, len(content)), path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_done(path: Path, lines: Iterable[str], marker: Callable[[], dict[str, Any]]) -> None:
    """Writes X.jsonl line by line, then X.done.json with its SHA-256.

    X.jsonl counts as finished once X.done.json exists. `marker` is called after the last line.
    """
    digest = hashlib.sha256()

    def encoded() -> Iterator[bytes]:
        for line in lines:
            content = line.encode("utf-8") + b"\n"
            digest.update(content)
            yield content

    make_folder(path.parent)
    write_atomic(path, encoded())
    mark_done(path, marker(), digest.hexdigest())


def mark_done(path: Path, marker: dict[str, Any], sha256: str) -> None:
    """Writes X.done.json beside X.jsonl."""
    write_atomic(path.with_suffix(".done.json"), json.dumps({**marker, "sha256": sha256}, indent=2))


def link(source: Path, target: Path) -> None:
    """Hard-links `source` to `target`, or copies it if the file system has no links. Atomic."""
    make_folder(target.parent)
    temporary = _temporary(target)
    with space_for(target, source.stat().st_size):
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)
            sync(temporary)
        temporary.replace(target)
        sync(target.parent)


def seal(folder: Path, marker: dict[str, Any]) -> None:
    """Marks a folder as finished: syncs its files, then writes a marker with the SHA-256 of each."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        sync(path)
    files = {str(path.relative_to(folder)): hash_file(path) for path in paths}
    write_atomic(folder / MODEL_MARKER, json.dumps({**marker, "files": files}, indent=2))


def read_marker(path: Path, **kinds: type) -> dict[str, Any]:
    """The content of a marker. Raises RunError if it is not a JSON object whose values have these `kinds`."""
    remedy = f"restore it, or delete {path.parent if path.name == MODEL_MARKER else path} to have it computed again"
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}); {remedy}") from None
    if not isinstance(marker, dict):
        raise RunError(f"{path} is not a marker that this program wrote; {remedy}")
    for name, kind in kinds.items():
        if not isinstance(marker.get(name), kind):
            raise RunError(f"{path} has no {name!r} as this program writes it; {remedy}")
    return marker


def check_present(folder: Path) -> None:
    """Raises RunError if `selfevo gc` has removed the model in `folder`."""
    path = folder / MODEL_MARKER
    if path.is_file() and "removed" in read_marker(path):
        raise RunError(
            f"{folder} is needed, but selfevo gc has removed its files; delete the folder, and run the command of its "
            "run again to train the model again"
        )


def check_folder(folder: Path) -> None:
    """Raises RunError if a run made the model in `folder`, and the model is not as it was then. Reads all of it."""
    check_present(folder)
    path = folder / MODEL_MARKER
    if path.is_file() and (faults := folder_faults(folder, read_marker(path))):
        raise RunError(
            f"{'; '.join(faults)}; restore it, or delete {folder} and run the command of its run again to train the "
            "model again"
        )


def read_counts(path: Path) -> dict[str, int]:
    """How many rows went into the finished file of the marker `path`, and where they went."""
    return Counter(read_marker(path, rows=dict)["rows"])


def file_fault(path: Path, sha256: str) -> str | None:
    """What is wrong with a finished file. None if it is unchanged."""
    if not path.is_file():
        return f"{path} is missing"
    return None if hash_file(path) == sha256 else f"{path} was changed after it was finished (SHA-256 differs)"


def folder_faults(folder: Path, marker: dict[str, Any]) -> list[str]:
    """What is wrong with a sealed folder. Files that `selfevo gc` removed are no fault."""
    if "removed" in marker:
        return []
    if not isinstance(marker.get("files"), dict):
        return [f"{folder / MODEL_MARKER} has no SHA-256 of the folder's files"]
    faults = [file_fault(folder / name, sha256) for name, sha256 in marker["files"].items()]
    known = {*marker["files"], MODEL_MARKER, CARD}
    for path in sorted(folder.rglob("*")):
        of_ours = str(path.relative_to(folder)) in known or path.name.endswith(".tmp")
        if not of_ours and (path.is_symlink() or not path.is_dir()):
            faults.append(f"{path} was added after the folder was finished")
    return [fault for fault in faults if fault]


def sync(path: Path) -> None:
    """Syncs a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
