"""Where everything is in a run directory.

    RUN/
      config.yaml, config.json   the resolved configuration, for people and for the check on a resume
      manifest.json              versions, platform, cost
      events.jsonl               what was done and how long it took, one line per committed piece of work
      data/NAME.jsonl            what the run was given: prompts, problems, D_meta
      stages/NAME/SKILL.jsonl    one row per input row, in input order; NAME is a round, a measurement, ...
      stages/NAME/filter.jsonl   the judged rows, kept or rejected, each rejected one with its reason
      models/NAME/               a plain transformers folder; its selfevo.json holds the SHA-256 of each file
      results.json, report.html

Beside each X.jsonl stands X.done.json, written last: counts, and the SHA-256 of X.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from selfevo.method.names import in_order, round_number
from selfevo.rundir.atomic_files import MODEL_MARKER


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one run directory; none of them has to exist."""

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
        """The number of the process that holds the lock. The lock file itself belongs to filelock: older releases
        empty it, and Windows does not let others read it."""
        return self.root / ".owner"

    def data(self, name: str) -> Path:
        return self.root / "data" / f"{name}.jsonl"

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    def stage(self, name: str, skill: str) -> Path:
        return self.stages / name / f"{skill}.jsonl"

    def filtered(self, name: str) -> Path:
        """The rows of a round that came as far as the filter."""
        return self.stage(name, "filter")

    @property
    def models(self) -> Path:
        return self.root / "models"

    def model(self, name: str) -> Path:
        return self.models / name

    def finished_models(self) -> list[Path]:
        """The folders of models that are whole, in the order in which they are made."""
        markers = self.models.glob(f"[!.]*/{MODEL_MARKER}")
        return sorted((marker.parent for marker in markers), key=lambda folder: in_order(folder.name))

    def rounds(self) -> list[Path]:
        """The folders of rounds that were begun, in order."""
        found = (path for path in self.stages.glob("*") if round_number(path.name) is not None)
        return sorted(found, key=lambda path: in_order(path.name))


def done(path: Path) -> Path:
    """The marker beside X.jsonl that makes its rows count."""
    return path.with_suffix(".done.json")
