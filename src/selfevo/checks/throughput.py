"""How fast one device trains and generates: a stated model of it, or what a run has measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from selfevo.checks.machine import Card
from selfevo.checks.workload import Workload
from selfevo.config.run_config import RunConfig
from selfevo.errors import ConfigError
from selfevo.rundir.adapter_folder import weights_folder
from selfevo.rundir.inspect import entries, is_run, run_settings
from selfevo.rundir.layout import Layout
from selfevo.trainers.training_memory import active_parameters, state_bytes

# Of what the vendor states. Assumptions, not measurements: large models reach more, small ones less.
ARITHMETIC, BANDWIDTH = 0.3, 0.5


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens a second of one device that trains, and of one engine that generates."""

    train: float
    generate: float
    source: str


def modelled(config: RunConfig, folder: Path, card: Card, work: Workload, rows: int, devices: int) -> Throughput:
    """What the card's arithmetic and bandwidth allow, for an engine on `devices` that writes for `rows` rows at a time.

    Training takes 6 operations for each parameter and token (adapters: 4, as the base has no
    gradients; checkpointing: 2 more). A decoding step reads all weights and the rows' states, or
    multiplies, whichever takes longer.
    """
    trainer, active = config.trainer, active_parameters(folder)
    speed = ARITHMETIC * card.flops
    train = speed / (((4 if trainer.lora else 6) + 2 * trainer.gradient_checkpointing) * active)
    read = 2 * active + rows * work.trajectory * state_bytes(folder)
    step = max(read / (BANDWIDTH * card.bandwidth * devices), 2 * active * rows / (speed * devices))
    prefill = 2 * active * work.trajectory / (speed * devices)
    row = work.written * step / rows + prefill
    return Throughput(
        train,
        work.written / row,
        f"assumed: {ARITHMETIC:.0%} of {card.flops / 1e12:.0f} TFLOP/s, {BANDWIDTH:.0%} of "
        f"{card.bandwidth / 1e12:g} TB/s",
    )


def measured(run: Path, folder: Path) -> Throughput:
    """What a run has measured on one device, by the size of the model. Raises ConfigError if it has not."""
    if not is_run(run):
        raise ConfigError(f"--measured {run} is no run directory; give one, with a finished round")
    trained = [each for each in entries(run) if each.trained_tokens and each.device_seconds]
    wrote = [
        each for each in entries(run) if each.new_tokens and each.device_seconds and each.name.startswith("round-")
    ]
    models = list(Layout(run).finished_models())
    if not trained or not wrote or not models:
        raise ConfigError(f"--measured {run} has no finished round; give a run that has one")
    settings = run_settings(models[-1])
    processes = int((settings.get("trainer") or {}).get("processes", 1))
    workers = int((settings.get("engine") or {}).get("workers", 1) or 1)
    size = active_parameters(weights_folder(models[-1])) / active_parameters(folder)
    rates = [
        sum(tokens for tokens, _ in found) / sum(seconds for _, seconds in found) * size
        for found in (
            [(each.trained_tokens, each.device_seconds) for each in trained],
            [(each.new_tokens, each.device_seconds) for each in wrote],
        )
    ]
    scaled = "" if abs(size - 1) < 0.01 else f", scaled by the size of the model ({size:.3g})"
    return Throughput(rates[0] / processes, rates[1] / workers, f"measured in {run}{scaled}")
