"""Whose a run directory is: one configuration for ever, one process at a time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from selfevo.errors import RunError
from selfevo.rundir.files import hash_file, read_marker, space_for, write_atomic

TRIES = 3


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """One process per run directory. The lock dies with its owner, however that dies."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    path = root / ".lock"
    with path.open("a+b", buffering=0) as file:
        for attempt in range(TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if attempt < TRIES - 1:
                    time.sleep(0.05)  # in_use() holds it for a moment
                    continue
            file.seek(0)
            owner = file.read().decode().strip() or "unknown"
            minutes = (time.time() - os.fstat(file.fileno()).st_mtime) / 60
            raise RunError(
                f"{root} is in use by process {owner} for {minutes:.0f} minutes; wait for it, or give another --output"
            ) from None
        with space_for(path, 8):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield


def in_use(root: Path) -> bool:
    """Whether a process holds the lock of `root` at this moment."""
    import fcntl

    try:
        with (root / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def claim(
    root: Path,
    config: dict[str, Any],
    manifest: dict[str, Any],
    config_text: str,
    may_change: Collection[str] = (),
    parts: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Makes `root` the run directory of this configuration, or checks that it already is.

    `may_change`: dotted keys whose values decide no row. `parts`: the source files of parts from outside this package,
    by the name that the configuration gives them; their SHA-256 is kept under "parts" of config.json.

    Raises RunError when it belongs to another configuration (the message lists the keys), when the source of a part
    was changed, or when it is something else.
    """
    path = root / "config.json"
    if path.exists():
        # Where it stands is no part of a run: one that was moved or copied goes on.
        old = {**read_marker(path), "output": config.get("output")}
        if changed := changed_parts(root, parts):
            raise RunError(
                f"{root} was started with another {changed[0]}: {parts[changed[0]]} was changed since; restore it to "
                "resume, or give a new --output"
            )
        old.pop("parts", None)
        differences = [line for line in differing_keys(old, config) if line.partition(":")[0] not in may_change]
        if differences:
            raise RunError(
                f"{root} was started with another configuration ({'; '.join(differences)}); "
                "use the same one to resume, or a new --output"
            )
        return
    # What a run leaves that was killed in its first moment does not count.
    foreign = [p.name for p in root.iterdir() if p.name not in (".lock", "config.yaml", "manifest.json")]
    if any(not (name.startswith(".") and name.endswith(".tmp")) for name in foreign):
        raise RunError(f"{root} is not empty and not a selfevo run; give a new --output")
    write_atomic(root / "config.yaml", config_text)
    write_atomic(root / "manifest.json", json.dumps(manifest, indent=2))
    hashes = {"parts": {name: hash_file(file) for name, file in parts.items()}} if parts else {}
    write_atomic(path, json.dumps({**config, **hashes}, indent=2))


def changed_parts(root: Path, parts: Mapping[str, Path]) -> list[str]:
    """Which of `parts`, source files by name, were other files when the run in `root` was started with them."""
    path = root / "config.json"
    before = read_marker(path).get("parts", {}) if path.exists() else {}
    return [name for name, file in parts.items() if name in before and before[name] != hash_file(file)]


def differing_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested configurations, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in differing_keys(old.get(k), new.get(k), f"{prefix}.{k}" if prefix else k)]
    return [] if old == new else [f"{prefix}: {old!r} in the run, {new!r} now"]
