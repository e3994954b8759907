"""Looks for the files and tasks that a configuration names, before anything slow is imported or read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from selfevo.config.sources import FileCorpus, FilePrompts, PromptsCorpus, PromptsGate, source_in
from selfevo.config.task import TaskConfig
from selfevo.data.tables import locate
from selfevo.errors import DataError
from selfevo.method.records import Prompt
from selfevo.tasks import load_checked_task


def first_of(prompts: list[Prompt], count: int | None, setting: str, path: str) -> list[Prompt]:
    """The first `count` prompts of a file; all without a count. Raises DataError if there are fewer."""
    if count is not None and len(prompts) < count:
        raise DataError(
            f"{setting} is {count}, and {path} has {len(prompts)} prompts; lower it, or leave it out to take all"
        )
    return prompts[:count]


def check_sources(section: Any) -> None:
    """Raises DataError for a file that is not there, ConfigError for an unknown task. Data sets of the hub and your
    own tasks are not looked for here."""
    match section:
        case TaskConfig():
            if not section.own:
                load_checked_task(section)
            if section.path is not None:
                locate(str(section.path))
        case FilePrompts() | FileCorpus() | PromptsCorpus() | PromptsGate():
            locate(source_in(section))
    if isinstance(section, BaseModel):
        for field in type(section).model_fields:
            check_sources(getattr(section, field))
    elif isinstance(section, list | tuple):
        for each in section:
            check_sources(each)
