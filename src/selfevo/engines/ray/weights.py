"""A model on the machine of a worker: at the same path, if the disk is shared, else a copy in its cache."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from selfevo.errors import EngineError
from selfevo.method.records import content_id
from selfevo.models.resolve import cache_directory
from selfevo.rundir.adapter_folder import ADAPTER_CONFIG, is_adapter, read_adapter, weights_folder
from selfevo.rundir.atomic_files import CARD, hash_file

KEPT = 4  # copies in the cache of a machine; the one that was used longest ago goes
CHUNK = 2**25  # bytes of a file that travel together
_ENDS = 2**16  # bytes at either end of a file that are compared
_SUFFIXES = {".json", ".safetensors", ".jinja", ".model", ".txt", ".tiktoken"}


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a model, as it is beside the run. `files` has the size and a hash of both ends of each.

    An adapter has the folder of its base. A name that is no folder has no files: your own engine
    may know what it means.
    """

    path: Path
    files: Mapping[str, str]
    base: Folder | None = None

    @staticmethod
    def of(path: Path) -> Folder:
        path = path.absolute()
        base = Folder.of(weights_folder(path)) if is_adapter(path) else None
        return Folder(path, {name: _ends(path / name) for name in names(path)}, base)

    @property
    def id(self) -> str:
        return content_id(dict(self.files), self.base.id if self.base else "")


class Source(Protocol):
    """Reads the files of a model beside the run."""

    def hashes(self, folder: Path) -> dict[str, str]:
        """The SHA-256 of each file."""
        ...

    def read(self, path: Path, start: int) -> bytes:
        """At most CHUNK bytes of a file. None are left when it gives none."""
        ...


class Files:
    """A Source for files of this machine."""

    def hashes(self, folder: Path) -> dict[str, str]:
        return {name: hash_file(folder / name) for name in names(folder)}

    def read(self, path: Path, start: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(CHUNK)


def names(folder: Path) -> list[str]:
    """The files that a model is loaded from, and the marker of the run that made it."""
    found = (path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    return sorted(name for path in found if (name := path.relative_to(folder).as_posix()) != CARD)


def find(folder: Folder, source: Source | None) -> Path | None:
    """Where the model lies on this machine, copied from `source` if need be. None: it is not here."""
    if not folder.files:
        return folder.path
    base = None
    if folder.base is not None:
        base = find(folder.base, source)
        if base is None:
            return None
    if (folder.base is None or base == folder.base.path) and _is_there(folder):
        return folder.path
    name = folder.id if base is None else content_id(folder.id, str(base))  # the copy of an adapter names its base
    copy = cache_directory() / "weights" / name
    try:
        if not copy.is_dir():
            if source is None:
                return None
            copy.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(copy.with_suffix(".lock")):  # one worker of a machine copies, the others wait
                if not copy.is_dir():
                    _copy(folder, base, source, copy)
        os.utime(copy)
    except OSError as error:
        raise EngineError(
            f"the model {folder.path} is not on {platform.node()}, and cannot be copied to {copy} there "
            f"({error.strerror or error}); put it on a disk that all machines share, or let SELFEVO_CACHE name a "
            "folder with enough space on each"
        ) from None
    return copy


def _is_there(folder: Folder) -> bool:
    try:
        return all(_ends(folder.path / name) == ends for name, ends in folder.files.items())
    except OSError:
        return False


def _ends(path: Path) -> str:
    """Size, and hash of both ends. Weights of another training differ at the ends too."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(file.read(_ENDS))
        file.seek(max(_ENDS, size - _ENDS))
        digest.update(file.read(_ENDS))
    return f"{size}:{digest.hexdigest()[:16]}"


def _copy(folder: Folder, base: Path | None, source: Source, copy: Path) -> None:
    temporary = copy.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for name, expected in source.hashes(folder.path).items():
        target, digest, size = temporary / name, hashlib.sha256(), 0
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            while piece := source.read(folder.path / name, size):
                file.write(piece)
                digest.update(piece)
                size += len(piece)
        if digest.hexdigest() != expected:
            raise EngineError(
                f"{folder.path / name} came to {platform.node()} with another SHA-256 than it has; check the network "
                "and both disks, then run the same command again"
            )
    if base is not None:
        adapter = {**read_adapter(temporary), "base_model_name_or_path": str(base), "revision": None}
        (temporary / ADAPTER_CONFIG).write_text(json.dumps(adapter, indent=2), encoding="utf-8")
    temporary.rename(copy)
    copies = sorted((path for path in copy.parent.iterdir() if not path.suffix), key=lambda path: path.stat().st_mtime)
    for old in copies[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
