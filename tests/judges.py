"""Judges that a configuration can name, for trainings in other processes."""

from __future__ import annotations

from pathlib import Path

from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.protocols import Generation
from selfevo.method.records import Turns


class ByLength(ScriptedEngine):
    """Likes responses with an odd number of characters."""

    def __init__(self) -> None:
        super().__init__(_by_length)


def _by_length(model: Path, turns: Turns) -> str | Generation:
    return f"Verdict: {'qualified' if len(turns[1]) % 2 else 'not qualified'}"
