"""selfevo: a language model improves itself with language feedback (SELF, arXiv 2310.00533).

Importing this package is fast: modules that need torch, transformers or pydantic load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from selfevo.errors import (
    BudgetError,
    ConfigError,
    DataError,
    EngineError,
    HubError,
    MissingExtraError,
    RunError,
    SelfevoError,
    TrainingError,
)

if TYPE_CHECKING:
    from selfevo.api import FilteredRow, RunResult, evaluate, merge, run
    from selfevo.method.evolution import evolve
    from selfevo.method.prompts import Wording, parse_verdict
    from selfevo.method.protocols import Engine, Generation, Model, Progress, Request, Sampling, Trainer
    from selfevo.method.records import Critiqued, Drafted, Example, Judged, Prompt, Refined
    from selfevo.method.verdicts import Verdict
    from selfevo.rundir.results import Results, load_results
    from selfevo.serving.refiner import Answer, Refiner
    from selfevo.tasks.base import Problem, Task
    from selfevo.teachers.base import Annotation, Teacher

_WHERE = {
    "selfevo.api": ("FilteredRow", "RunResult", "evaluate", "merge", "run"),
    "selfevo.method.evolution": ("evolve",),
    "selfevo.method.prompts": ("Wording", "parse_verdict"),
    "selfevo.method.protocols": ("Engine", "Generation", "Model", "Progress", "Request", "Sampling", "Trainer"),
    "selfevo.method.records": ("Critiqued", "Drafted", "Example", "Judged", "Prompt", "Refined"),
    "selfevo.method.verdicts": ("Verdict",),
    "selfevo.rundir.results": ("Results", "load_results"),
    "selfevo.serving.refiner": ("Answer", "Refiner"),
    "selfevo.tasks.base": ("Problem", "Task"),
    "selfevo.teachers.base": ("Annotation", "Teacher"),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Annotation",
    "Answer",
    "BudgetError",
    "ConfigError",
    "Critiqued",
    "DataError",
    "Drafted",
    "Engine",
    "EngineError",
    "Example",
    "FilteredRow",
    "Generation",
    "HubError",
    "Judged",
    "MissingExtraError",
    "Model",
    "Problem",
    "Progress",
    "Prompt",
    "Refined",
    "Refiner",
    "Request",
    "Results",
    "RunError",
    "RunResult",
    "Sampling",
    "SelfevoError",
    "Task",
    "Teacher",
    "Trainer",
    "TrainingError",
    "Verdict",
    "Wording",
    "evaluate",
    "evolve",
    "load_results",
    "merge",
    "parse_verdict",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE[name]), name)
