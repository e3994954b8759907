"""What the choice of a smaller demo rests on."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from selfevo.cli.demo import FULL, demo_config
from selfevo.config.run_config import RunConfig
from selfevo.config.sources import TaskCorpus
from selfevo.rundir.results import load_results

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


demo_size = script("experiments/demo_size.py")
GOOD = demo_size.Outcome(14.0, {}, {"sft": 1e-9, "meta": 1e-3}, "1100")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"minutes": 15.5}, ["15.5 minutes"]),
        ({"p_values": {"sft": 1e-9, "meta": 0.01}}, ["p = 0.01 against meta"]),
        ({"p_values": {"meta": 1e-9}}, ["p = 1 against sft"]),  # the last round is below it
        ({"sft_right": "0100"}, ["its SFT is below that of the full size"]),
        ({"sft_right": "0011"}, []),
        ({"sft_right": "1110"}, []),
    ],
)
def test_a_size_will_do_if_every_seed_shows_it_in_time(change: dict[str, object], said: list[str]) -> None:
    full = [replace(GOOD, minutes=30.0)] * 3
    assert demo_size.faults([GOOD, replace(GOOD, **change), GOOD], full) == said
    assert demo_size.faults(full, full) == ["30.0 minutes"] * 3


def test_the_last_round_is_compared(finished: RunConfig) -> None:
    results = load_results(finished.output)
    found = demo_size.outcome_of(results, results)
    assert found.direct.keys() == {"base", "sft", "meta", "round-1", "round-2", "round-3"}
    [expected] = [c for c in results.comparisons if (c.a, c.b, c.mode) == ("round-3", "sft", "direct")]
    assert found.p_values["sft"] == expected.p_value
    assert set(found.sft_right) <= {"0", "1"}


@pytest.mark.parametrize("name", demo_size.SIZES)
def test_every_size_keeps_all_labels(name: str, tmp_path: Path) -> None:
    size = demo_size.SIZES[name]
    config = demo_config(tmp_path, tmp_path / "out", 106, size)
    assert isinstance(config.corpus, TaskCorpus)
    assert config.corpus.labels == FULL.labels == 80
    assert config.round_count == size.rounds


def test_the_figures_of_the_benchmark_of_a_busy_machine() -> None:
    busy = script("benchmarks/busy.py")
    rates = {
        "generation": {
            "torch's default": {"quiet": [100.0, 90.0, 110.0], "busy": [1.0]},
            "ours": {"quiet": [99.0, 98.0, 120.0], "busy": [45.0, 44.0, 46.0]},
        },
        "training": {
            "torch's default": {"quiet": [200.0] * 3, "busy": [2.0]},
            "ours": {"quiet": [190.0, 191.0, 189.0], "busy": [80.0] * 3},
        },
    }
    found = busy.summarise(rates)
    assert found == pytest.approx({"generation_ratio": 0.45, "training_ratio": 0.4, "quiet_loss": 0.05})
