"""The paths of a run directory.

    RUN/
      config.yaml, config.json   the resolved configuration, for people and to check a resume
      manifest.json              versions, platform, cost
      events.jsonl               one line per batch or training: what was done and how long it took
      data/NAME.jsonl            the input of the run: prompts, problems, D_meta
      stages/NAME/SKILL.jsonl    one row per input row, in input order; NAME is a round, an evaluation, ...
      stages/NAME/filter.jsonl   the judged rows, kept or rejected, each rejected one with its reason
      base/                      the base model with the chat template of the run, if it has another one
      models/NAME/               a plain transformers folder; its selfevo.json holds the SHA-256 of each file
      models/NAME/training.jsonl what was logged at each step of the training
      results.json, report.html

Each finished X.jsonl has an X.done.json beside it, written last: counts and the SHA-256 of X.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from selfevo.method.names import in_order, round_number
from selfevo.rundir.atomic_files import CURVE, MODEL_MARKER

FORMAT = 2  # of a run directory, in its manifest.json; a change of names or rows raises it


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one run directory. They need not exist."""

    root: Path

    @property
    def config_yaml(self) -> Path:
        return self.root / "config.yaml"

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def owner(self) -> Path:
        """The file with the id of the process that holds the lock.

        It is not the lock file itself, because older releases of filelock empty that file, and
        Windows does not let others read it.
        """
        return self.root / ".owner"

    def data(self, name: str) -> Path:
        return self.root / "data" / f"{name}.jsonl"

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    def stage(self, name: str, skill: str) -> Path:
        return self.stages / name / f"{skill}.jsonl"

    def filtered(self, name: str) -> Path:
        """The rows of a round that reached the filter."""
        return self.stage(name, "filter")

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def models(self) -> Path:
        return self.root / "models"

    def model(self, name: str) -> Path:
        return self.models / name

    def curve(self, name: str) -> Path:
        """What was logged at each step of a training. Only trainers of this package write it."""
        return self.model(name) / CURVE

    def finished_models(self) -> list[Path]:
        """The folders of finished models, in the order in which they are made."""
        markers = self.models.glob(f"[!.]*/{MODEL_MARKER}")
        return sorted((marker.parent for marker in markers), key=lambda folder: in_order(folder.name))

    def rounds(self) -> list[Path]:
        """The folders of started rounds, in order."""
        found = (path for path in self.stages.glob("*") if round_number(path.name) is not None)
        return sorted(found, key=lambda path: in_order(path.name))


def done(path: Path) -> Path:
    """The marker X.done.json of X.jsonl. Without it the rows do not count."""
    return path.with_suffix(".done.json")
