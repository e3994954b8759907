"""An annotator whose text your function gives: for tests, and to try a run with feedback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from selfevo.method.records import Drafted, content_id
from selfevo.teachers.base import Annotation


@dataclass(slots=True)
class ScriptedTeacher:
    """Calls `write(prompt, response)` for feedback and refinement. `calls` holds all calls, in order."""

    write: Callable[[str, str], tuple[str, str]]
    calls: list[tuple[str, str]] = field(default_factory=list)

    def key(self, draft: Drafted) -> str:
        return content_id("scripted", draft.prompt, draft.response)

    def annotate(self, drafts: Sequence[Drafted]) -> Iterator[list[tuple[int, Annotation]]]:
        for position, draft in enumerate(drafts):
            self.calls.append((draft.prompt, draft.response))
            yield [(position, Annotation(*self.write(draft.prompt, draft.response)))]
