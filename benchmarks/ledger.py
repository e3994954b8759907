"""Rows through the run directory: a round of a million prompts with a scripted engine.

    python benchmarks/ledger.py [--rows 1000000] [--repeats 1] [--json FILE]

Every row goes through respond, critique, refine, judge and the filter, and stays on disk after each. In the middle of
the critiques the process "dies"; how long it takes until the first owed row is asked for is the time of a resume. At
the end the finished round is entered once more, which checks every hash.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.filters import ByVerdict
from selfevo.method.protocols import Generation, Model, Request, Sampling
from selfevo.method.records import Prompt, Turns
from selfevo.method.skills import CRITIQUE, JUDGE, REFINE, RESPOND
from selfevo.report.progress import Silent
from selfevo.rundir.workspace import StageRunner, Workspace
from selfevo.trainers.scripted import ScriptedTrainer


class Pool:
    """Prompts that are made when they are read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Prompt]:
        return (Prompt.of(f"What is {i} plus {i % 97}? Write the sum.") for i in range(self.count))


class DiedError(Exception):
    pass


class Engine(ScriptedEngine):
    """Forgets what it was asked, and dies after `left` requests."""

    left = float("inf")
    first_asked = 0.0

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        self.first_asked = self.first_asked or time.perf_counter()
        self.left -= len(requests)
        if self.left < 0:
            raise DiedError
        self.calls.clear()
        return super().generate(model, requests, sampling)


def answer(model: Path, turns: Turns) -> str:
    if len(turns) == 3:
        right = int(turns[0].split()[2]) % 3
        return f"The sum is looked at digit by digit.\nVerdict: {'qualified' if right else 'not qualified'}"
    return f"{turns[0][:24]} gives {len(turns[0])}."


def open_room(root: Path, engine: Engine) -> StageRunner:
    sampling = {name: Sampling(64) for name in ("respond", "critique", "refine", "judge")}
    run = Workspace(root, engine, lambda name: ScriptedTrainer(), sampling, 0, Silent())
    return run.runner("round-1", Model("meta", Path("meta"), "weights"))


def one_round(runner: StageRunner, pool: Pool) -> int:
    """Rows that are kept."""
    judged = runner.generate(JUDGE, runner.generate(REFINE, runner.generate(CRITIQUE, runner.generate(RESPOND, pool))))
    return len(runner.filter(judged, [ByVerdict()]))


def measure(root: Path, rows: int) -> dict[str, float]:
    pool, dying = Pool(rows), Engine(answer, batch_size=256)
    dying.left = 1.5 * rows
    begun = time.perf_counter()
    try:
        one_round(open_room(root, dying), pool)
    except DiedError:
        died = time.perf_counter()
    engine = Engine(answer, batch_size=256)
    resumed = time.perf_counter()
    kept = one_round(open_room(root, engine), pool)
    ended = time.perf_counter()
    one_round(open_room(root, Engine(answer)), pool)
    return {
        "rows_per_second": 4 * rows / (died - begun + ended - engine.first_asked),
        "resume_seconds": engine.first_asked - resumed,
        "enter_again_seconds": time.perf_counter() - ended,
        "kept": kept,
        "bytes_on_disk": sum(path.stat().st_size for path in root.rglob("*") if path.is_file()),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    runs = []
    for _ in range(given.repeats):
        root = Path(tempfile.mkdtemp())
        runs.append(measure(root, given.rows))
        shutil.rmtree(root)
        print(json.dumps(runs[-1]))
    result: dict[str, object] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    result |= {"rows": given.rows, "repeats": given.repeats, "memory_before_mib": before}
    from selfevo.pipeline.build import describe_platform  # here: it loads torch, which is no part of what is measured

    result["platform"] = describe_platform()
    Console().print(
        f"{given.rows:,} rows: {result['rows_per_second']:,.0f} rows and stages per second, peak memory "
        f"{result['peak_memory_mib']:.0f} MiB ({before:.0f} before), resumed in {result['resume_seconds']:.1f} s",
        highlight=False,
    )
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
