"""The Python interface: run the loop, read its results, measure a model.

run = selfevo.run("my-run.yaml", rounds=2)
print(run.results.models[-1].direct.accuracy)
for row in run.rows("round-2"):
    print(row.kept, row.reason, row.refinement)
[answer] = selfevo.Refiner(run.best).answer(["Add 4 to each: 15 48 32"])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from selfevo.checks.doctor import examine
from selfevo.config.base import merged
from selfevo.config.loading import parse, parse_config, read_yaml
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import MeasureConfig
from selfevo.errors import ConfigError, RunError
from selfevo.method.prompts import Wording
from selfevo.method.protocols import Engine, Progress, Trainer
from selfevo.method.records import Judged, from_row
from selfevo.pipeline.evaluate_model import evaluate_model
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Live, Silent
from selfevo.report.terminal import console
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.inspect import best_model, is_run, require_run
from selfevo.rundir.layout import Layout
from selfevo.rundir.results import Results, load_results
from selfevo.sharing.export import Exported, Format, Which, export_rows

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class FilteredRow(Judged):
    """A trajectory of a round, whether the filter kept it, and the reason if not."""

    kept: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class RunResult:
    """The run directory `root` of a run that has ended or still goes on."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))  # a text is a path too
        require_run(self.root)

    @property
    def models(self) -> dict[str, Path]:
        """The folder of each finished model, by name, in the order in which they were made."""
        return {folder.name: folder for folder in Layout(self.root).finished_models()}

    @property
    def best(self) -> Path:
        """The model to use: the gate's best, else the last. Raises RunError if there is none yet."""
        return best_model(self.root)

    @property
    def results(self) -> Results:
        """The results of the run. Raises RunError if no model is measured yet."""
        return load_results(self.root)

    @property
    def report(self) -> Path:
        """The path of the report, one HTML page that needs no network."""
        return Layout(self.root).report

    def rows(self, name: str) -> Iterator[FilteredRow]:
        """The trajectories of a round, such as "round-2", that reached the filter.

        Raises RunError if the run has no such round, or has not filtered it yet.
        """
        layout = Layout(self.root)
        if not layout.filtered(name).is_file():
            there = ", ".join(path.name for path in layout.rounds() if layout.filtered(path.name).is_file())
            raise RunError(f"{self.root} has no filtered rows of {name!r}; it has those of {there or 'no round yet'}")
        return (from_row(FilteredRow, row) for row in read_rows(layout.filtered(name)))

    def export(self, form: Format, path: str | Path, *, rounds: Sequence[int] = (), rows: Which = "kept") -> Exported:
        """Writes the rows of `rounds`, by default of all, to a new JSONL file that TRL reads, and counts them.

        `form` is "sft", "preference" or "trajectories", as in `selfevo export --as`. `rows` "all" takes what the
        filter rejected too.
        """
        return export_rows(self.root, form, Path(path), rounds=rounds, rows=rows)

    def push(self, repo: str, *, model: str | None = None, private: bool = False, revision: str | None = None) -> str:
        """Uploads a model, by default the best, and its card to the hub as `repo`. Returns the address.

        The token is that of `hf auth login`, or of the environment variable HF_TOKEN.
        """
        from selfevo.sharing.push import push_model

        return push_model(self.root, repo, model=model, private=private, revision=revision).url


def run(
    config: str | Path | Mapping[str, Any] | RunConfig,
    *,
    progress: bool | Progress = True,
    check: bool = True,
    engine: Engine | Mapping[str, Any] | None = None,
    trainer: Trainer | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> RunResult:
    """Runs the SELF loop, or resumes a stopped run. Returns the run.

    `config` is a YAML file, a dict with the same keys, or a `RunConfig`. `overrides` replace its
    keys: `rounds=2`. A dict changes only the keys that it names: `trainer={"learning_rate": 1e-5}`.
    `engine` and `trainer` may also be your own `Engine` and `Trainer`. `progress=False` shows
    nothing; a `Progress` replaces the display. `check=False` skips the checks of `selfevo doctor`,
    which otherwise run before a first start.

    Raises ConfigError, DataError, RunError, EngineError, TrainingError or BudgetError, each with a
    message that names the value, the place and the remedy.
    """
    (engine_section, own_engine), (trainer_section, own_trainer) = _apart(engine), _apart(trainer)
    sections = {"engine": engine_section, "trainer": trainer_section}
    settings = _settings(config, {**overrides, **{name: section for name, section in sections.items() if section}})
    if check and not is_run(settings.output):
        failed = [f"{each.name}: {each.finding}" for each in examine(settings, own_engine) if each.status == "fail"]
        if failed:
            raise ConfigError(f"checks failed: {'; '.join(failed)}; correct this, or start anyway with check=False")
    return RunResult(run_loop(settings, _shown(progress), own_engine, own_trainer))


def evaluate(
    model: str | Path,
    task: str | Mapping[str, Any],
    *,
    path: str | Path | None = None,
    count: int | None = None,
    seed: int = 0,
    consistency: int = 1,
    max_new_tokens: int | None = None,
    system: str | None = None,
    wording: Wording | Mapping[str, str] | None = None,
    output: str | Path | None = None,
    progress: bool | Progress = True,
    engine: Engine | Mapping[str, Any] | None = None,
) -> Results:
    """Measures a model on problems of a task: its direct and its refined answers.

    `model` is a folder, a hub id, or a run directory (its best model). `task` is a name, as in
    `selfevo eval --task`, or a section as in a configuration. `count` is the number of problems, by
    default all of a file, and 300 of any other task. With `consistency` above 1, that many
    samples also vote. Each skill is limited to `max_new_tokens`, by default to the limit of the run
    that made the model. `system` is the system prompt of problems that have none, by default that of
    the same run. `wording` holds the words that the model is asked with, by default those that it
    was trained with. With `output`, every row is kept in that folder, and the same call resumes.

    Raises ConfigError if there is no such model or task, DataError if there are not enough
    problems.
    """
    named = {"name": task} if isinstance(task, str) else dict(task)
    section, own = _apart(engine)
    asked = {
        "task": {**named, **({"path": str(path)} if path else {})},
        "count": count,
        "seed": seed,
        "consistency": consistency,
        "max_new_tokens": max_new_tokens,
        "system": system,
        "wording": wording,
        **({"engine": section} if section else {}),
    }
    measure = parse(MeasureConfig, asked, "evaluate")
    folder = Path(output) if output else None
    return evaluate_model(str(model), measure, output=folder, progress=_shown(progress), engine=own)


def merge(
    adapter: str | Path, output: str | Path, *, base: str | Path | None = None, progress: bool | Progress = True
) -> Path:
    """Adds an adapter to its base and writes a plain transformers folder to `output`. Returns that folder.

    `adapter` is the folder of an adapter or a run directory (its best model). `base` is a folder or a hub id, by
    default the one that the adapter names. Raises an error, and writes nothing, if `output` exists or the logits
    change.
    """
    from selfevo.sharing.merge import merge_adapter  # imports torch and peft

    named = str(base) if base is not None else None
    return merge_adapter(str(adapter), Path(output), _shown(progress), named).path


def _settings(config: str | Path | Mapping[str, Any] | RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    if isinstance(config, RunConfig):
        # What is a default stays unsaid, so that a section can be changed to another kind.
        given: Mapping[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    elif isinstance(config, Mapping):
        given = config
    elif isinstance(config, str | Path):
        given = read_yaml(Path(config))
    else:
        raise ConfigError(f"run was given {config!r}; give a YAML file, a dict or a RunConfig")
    source = str(config) if isinstance(config, str | Path) else "the configuration"
    return parse_config(merged(given, overrides), source)


def _apart(part: Part | Mapping[str, Any] | None) -> tuple[Mapping[str, Any], Part | None]:
    """Splits `part` into settings, if it is a section of the configuration, and an object, if not."""
    return (part, None) if isinstance(part, Mapping) else ({}, part)


def _shown(progress: bool | Progress) -> Progress:
    if isinstance(progress, bool):
        return Live(console) if progress else Silent()
    return progress
