"""The section of a task: which problems, and by which rule their answers are checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from selfevo.config.base import Strict


class TaskColumns(Strict):
    """The names of the columns in your file of problems."""

    prompt: str = Field("prompt", description="the prompt: text or a conversation")
    answer: str = Field(
        "answer", description="the right answer, or a list of them; for judge a recorded answer to compare with"
    )
    choices: str | None = Field(None, description="for choice: the texts to choose from; default: choices, if there")
    solution: str | None = Field(
        None,
        description="a right response, which corpus.task learns from; default: solution, if there, else the answer",
    )
    kind: str | None = Field(None, description="results are split by it; default: kind, if there")
    difficulty: str | None = Field(None, description="results are split by it; default: difficulty, if there")


# Tasks on a file of your own, and those on the files of a benchmark. docs/guides/evaluation.md
OWN_FILE = ("exact", "choice", "regex", "number", "math", "python", "judge")
BENCHMARKS = ("gsm8k", "svamp")


class TaskConfig(Strict):
    """Problems, and the rule by which their answers are checked or compared."""

    name: str = Field(
        description="exact, choice, regex, number, math, judge or python:MODULE:FUNCTION for your own file; demo or "
        "one of its kinds; instructions; gsm8k, svamp; gym:NAME; or package.module:Name"
    )
    path: Path | None = Field(None, description="file, folder or hub data set with the problems, for tasks on files")
    columns: TaskColumns = Field(TaskColumns(), description="your names of the columns, for tasks on your own file")
    options: dict[str, Any] = Field(
        {}, description="options of the task: docs/guides/evaluation.md; of a reasoning-gym generator; of your own task"
    )

    @property
    def kind(self) -> str:
        """The name without what follows a colon, for a task of this package."""
        return self.name.partition(":")[0]

    @property
    def own(self) -> bool:
        """Whether `name` is your own part, package.module:Name."""
        return ":" in self.name and self.kind not in ("gym", "instructions", "python")

    @property
    def part(self) -> str | None:
        """Your own code that the task runs, as package.module:Name; None if there is none."""
        if self.kind == "python":
            return self.name.partition(":")[2]
        return self.name if self.own else None

    @model_validator(mode="after")
    def _fits_the_task(self) -> TaskConfig:
        if self.own and self.path is not None:
            raise ValueError(f"path {self.path} is only for tasks of this package; give it to {self.name} in options")
        if self.kind == "python" and not re.fullmatch(r"python:[^\W\d][\w.]*:[^\W\d]\w*", self.name):
            raise ValueError(f"{self.name!r} names no function; give python:MODULE:FUNCTION")
        if self.columns != TaskColumns() and (self.own or self.kind not in OWN_FILE):
            hint = "; use number or math" if self.kind in BENCHMARKS else ""
            raise ValueError(f"columns are only for {', '.join(OWN_FILE)}, and the task is {self.name}{hint}")
        return self


def _knows_answers(task: TaskConfig) -> TaskConfig:
    if task.kind == "judge":
        raise ValueError(
            "task judge compares answers and knows no right one, so it is for evaluation, gate and `selfevo eval`; "
            "give another task, or prompts from a file"
        )
    return task


CheckedTaskConfig = Annotated[TaskConfig, AfterValidator(_knows_answers)]  # whose answers a program can check
