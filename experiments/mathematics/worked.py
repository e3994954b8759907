"""The annotator that works each problem out before it judges: gold answers, and a working for each problem.

The working is the gold solution, or better one in the model's own words: an answer of its own that came out right, or
what it wrote with the solution in view (`own_workings`). Nothing counts that does not end in the gold answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from workings import worked_feedback

from selfevo.errors import DataError
from selfevo.method.records import Drafted, content_id
from selfevo.tasks.base import AnnotatedTask, Problem
from selfevo.teachers.base import Annotation

_AT_ONCE = 256


class WorkedTeacher:
    """Annotates responses to `problems` of `task`. `workings`: solutions by prompt id, the first that is not the
    response itself is shown, for a critic that repeats what it reads finds nothing; the refinement is the first."""

    def __init__(
        self,
        task: AnnotatedTask,
        problems: Mapping[str, Problem],
        workings: Mapping[str, Sequence[str]],
        locate: bool = True,
    ) -> None:
        self.task, self.problems, self.workings, self.locate = task, problems, workings, locate
        for id, solutions in workings.items():
            if bad := [each for each in solutions if not task.is_correct(problems[id], each)]:
                raise DataError(f"a working of prompt {id} does not end in its answer {problems[id].answer}: {bad[0]}")

    def key(self, draft: Drafted) -> str:
        problem, working = self._known(draft)
        return content_id("worked", self.locate, problem.answer, working, draft.prompt, draft.response)

    def annotate(self, drafts: Sequence[Drafted]) -> Iterator[list[tuple[int, Annotation]]]:
        for start in range(0, len(drafts), _AT_ONCE):
            yield [(start + i, self._one(draft)) for i, draft in enumerate(drafts[start : start + _AT_ONCE])]

    def _one(self, draft: Drafted) -> Annotation:
        problem, working = self._known(draft)
        feedback = worked_feedback(draft.prompt, working, draft.response, problem.answer, self.locate)
        # Where the response is right it stands, word for word: a right answer must not be taught to change.
        right = self.task.is_correct(problem, draft.response)
        return Annotation(feedback, draft.response if right else working)

    def _known(self, draft: Drafted) -> tuple[Problem, str]:
        """The problem and the working to show."""
        if draft.id not in self.problems:
            raise DataError(f"the annotator holds no answer to prompt {draft.id} ({draft.prompt[:60]!r})")
        problem = self.problems[draft.id]
        solutions = [*self.workings.get(draft.id, ()), self.task.solution(problem)]
        others = [each for each in solutions if each.strip() != draft.response.strip()]
        return problem, (others or solutions)[0]
