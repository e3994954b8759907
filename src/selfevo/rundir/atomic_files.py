"""Writes files that survive a crash: complete or absent, with their SHA-256 beside them.

What is written goes to disk in this order, each step before the next one begins: the content of a file under a
temporary name (fsync), its own name (rename, which replaces a file at once), the names in its folder (fsync of the
folder), and only then the marker that says it is finished. So at each moment, also after a power failure, what has a
name is whole, and what has a marker is there. What a file system must keep to for that: docs/concepts/reliability.md.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from selfevo.errors import DataError, RunError, SelfevoError
from selfevo.rundir.adapter_folder import adapter_digest, is_adapter, weights_folder
from selfevo.rundir.fields import MARKER, ROW, Fields, checked

MODEL_MARKER = "selfevo.json"
MADE = {
    "name": str,
    "lineage": str,
    "weights": str,
    "start": str,
    "start_weights": str,
    "examples": dict,
    "files": dict,
}
CURVE = "training.jsonl"  # in a model's folder: what was logged at each step of its training; `gc` leaves it
CARD = "README.md"  # in a model's folder; it is written again after each measurement

ABANDONED_SECONDS = 24 * 60 * 60  # no write takes so long
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EISDIR)

# The run directories that this process has locked, each with a test of whether it is still there and locked.
HELD: dict[Path, Callable[[], bool]] = {}

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
            make_folder(path.parent)
            with temporary.open("wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            move(temporary, path)
    except BaseException:  # also an interrupt: in a notebook the process lives on
        temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other process or thread uses. Removes what dead processes left under such names.

    The numbers of processes of another host mean nothing here, so what it left is removed when it is old.
    """
    here = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        host, _, rest = left.name.removesuffix(".tmp").rpartition(".")[2].partition("-")
        number = rest.partition("-")[0]
        with suppress(FileNotFoundError):  # somebody else was faster
            old = time.time() - left.stat().st_mtime > ABANDONED_SECONDS
            if number.isdecimal() and (old if host != here else not is_alive(int(number))):
                left.unlink()
    return path.with_name(f".{path.name}.{here}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def move(source: Path, target: Path) -> None:
    """Renames a file or folder, over what stands there, and syncs the new name to disk.

    A server may lose its answer, be asked again, and say that there is nothing to rename (NFS). That is no failure.
    """
    before = source.stat()
    try:
        source.replace(target)
    except FileNotFoundError:
        if not (target.exists() and os.path.samestat(before, target.stat())):
            raise
    sync(target.parent)


def is_temporary(path: Path) -> bool:
    """Whether `path` has such a name."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


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
    """Raises RunError if the disk fills up while `path`, about `size` bytes, is written, or if its run has gone.

    Libraries may hide the error number of a failed write, so the free space is checked too.
    """
    check_there(path)
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
    """Makes a folder of a run directory if it is missing. Raises RunError if the run directory has gone."""
    check_there(folder)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        with suppress(PermissionError):  # one may make a folder where one may not read the names
            sync(made.parent)


def check_there(path: Path) -> None:
    """Raises RunError if `path` lies in a run directory that has gone. Made anew, it would hold a second, empty run."""
    for root, is_there in list(HELD.items()):
        if path.is_relative_to(root) and not is_there():
            raise RunError(
                f"{root} has gone while it was in use: it was moved, deleted or taken over by another process, or its "
                "disk was unmounted; put it back and run the same command again"
            )


def exists(path: Path) -> bool:
    """Whether `path` exists. False for a name that the file system does not allow."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def from_user(name: str) -> Path:
    """The path that a user wrote as `name`, with ~ for the home directory if there is one."""
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def read_rows(path: Path) -> Iterator[Fields]:
    """The JSON objects of a file. A line cut off by a crash is skipped; its row is computed again.

    Raises RunError for an object in which a key of rows has another type.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield checked(row, ROW, f"{path} line {number}", "restore the file, or delete the line")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_model(folder: Path, base: Path | None = None) -> str:
    """SHA-256 over all that decides a model's text: weights, configurations, tokenizer and chat templates.

    Of an adapter, also over the base that it sits on, wherever that lies: `base`, or the one that it
    names. Raises DataError if the folder holds no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} holds no *.safetensors file; give a folder that save_pretrained() wrote")
    total = hashlib.sha256()
    files += sorted(path for pattern in _DECIDING for path in folder.glob(pattern))
    for path in files:
        total.update(f"{path.relative_to(folder)}:{hash_file(path)}\n".encode())
    if is_adapter(folder):
        total.update(adapter_digest(folder, hash_model(base or weights_folder(folder))).encode())
    return total.hexdigest()


def append(path: Path, text: str) -> None:
    """Appends whole lines to a file and syncs it to disk. Raises RunError on a full disk."""
    content = text.encode("utf-8")
    new = not path.exists()
    with space_for(path, len(content)), path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync(path.parent)


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
        except FileExistsError:
            pass  # nobody else has this name: it was linked, and the server was asked again (NFS)
        except OSError:
            shutil.copy2(source, temporary)
            sync(temporary)
        move(temporary, target)


def seal(folder: Path, marker: dict[str, Any]) -> None:
    """Marks a folder as finished: syncs its files, then writes a marker with the SHA-256 of each."""
    found = sorted(folder.rglob("*"))
    paths = [path for path in found if path.is_file()]
    for path in found:
        sync(path)
    files = {str(path.relative_to(folder)): hash_file(path) for path in paths}
    write_atomic(folder / MODEL_MARKER, json.dumps({**marker, "files": files}, indent=2))


def read_marker(path: Path, **kinds: type) -> Fields:
    """The content of a marker. Raises RunError if it is not a JSON object whose values have these `kinds`, or a key of
    markers has another type."""
    if path.name == MODEL_MARKER:
        remedy = f"restore it, or delete {path.parent} to have it computed again"
    elif path.name.endswith(".done.json"):
        remedy = f"restore it, or delete {path} to have it computed again"
    else:  # config.json and manifest.json say what the run is
        remedy = "restore it, or give a new output directory"
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}); {remedy}") from None
    if not isinstance(marker, dict):
        raise RunError(f"{path} is not a marker that this program wrote; {remedy}")
    for name, kind in kinds.items():
        if not isinstance(marker.get(name), kind):
            raise RunError(f"{path} has no {name!r} as this program writes it; {remedy}")
    return checked(marker, MARKER, str(path), remedy)


def check_present(folder: Path) -> None:
    """Raises RunError if `selfevo gc` has removed the model in `folder`."""
    path = folder / MODEL_MARKER
    if path.is_file() and "removed" in read_marker(path):
        raise RunError(
            f"{folder} is needed, but selfevo gc has removed its files; delete the folder, and run the command of its "
            "run again to train the model again"
        )


def check_folder(folder: Path, base: Path | None = None) -> None:
    """Raises RunError if a run made the model in `folder`, and the model is not as it was then. Reads all of it.

    `base` is what an adapter sits on, in the place of the one that it names.
    """
    check_present(folder)
    path = folder / MODEL_MARKER
    if not path.is_file():
        return
    marker = read_marker(path)
    hidden = (f"{folder}{os.sep}.",)  # nothing loads these: what a file manager or an upload left
    added = [fault for fault in added_files(folder, marker) if not fault.startswith(hidden)]
    if faults := [*folder_faults(folder, marker, base), *added]:
        raise RunError(". ".join(faults))


def read_counts(path: Path) -> dict[str, int]:
    """How many rows went into the finished file of the marker `path`, and where they went."""
    return Counter(read_marker(path, rows=dict)["rows"])


def file_fault(path: Path, sha256: str) -> str | None:
    """What is wrong with a finished file. None if it is unchanged."""
    try:
        if not path.is_file():
            return f"{path} is missing"
        return None if hash_file(path) == sha256 else f"{path} was changed after it was finished (SHA-256 differs)"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"


def folder_faults(folder: Path, marker: dict[str, Any], base: Path | None = None) -> list[str]:
    """What is wrong with the files of a sealed folder, with the remedy. That `selfevo gc` removed them is no fault."""
    if "removed" in marker:
        return []
    remedy = f"restore it, or delete {folder} and run the command of its run again to train the model again"
    if not isinstance(marker.get("files"), dict):
        return [f"{folder / MODEL_MARKER} has no SHA-256 of the folder's files; {remedy}"]
    faults = [fault for name, sha256 in marker["files"].items() if (fault := file_fault(folder / name, sha256))]
    return [f"{fault}; {remedy}" for fault in faults] or _base_faults(folder, marker, base)


def _base_faults(folder: Path, marker: dict[str, Any], base: Path | None) -> list[str]:
    """What is wrong with the base of a finished adapter, with the remedy."""
    if "weights" not in marker or not is_adapter(folder):
        return []
    try:
        base = base or weights_folder(folder)
        same = hash_model(folder, base) == marker["weights"]
    except DataError as error:
        return [str(error)]
    said = f"{base} is not the model that the adapter {folder} was trained on; put that model back, or merge the two"
    return [] if same else [f"{said}: selfevo merge {folder} NEW --base FOLDER"]


def added_files(folder: Path, marker: dict[str, Any]) -> list[str]:
    """The files of a sealed folder that were not there when it was sealed, each with the remedy."""
    if "removed" in marker:
        left = (path for path in files_in(folder) if path not in (folder / MODEL_MARKER, folder / CURVE))
        return [f"{path} was left by a selfevo gc that was stopped; run selfevo gc again" for path in left]
    files = marker.get("files")
    known = {MODEL_MARKER, CARD, *(files if isinstance(files, dict) else ())}
    return [
        f"{path} was added after the model was finished; delete it, or move it elsewhere"
        for path in files_in(folder)
        if str(path.relative_to(folder)) not in known and not is_temporary(path)
    ]


def files_in(*folders: Path) -> list[Path]:
    """All files and links in folders and in those below, sorted. What vanishes meanwhile is left out."""
    found = []
    for folder in folders:
        for place, below, names in os.walk(folder):
            found += [Path(place, name) for name in (*names, *below) if name in names or Path(place, name).is_symlink()]
    return sorted(found)


def sync(path: Path) -> None:
    """Syncs a file, or the names in a folder, to disk. Some file systems sync names by themselves, and refuse to."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
