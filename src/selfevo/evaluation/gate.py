"""The gate: a round is promoted only if it is significantly better than the best model before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from selfevo.config.sources import GateConfig, TaskGate
from selfevo.rundir.results import GateResults, GateRound, ModelComparison


@dataclass(slots=True)
class Gate:
    """Gets the scores of one model after the other, on the same problems. The first model is the best.

    `best` is the last promoted model. `stopped` is the reason to stop, "" while the run goes on.
    The gate decides only which model is kept: each round trains from the latest model all the same.
    """

    config: GateConfig
    best: str = ""
    stopped: str = ""
    history: list[GateRound] = field(default_factory=list)
    _to_beat: Sequence[float] = ()
    _without_gain: int = 0

    def admit(self, name: str, scores: Sequence[float]) -> bool:
        """Whether to go on after the model `name`. `scores` are in [0, 1], one per problem."""
        if not self.best:
            self.best, self._to_beat = name, scores
            return True
        mode = self.config.mode if isinstance(self.config, TaskGate) else "agreement"
        compared = ModelComparison.of(name, scores, self.best, self._to_beat, mode)
        significant = compared.p_value < self.config.alpha
        promoted = significant and compared.difference > 0
        self.history.append(GateRound(**compared.model_dump(), promoted=promoted))
        if promoted:
            self.best, self._to_beat, self._without_gain = name, scores, 0
            return True
        self._without_gain += 1
        if self._without_gain == self.config.patience:
            low, high = compared.ci
            verdict = "significantly worse" if significant else "not significantly better"
            self.stopped = (
                f"{name} is {verdict} than {self.best} on {len(scores)} problems of the gate "
                f"({100 * compared.difference:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f}, "
                f"p = {compared.p_value:.2g}); {self._without_gain} in a row, and {self.best} is the best model"
            )
        return not self.stopped

    def results(self) -> GateResults:
        """The gate's part of results.json."""
        return GateResults(
            alpha=self.config.alpha, patience=self.config.patience, best=self.best, rounds=tuple(self.history)
        )
