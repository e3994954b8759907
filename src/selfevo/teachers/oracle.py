"""The annotator that holds the gold answers: a program, exact and free. It writes D_meta and is seen nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

from selfevo.errors import DataError
from selfevo.protocols import Problem
from selfevo.records import Prompt, Refined
from selfevo.tasks import AnnotatedTask


class OracleTeacher:
    """Annotates responses to `problems` of `task`."""

    def __init__(self, task: AnnotatedTask, problems: Sequence[Problem]) -> None:
        self.task = task
        self.problems = {problem.prompt.id: problem for problem in problems}

    def annotate(self, prompt: Prompt, response: str) -> tuple[str, str]:
        problem = self.problems.get(prompt.id)
        if problem is None:
            raise DataError(f"the annotator holds no answer to prompt {prompt.id} ({prompt.prompt[:60]!r})")
        feedback = self.task.explain(problem, response)
        # Where the response is right it stands, word for word: a right answer must not be taught to change.
        return feedback, response if self.task.is_correct(problem, response) else self.task.solution(problem)

    def solved(self, problem: Problem) -> Refined:
        """The trajectory of a model that was right at once."""
        answer = self.task.solution(problem)
        return Refined(problem.prompt.id, problem.prompt.prompt, answer, self.task.explain(problem, answer), answer)
