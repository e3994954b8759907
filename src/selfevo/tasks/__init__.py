"""Tasks: problems whose answers a program can check. `load_task` finds each of them by name."""

from __future__ import annotations

import difflib

from selfevo.config.own_parts import make_part
from selfevo.config.sections import TaskConfig
from selfevo.errors import ConfigError
from selfevo.tasks import steps
from selfevo.tasks.base import AnnotatedTask, Task

FROM_FILES = ("gsm8k", "svamp", "math")


def load_checked_task(config: TaskConfig) -> Task:
    """The task in a configuration, for evaluation. Your own task needs no solutions or feedback then."""
    if config.own:
        task: Task = make_part(config.name, config.options, Task, "a task")
        return task
    return load_task(config)


def load_task(config: TaskConfig) -> AnnotatedTask:
    """The task in a configuration. Raises ConfigError, with similar names, if there is none."""
    name = config.name
    if config.own:
        task: AnnotatedTask = make_part(name, config.options, AnnotatedTask, "a task that writes D_meta")
        return task
    if name == "demo":
        return steps.StepsTask(name, tuple(steps.KINDS))
    if name in steps.KINDS:
        return steps.StepsTask(name, (name,))
    if name.partition(":")[0] == "instructions":
        from selfevo.tasks import instructions

        kinds = (name.partition(":")[2],) if ":" in name else tuple(instructions.KINDS)
        return instructions.InstructionsTask(name, kinds)
    if name in FROM_FILES:
        from selfevo.tasks.word_problems import WordProblems

        if config.path is None:
            raise ConfigError(f"task {name} reads its problems from a file; give task.path")
        if name == "math":
            from selfevo.tasks.latex import LatexProblems

            return LatexProblems(name, config.path)
        return WordProblems(name, config.path)
    if name.startswith("gym:"):
        from selfevo.tasks.gym import GymTask

        return GymTask(name, dict(config.options))
    known = ["demo", *steps.KINDS, "instructions", *FROM_FILES, "gym:NAME", "package.module:Name for your own"]
    close = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"unknown task {name!r}; {f'did you mean {close[0]!r}?' if close else 'known: ' + ', '.join(known)}"
    )
