"""selfevo: a language model improves itself with language feedback (SELF, arXiv 2310.00533).

Importing this package is cheap: torch and transformers load with the adapters that need them.
"""

from selfevo.answering import Answer, Refiner
from selfevo.errors import (
    BudgetError,
    ConfigError,
    DataError,
    EngineError,
    MissingExtraError,
    RunError,
    SelfevoError,
    TrainingError,
)
from selfevo.evolution import evolve
from selfevo.prompts import Verdict, parse_verdict
from selfevo.protocols import (
    Annotation,
    Engine,
    Generation,
    Model,
    Problem,
    Progress,
    Request,
    Sampling,
    Task,
    Teacher,
    Trainer,
)
from selfevo.records import Critiqued, Drafted, Example, Judged, Prompt, Refined

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
    "Generation",
    "Judged",
    "MissingExtraError",
    "Model",
    "Problem",
    "Progress",
    "Prompt",
    "Refined",
    "Refiner",
    "Request",
    "RunError",
    "Sampling",
    "SelfevoError",
    "Task",
    "Teacher",
    "Trainer",
    "TrainingError",
    "Verdict",
    "evolve",
    "parse_verdict",
]
