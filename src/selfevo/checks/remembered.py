"""Checks that take long are remembered: what `selfevo doctor` has found, `selfevo run` does not look for again."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfevo.method.records import content_id
from selfevo.models.resolve import cache_directory
from selfevo.rundir.atomic_files import files_in, write_atomic


def remembered(question: dict[str, Any], ask: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What `ask` found for the same question before, or finds now. A failure is not remembered."""
    path = cache_directory() / "checks" / f"{content_id(json.dumps(question, sort_keys=True, default=str))}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        found: list[dict[str, Any]] = [
            {**check, "finding": f"{check['finding']} (found before)"} for check in json.loads(path.read_text())
        ]
        return found
    checks = ask()
    if all(check["status"] != "fail" for check in checks):
        with suppress(OSError):  # only speed is lost
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(checks))
    return checks


def fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of each file of a model: as good as a hash, and at once."""
    stats = ((path, path.stat()) for path in files_in(folder))
    return sorted((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns) for path, stat in stats)
