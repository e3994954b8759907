"""What the tests of generation on Ray share: workers import it, and it is a program whose process can be killed.

python on_ray.py RUN MODEL WORKERS
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from runs import open_run
from selfevo.config.cluster import ClusterConfig
from selfevo.config.sections import TransformersSettings
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.protocols import Engine, Generation, Model, Request, Sampling
from selfevo.method.records import Critiqued, Drafted, Prompt, Refined, Turns
from selfevo.method.skills import CRITIQUE, JUDGE, REFINE, RESPOND
from selfevo.pipeline.build import build_engine

PATIENCE = 300.0  # seconds until a worker has come: a busy machine is no failure
ROWS = [
    Refined(Prompt.of(text).id, text, "1 2", "Found: 12 yes 45 no", "1 2 3")
    for text in (f"Sort these numbers: {i} {7 * i % 11} " + "9 " * (i % 7) for i in range(48))
]


def engine(workers: int, kv_cache_gib: float = 0, **cluster: Any) -> Any:
    """The tiny model's, in float32, with few rows in a slice."""
    settings = TransformersSettings(
        batch_size=4, device="cpu", dtype="float32", kv_cache_gib=kv_cache_gib, workers=workers
    )
    return build_engine(settings, ClusterConfig(**{"timeout_seconds": PATIENCE, **cluster}))


def four_stages(root: Path, engine: Engine, model: Path) -> None:
    """Every skill on rows that are given, because the tiny model seldom ends a text."""
    runner = open_run(root, engine, temperature=1.0).runner("round-1", Model("base", model, "weights"))
    runner.generate(RESPOND, ROWS)
    runner.generate(CRITIQUE, [Drafted(row.id, row.prompt, row.response) for row in ROWS])
    runner.generate(REFINE, [Critiqued(row.id, row.prompt, row.response, row.feedback) for row in ROWS])
    runner.generate(JUDGE, ROWS)


def stage_files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "stages").rglob("*") if path.is_file()}


def workers_of(process: int) -> list[psutil.Process]:
    """The processes of the workers below a process, the oldest first."""
    below = psutil.Process(process).children(recursive=True)
    found = [each for each in below if (each.cmdline() or [""])[0].startswith("ray::Worker")]
    return sorted(found, key=lambda each: each.create_time())


def say(model: Path, turns: Turns) -> str:
    return f"{turns[0]} gives {len(turns)}"


class Slow(ScriptedEngine):
    """Takes a moment, and ends its process at a prompt with the word poison."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(say, batch_size)

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        time.sleep(0.05)
        if any("poison" in request.turns[0] for request in requests):
            os._exit(1)
        return super().generate(model, requests, sampling)


class Faulty(ScriptedEngine):
    """Raises at the prompts that say so."""

    def __init__(self, batch_size: int = 2) -> None:
        super().__init__(say, batch_size)

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        from selfevo.errors import EngineError

        words = " ".join(request.turns[0] for request in requests)
        if "refuse" in words:
            raise EngineError("this prompt is refused")
        if "crash" in words:
            raise RuntimeError("CUDA error:\n an illegal memory access")
        if "few" in words:
            return []
        return super().generate(model, requests, sampling)


slow, faulty = partial(Slow), partial(Faulty)

if __name__ == "__main__":
    run, base, workers = sys.argv[1:]
    four_stages(Path(run), engine(int(workers)), Path(base))
