"""Several trainings in one group of two processes, because starting a group takes longer than training a tiny model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from selfevo.method.records import Example, as_row
from selfevo.trainers.processes import FIGURES, REPORTS, GroupTrainer, Reports, started


class Seen:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.begun, self.details = list[tuple[int, int]](), list[str]()

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        self.begun.append((done, total))

    def advance(self, amount: int, detail: str = "") -> None:
        self.details.append(detail)

    def finish(self, summary: str = "") -> None: ...


def job_file(place: Path, trainer: GroupTrainer, base: Path, examples: Sequence[Example]) -> Path:
    """The file of a job that leaves its model in place/out."""
    for part in ("out", "work", "group-1"):
        (place / part).mkdir(parents=True, exist_ok=True)
    paths = {"base": str(base), "output": str(place / "out"), "work": str(place / "work"), "directory": str(Path.cwd())}
    path = place / "group-1" / "job.json"
    path.write_text(json.dumps({**trainer.job, **paths, "seed": 0, "examples": [as_row(each) for each in examples]}))
    return path


def trained_together(
    folder: Path, trainings: Mapping[str, tuple[GroupTrainer, Path, list[Example]]]
) -> dict[str, tuple[dict[str, float], Seen]]:
    """Runs each training (trainer, base, examples) in folder/NAME. Returns its figures and its progress."""
    jobs = [str(job_file(folder / name, *training)) for name, training in trainings.items()]
    trainer = next(iter(trainings.values()))[0]
    commands = {
        name: ([sys.executable, __file__, *jobs], {**variables, "PYTHONPATH": os.pathsep.join(sys.path)})
        for name, (_, variables) in trainer._commands(folder).items()
    }
    with started(folder, commands) as processes:
        codes = [process.wait(600) for process in processes.values()]
    assert codes == [0] * len(codes), [(folder / f"{name}.log").read_text()[-3000:] for name in commands]
    found = {}
    for name in trainings:
        seen, left = Seen(), folder / name / "group-1"
        Reports(left / REPORTS).show(seen)
        found[name] = (json.loads((left / FIGURES).read_text()), seen)
    return found


if __name__ == "__main__":
    from selfevo.pipeline import training_job

    for path in sys.argv[1:]:
        if code := training_job.main(Path(path)):
            os._exit(code)
