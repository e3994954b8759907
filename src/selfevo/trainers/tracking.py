"""Reports every step to trackers, with the callbacks of transformers. A run is one group, a training one run in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfevo.errors import MissingExtraError


@dataclass(frozen=True, slots=True)
class Training:
    """Which training it is: the run directory and the name of the new model."""

    run: Path = Path("selfevo")
    name: str = "model"

    @property
    def group(self) -> str:
        return self.run.absolute().name


UNNAMED = Training()


@contextmanager
def reported(trainer: Any, trackers: Sequence[str], training: Training) -> Iterator[None]:
    """Reports what `trainer` logs inside to `trackers`. What the user has set in the environment counts first.

    Of several processes the first one reports.
    """
    if not trackers or not trainer.is_world_process_zero():
        yield
        return
    from transformers.integrations import get_reporting_integration_callbacks

    names = {
        "WANDB_PROJECT": "selfevo",
        "WANDB_RUN_GROUP": training.group,
        "MLFLOW_EXPERIMENT_NAME": training.group,
        "TENSORBOARD_LOGGING_DIR": str(training.run / "tensorboard" / training.name),
    }
    ours = {name: value for name, value in names.items() if name not in os.environ}
    # The weights are large, and are in the run directory.
    ours |= {name: "false" for name in ("WANDB_LOG_MODEL", "HF_MLFLOW_LOG_ARTIFACTS") if name not in os.environ}
    trainer.args.run_name, trainer.args.project = training.name, training.group
    before = _active_wandb_run(trackers)
    os.environ.update(ours)
    try:
        try:
            callbacks = [make() for make in get_reporting_integration_callbacks(list(trackers))]
        except (ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise MissingExtraError(
                f"trainer.report_to: {', '.join(trackers)} cannot be used ({reason}); run: "
                f"pip install {' '.join(trackers)}"
            ) from error
        for callback in callbacks:
            trainer.add_callback(callback)
        try:
            yield
        finally:  # after an error too, or the next training would be reported as this one
            for callback in callbacks:
                if not trainer.state.global_step or trainer.state.global_step < trainer.state.max_steps:
                    callback.on_train_end(trainer.args, trainer.state, trainer.control)
            run = _active_wandb_run(trackers)
            if run is not None and run is not before:
                run.finish()
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _active_wandb_run(trackers: Sequence[str]) -> Any:
    if "wandb" not in trackers:
        return None
    import wandb

    return wandb.run
