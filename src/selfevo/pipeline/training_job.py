"""One of the processes that train a model together: `python -m selfevo.pipeline.training_job JOB.json`.

It reads the variables that torchrun sets. trainers/processes.py starts it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from selfevo.config.run_config import RunConfig
from selfevo.errors import SelfevoError
from selfevo.method.protocols import Progress
from selfevo.method.records import Example
from selfevo.models.threads import share_processors
from selfevo.pipeline.build import build_one_process_trainer
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import write_atomic
from selfevo.trainers.processes import Reporting, note_error


def main(path: Path) -> int:
    """Trains as the job file says. Returns the exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share_processors(os.environ, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))  # before torch is loaded
    job, rank = json.loads(path.read_text(encoding="utf-8")), int(os.environ["RANK"])
    work, reports = Path(job["work"]), os.environ.get("SELFEVO_REPORTS")
    progress: Progress = Reporting(int(reports)) if rank == 0 and reports else Silent()
    try:
        trainer = build_one_process_trainer(RunConfig.model_validate(job["config"]), job["name"])
        examples = [
            Example(**{**row, "turns": tuple(row["turns"]), "weights": tuple(row["weights"])})
            for row in job["examples"]
        ]
        figures = trainer.train(
            Path(job["base"]), examples, Path(job["output"]), work=work, seed=job["seed"], progress=progress
        )
    except SelfevoError as error:
        note_error(work, rank, error)
        return error.exit_code
    if rank == 0:
        write_atomic(work / "figures.json", json.dumps(figures))
    return 0


def _end_with_parent() -> None:
    """The parent holds the other end of standard input."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
