"""Workings in the model's own words, found with labels alone: what it answers when it may take its time, where right.

A model answers better at length than in a few lines (experiments/notebook.md: 34 % for 19 %). Critiques that begin with
such a working teach it to think at length before it judges, which is what makes its verdict worth having. No stronger
model and no gold solution is needed, only the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from selfevo.method.protocols import Model, Sampling
from selfevo.method.records import Prompt
from selfevo.method.skills import RESPOND
from selfevo.rundir.workspace import Workspace
from selfevo.tasks.base import Problem, Task


def own_workings(
    workspace: Workspace,
    model: Model,
    prompts: Sequence[Prompt],
    problems: Mapping[str, Problem],
    task: Task,
    sampling: Sampling,
    samples: int,
) -> dict[str, list[str]]:
    """The distinct right answers of `model` by prompt id, its greedy one first, then of `samples` drawn; of a prompt it
    never answers rightly an empty list. `sampling` gives them room: several times the limit of an answer."""
    found: dict[str, list[str]] = {prompt.id: [] for prompt in prompts}
    for number in range(samples + 1):
        own = sampling if number else replace(sampling, temperature=0.0)
        runner = workspace.runner(f"d_meta-working-{number}", model, {RESPOND.name: own})
        for prompt, text in zip(prompts, runner.generations(RESPOND, prompts), strict=True):
            known, working = found[prompt.id], text.text.strip()
            if text.finish == "stop" and working not in known and task.is_correct(problems[prompt.id], working):
                known.append(working)
    return found
