"""The memory of a training: how much it took, and smaller micro-batches where it would not fit.

A kernel that runs out of memory kills a process without a word. So on a CPU the need is estimated before the first
step. A GPU tells, and the training goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from selfevo.config.training import TrainerConfig
from selfevo.errors import ConfigError, TrainingError
from selfevo.models.device import pick_device
from selfevo.rundir.atomic_files import write_atomic
from selfevo.trainers.training_memory import Batch, gib, training_memory

logger = logging.getLogger(__name__)
MICRO_BATCH = "micro_batch"  # a file beside the checkpoints, with the number of rows
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Limit and use of the memory of a group of processes, such as a container, and its parts, of which what was read from
# files is given back when needed: version 2, then 1.
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
CGROUPS = Path("/sys/fs/cgroup")


class PeakMemory:
    """The most memory that is in use from now on: on a GPU what tensors take, else what the process takes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):  # elsewhere than on Linux it is the peak since the process began
                _CLEAR.write_text("5", encoding="ascii")

    def bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = _STATUS.read_text(encoding="ascii").splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory_of_cpu() -> int:
    """Bytes that a process may still take: what is free, and what the limit of its container leaves."""
    free = int(psutil.virtual_memory().available)
    for limit, used, parts in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            free = min(free, max(0, _number(limit) - _number(used) + _number(parts, r"\binactive_file (\d+)")))
    return free


def _number(name: str, pattern: str = r"(.*)") -> int:
    found = re.search(pattern, (CGROUPS / name).read_text(encoding="ascii"))
    return int(found[1]) if found else 0


def halved(config: TrainerConfig) -> TrainerConfig | None:
    """The same global batches in smaller micro-batches. None if they have one row."""
    size = config.per_device_train_batch_size
    smaller = next((size // by for by in range(2, size + 1) if size % by == 0), None)
    if smaller is None:
        return None
    accumulated = config.gradient_accumulation_steps * (size // smaller)
    return config.model_copy(
        update={"per_device_train_batch_size": smaller, "gradient_accumulation_steps": accumulated}
    )


def take(config: TrainerConfig, work: Path, why: str) -> None:
    """Says that a training takes the micro-batches of `config`, and has it take them when it is resumed."""
    size, accumulated = config.per_device_train_batch_size, config.gradient_accumulation_steps
    logger.warning("%s; it takes %d accumulated ones of %d, and the global batch stays", why, accumulated, size)
    work.mkdir(parents=True, exist_ok=True)
    write_atomic(work / MICRO_BATCH, str(size))


def fitting(
    base: Path, config: TrainerConfig, model: Any, rows: Sequence[Mapping[str, Any]], half: torch.dtype, work: Path
) -> TrainerConfig:
    """`config` with micro-batches that fit into memory, on a CPU; `model` is loaded already.

    A training that is resumed goes on with those that it had. Raises TrainingError if not even one row fits.
    """
    chosen = work / MICRO_BATCH
    if chosen.is_file():
        while config.per_device_train_batch_size > int(chosen.read_text()) and (smaller := halved(config)):
            config = smaller
    if pick_device(config.device).type != "cpu" or config.processes > 1:
        return config
    free, given = free_memory_of_cpu(), config
    while True:
        need = needed(base, config, model, rows, half, free)
        if need <= free:
            break
        if (smaller := halved(config)) is None:
            raise TrainingError(
                f"training needs about {gib(need)} of memory beside the weights, even for one row at a time, and "
                f"{gib(free)} are free; set trainer.gradient_checkpointing, lower trainer.max_length, train adapters "
                "(trainer.lora: {}), or take a smaller model"
            )
        config = smaller
    if config is not given:
        first = given.per_device_train_batch_size
        take(config, work, f"{gib(free)} of memory are free, too little for micro-batches of {first}")
    return config


def needed(
    base: Path, config: TrainerConfig, model: Any, rows: Sequence[Mapping[str, Any]], half: torch.dtype, free: int
) -> float:
    """Bytes beside the weights for the largest micro-batch. Only where a rough bound comes near to `free`, it takes the
    seconds to find out more."""
    size = config.per_device_train_batch_size
    longest = sorted(rows, key=lambda row: -row["length"])[:size]
    labelled = sum(weight > 0 for row in longest for weight in row["weights"])
    batch = Batch(size, longest[0]["length"], labelled)
    text = model.config.get_text_config()
    numbers = sum(each.numel() for each in model.parameters()) * (1 if config.lora is None else 0.1)
    bound = 16 * numbers + 1000 * batch.rows * batch.columns * text.num_hidden_layers * text.hidden_size + 2**29
    if bound < free:
        return float(bound)
    try:
        found = training_memory(base, config, batch, "cpu", half)
    except ConfigError:  # no estimate for such a model
        return 0.0
    return found.total - found.weights if found.followed else 0.0
