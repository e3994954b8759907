"""An annotator whose words are a function of yours: for tests, and for trying out what a run does with feedback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from selfevo.records import Prompt


@dataclass(slots=True)
class ScriptedTeacher:
    """Calls `write(prompt, response)` for feedback and refinement. `calls` keeps what it was asked, in order."""

    write: Callable[[str, str], tuple[str, str]]
    calls: list[tuple[str, str]] = field(default_factory=list)

    def annotate(self, prompt: Prompt, response: str) -> tuple[str, str]:
        self.calls.append((prompt.prompt, response))
        return self.write(prompt.prompt, response)
