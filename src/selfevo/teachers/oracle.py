"""The annotator that is a program with the gold answers. It only writes D_meta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from selfevo.errors import DataError
from selfevo.method.records import Drafted, content_id
from selfevo.tasks.base import AnnotatedTask, Problem
from selfevo.teachers.base import Annotation

_AT_ONCE = 256


class OracleTeacher:
    """Annotates responses to `problems` of `task`. `problems` maps prompt ids to problems."""

    def __init__(self, task: AnnotatedTask, problems: Mapping[str, Problem]) -> None:
        self.task, self.problems = task, problems

    def key(self, draft: Drafted) -> str:
        return content_id(self.task.name, self._problem(draft).answer, draft.prompt, draft.response)

    def annotate(self, drafts: Sequence[Drafted]) -> Iterator[list[tuple[int, Annotation]]]:
        for start in range(0, len(drafts), _AT_ONCE):
            yield [(start + i, self._one(draft)) for i, draft in enumerate(drafts[start : start + _AT_ONCE])]

    def _one(self, draft: Drafted) -> Annotation:
        problem = self._problem(draft)
        feedback = self.task.explain(problem, draft.response)
        # A right response is its own refinement, so that the model does not learn to change right
        # answers.
        right = self.task.is_correct(problem, draft.response)
        return Annotation(feedback, draft.response if right else self.task.solution(problem, draft.response))

    def _problem(self, draft: Drafted) -> Problem:
        problem = self.problems.get(draft.id)
        if problem is None:
            raise DataError(f"the annotator holds no answer to prompt {draft.id} ({draft.prompt[:60]!r})")
        return problem
