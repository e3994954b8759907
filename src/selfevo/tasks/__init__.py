"""Tasks: problems whose answers a program can check. `load_task` finds each of them by name."""

from __future__ import annotations

import difflib

from selfevo.config.loading import parse
from selfevo.config.own_parts import make_part
from selfevo.config.task import BENCHMARKS, OWN_FILE, TaskConfig
from selfevo.errors import ConfigError
from selfevo.tasks import steps
from selfevo.tasks.base import AnnotatedTask, Task
from selfevo.tasks.choice import ChoiceRule
from selfevo.tasks.function import FunctionRule
from selfevo.tasks.judged import JudgeRule
from selfevo.tasks.own_files import OwnFile
from selfevo.tasks.rules import ExactRule, NumberRule, RegexRule

RULES: dict[str, type[ExactRule | RegexRule | NumberRule | ChoiceRule]] = {
    "exact": ExactRule,
    "choice": ChoiceRule,
    "regex": RegexRule,
    "number": NumberRule,
}


def load_checked_task(config: TaskConfig) -> Task:
    """The task in a configuration, for evaluation. Your own task needs no solutions or feedback then."""
    if config.own:
        task: Task = make_part(config.name, config.options, Task, "a task")
        return task
    return load_task(config)


def load_task(config: TaskConfig) -> AnnotatedTask:
    """The task in a configuration. Raises ConfigError, with similar names, if there is none."""
    name = config.name
    if not config.own:
        _refuse_others(config)
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
    if config.kind in (*OWN_FILE, *BENCHMARKS):
        return _on_file(config)
    if name.startswith("gym:"):
        from selfevo.tasks.gym import GymTask

        return GymTask(name, dict(config.options))
    known = ["demo", *steps.KINDS, "instructions", *OWN_FILE, "python:MODULE:FUNCTION", *BENCHMARKS]
    known += ["gym:NAME", "package.module:Name for your own"]
    close = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"unknown task {name!r}; {f'did you mean {close[0]!r}?' if close else 'known: ' + ', '.join(known)}"
    )


def _refuse_others(config: TaskConfig) -> None:
    """Raises ConfigError for a setting that the task would not read."""
    generated = config.kind in ("demo", *steps.KINDS, "instructions", "gym")
    if config.path is not None and generated:
        raise ConfigError(f"task {config.name} makes its own problems, and path is {config.path}; remove path")
    if config.options and config.kind != "gym" and (generated or config.kind in ("math", *BENCHMARKS)):
        given = ", ".join(config.options)
        raise ConfigError(f"task {config.name} has no options, and {given} is given; remove it")


def _on_file(config: TaskConfig) -> AnnotatedTask:
    """A task on a benchmark's file or on your own."""
    name, path, options = config.name, config.path, dict(config.options)
    if path is None:
        raise ConfigError(f"task {name} reads its problems from a file; give task.path")
    place = f"task {name}: options"
    if config.kind == "python":
        function = parse(FunctionRule, {**options, "function": name.partition(":")[2]}, place)
        function.check()
        return OwnFile(name, path, function, config.columns, answered=False)
    if name == "judge":
        return OwnFile(name, path, parse(JudgeRule, options, place), config.columns, answered=False)
    if name in RULES:
        return OwnFile(name, path, parse(RULES[name], options, place), config.columns)
    if name == "math":
        from selfevo.tasks.latex import LatexProblems

        return LatexProblems(name, path, config.columns)
    from selfevo.tasks.word_problems import WordProblems

    return WordProblems(name, path)
