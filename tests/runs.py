"""What several tests of run directories share."""

from __future__ import annotations

from pathlib import Path


class KilledError(Exception):
    """Stands for whatever ends a process."""


def tree(root: Path) -> dict[str, bytes]:
    """Every file of stages/, data/ and models/, but for the markers of models, which hold a duration."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("stages", "data", "models")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and path.name != "selfevo.json"
    }
