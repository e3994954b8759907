"""The order of a training's rows. It depends on the seed, the epoch and the global batch, on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch.utils.data import Sampler


class EpochOrder(Sampler[int]):
    """The rows as `sampler` draws them, with a generator that is seeded anew for each epoch.

    So a killed training that goes on in its third epoch sees the batches it would have seen. The
    samplers of transformers and TRL draw on from where the last epoch left their generator.
    """

    def __init__(self, sampler: Any, seed: int, epoch: Callable[[], int], fillers: range = range(0)) -> None:
        self.sampler, self.seed, self.epoch, self.fillers = sampler, seed, epoch, fillers
        self.sampler.generator = torch.Generator()

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator.manual_seed(self.seed + self.epoch())
        return chain(self.sampler, self.fillers)

    def __len__(self) -> int:
        return len(self.sampler) + len(self.fillers)


class InOrder:
    """A base of trainers, before the one of TRL: gives it an EpochOrder."""

    args: Any
    state: Any
    train_dataset: Any
    fillers = 0  # rows at the end of the data that come last in every epoch

    def _get_train_sampler(self, dataset: Any = None) -> EpochOrder:
        whole = len(self.train_dataset)
        rows = range(whole - self.fillers)
        sampler = super()._get_train_sampler(self.train_dataset.select(rows) if self.fillers else dataset)  # type: ignore[misc]
        if hasattr(sampler, "lengths"):  # grouped by length: in groups of the global batch, not of one process
            sampler.batch_size *= self.args.world_size
        return EpochOrder(sampler, self.args.seed, lambda: int(self.state.epoch or 0), range(len(rows), whole))
