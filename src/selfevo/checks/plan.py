"""`selfevo doctor --plan`: memory, hours and dollars of a run on a machine that is described and not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from selfevo.checks.machine import Machine
from selfevo.checks.throughput import measured, modelled
from selfevo.checks.workload import KEPT, Stage, Workload, stages_of, workload_of
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import SFTObjective
from selfevo.config.training import SHARDED_OPTIMIZERS, LoraSettings, TrainerConfig
from selfevo.errors import ConfigError
from selfevo.inputs.splits import draw_splits
from selfevo.models.resolve import resolve_model
from selfevo.report.documents import PlanDocument, PlannedGeneration, PlannedStage, PlannedTraining
from selfevo.trainers.training_memory import (
    Batch,
    TrainingMemory,
    gib,
    state_bytes,
    training_memory,
)

USABLE = 0.9  # of a card's memory; the rest is for the driver, NCCL and what the allocator cannot use


def plan_of(config: RunConfig, machine: Machine, price: float | None = None, run: Path | None = None) -> PlanDocument:
    """The plan of a run with the files of its configuration.

    `price`: dollars for a device and hour. `run`: a run whose speed counts instead of an assumed one.
    """
    folder = resolve_model(config.model, weights=False)
    splits = draw_splits(config.model_copy(update={"model": str(folder)}))
    return make_plan(config, folder, machine, workload_of(config, folder, splits), price, run)


def make_plan(
    config: RunConfig,
    folder: Path,
    machine: Machine,
    work: Workload,
    price: float | None = None,
    run: Path | None = None,
) -> PlanDocument:
    """The plan of a run of the model in `folder`, of which only config.json is read.

    Raises ConfigError if the configuration asks for more devices than there are.
    """
    trainer, engine = config.trainer, config.engine
    per_engine = int(getattr(engine, "tensor_parallel_size", None) or 1)
    engines = int(getattr(engine, "workers", None) or 1)
    devices = trainer.processes
    for setting, count, most in (
        ("trainer.processes", devices, machine.devices if trainer.launcher else machine.per_node),
        ("engine.workers x engine.tensor_parallel_size", engines * per_engine, machine.devices),
    ):
        if count > most:
            raise ConfigError(f"{setting} is {count}, and {machine} has {most} devices for it; lower it")
    memory = _memory(folder, trainer, work.batch)
    generation = _generation(config, memory.parameters, state_bytes(folder), machine, work, per_engine)
    rows = max(1, generation.rows)
    speed = measured(run, folder) if run else modelled(config, folder, machine.card, work, rows, per_engine)

    def planned(stage: Stage) -> PlannedStage:
        written = stage.rows * work.written
        generate = written / (speed.generate * engines) / 3600
        train = stage.trained / (speed.train * devices) / 3600
        return PlannedStage(
            name=stage.name,
            generated_tokens=written,
            trained_tokens=stage.trained,
            generate_hours=generate,
            train_hours=train,
            dollars=None if price is None else (generate + train) * machine.devices * price,
        )

    return PlanDocument(
        machine=str(machine),
        usable=_room(machine),
        parameters=memory.parameters,
        trained=memory.trained,
        training=PlannedTraining(
            devices=devices,
            rows=work.batch.rows,
            columns=work.batch.columns,
            weights=memory.weights,
            gradients=memory.gradients,
            optimizer=memory.optimizer,
            activations=memory.activations + memory.work,
            total=memory.total,
        ),
        generation=generation.model_copy(update={"devices": engines * per_engine}),
        train_speed=speed.train,
        generate_speed=speed.generate,
        speed_source=speed.source,
        notes=tuple(_notes(config, machine, work, memory, devices, engines * per_engine)),
        stages=tuple(map(planned, stages_of(config, work))),
        fault=_fault(folder, trainer, work.batch, machine, memory, generation),
    )


def _notes(
    config: RunConfig, machine: Machine, work: Workload, memory: TrainingMemory, training: int, generating: int
) -> Iterator[str]:
    if training < machine.devices:
        remedy = f": trainer.processes: {machine.per_node}" if training == 1 else ""
        yield f"training uses {training} of {machine.devices} devices{remedy}"
    if generating < machine.devices:
        workers = machine.devices // max(1, generating) if generating < 2 else 0
        remedy = f": engine.workers: {workers}" if workers else ""
        yield f"generation uses {generating} of {machine.devices} devices{remedy}"
    yield f"a round keeps {KEPT:.0%} of its rows; all devices are paid for all the time; starts and saves do not count"
    if not work.exact:
        yield "the model's folder has no tokenizer, so four characters count as a token"
    if not isinstance(config.objective, SFTObjective):
        yield f"memory and time are those of SFT; objective {config.objective.kind} needs more"
    if not memory.followed:
        yield "activations are not counted, because this model's code cannot be followed without its weights"


def _room(machine: Machine) -> float:
    return USABLE * machine.card.gib * 2**30


def _memory(folder: Path, trainer: TrainerConfig, batch: Batch) -> TrainingMemory:
    half = getattr(torch, "bfloat16" if trainer.dtype == "auto" else trainer.dtype)
    shards = trainer.processes if trainer.sharding == "fsdp2" else 1
    return training_memory(folder, trainer, batch, "cuda", half, shards)


def _generation(
    config: RunConfig, parameters: int, state_each: int, machine: Machine, work: Workload, devices: int
) -> PlannedGeneration:
    """Of an engine on `devices`: for as many rows at a time as fit, up to its batch."""
    weights, state = 2 * parameters, max(1, state_each) * work.trajectory
    most = int((_room(machine) * devices - weights) / state)
    rows = max(0, min(int(getattr(config.engine, "batch_size", 1)), most))
    return PlannedGeneration(devices=devices, rows=rows, total=(weights + max(1, rows) * state) / devices)


def _fault(
    folder: Path,
    trainer: TrainerConfig,
    batch: Batch,
    machine: Machine,
    memory: TrainingMemory,
    generation: PlannedGeneration,
) -> str:
    """Why it does not fit, and the first change that fits: those that leave the result as it is come first."""
    room, card = _room(machine), f"{machine.card.name} has {gib(_room(machine))} to use"
    if not generation.rows:
        whole = generation.total * generation.devices
        wide = [size for size in (2, 4, 8, 16) if size <= machine.per_node and whole / size <= room]
        change = f"set engine: {{kind: vllm, tensor_parallel_size: {wide[0]}}}, or " if wide else ""
        return f"generation needs {gib(generation.total)} on a device, and {card}; {change}take a card with more memory"
    if memory.total <= room:
        return ""
    needs = f"training needs {gib(memory.total)} on a device, and {card}"
    least = memory.total
    for change, changed, smaller in _changes(trainer, batch, machine):
        found = _memory(folder, changed, smaller).total
        if found <= room:
            return f"{needs}; set {change}, which needs {gib(found)}"
        least = min(least, found)
    return f"{needs}; no setting makes it fit ({gib(least)} at least): take a card with more memory"


def _changes(trainer: TrainerConfig, batch: Batch, machine: Machine) -> Iterator[tuple[str, TrainerConfig, Batch]]:
    count = trainer.per_device_train_batch_size
    one = Batch(1, batch.columns, -(-batch.labelled // batch.rows))
    accumulate = trainer.gradient_accumulation_steps * count
    shorter: list[tuple[str, dict[str, Any], Batch]] = [("", {}, batch)]
    checkpointing = {"gradient_checkpointing": True}
    if not trainer.gradient_checkpointing:
        shorter.append(("gradient_checkpointing: true", checkpointing, batch))
    if count > 1:
        smaller = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulate}
        words = f"per_device_train_batch_size: 1, gradient_accumulation_steps: {accumulate}"
        shorter.append((words, smaller, one))
        shorter.append((f"gradient_checkpointing: true, {words}", {**checkpointing, **smaller}, one))
    larger: list[tuple[str, dict[str, Any]]] = [("", {})]
    processes = machine.devices if trainer.launcher else machine.per_node
    sharded = {"sharding": "fsdp2", "processes": processes}
    can = trainer.optim in SHARDED_OPTIMIZERS and not trainer.load_in_4bit
    shards = can and processes > 1 and trainer.sharding == "none"
    if shards:
        larger.append((f"sharding: fsdp2, processes: {processes}", sharded))
    if trainer.lora is None:
        larger.append(("lora: {}", {"lora": LoraSettings()}))
        if shards:
            larger.append((f"lora: {{}}, sharding: fsdp2, processes: {processes}", {"lora": LoraSettings(), **sharded}))
    if not trainer.load_in_4bit and trainer.sharding == "none":
        lora = {} if trainer.lora else {"lora": LoraSettings()}
        larger.append((", ".join(["lora: {}"] * bool(lora) + ["load_in_4bit: true"]), {**lora, "load_in_4bit": True}))
    for more, settings in larger:
        for less, reduced, size in shorter:
            if more or less:
                words = ", ".join(filter(None, (more, less)))
                yield f"trainer: {{{words}}}", trainer.model_copy(update={**settings, **reduced}), size
