"""Generation by workers on Ray: the speed of one and two, and a million prompts through a scripted engine.

    python benchmarks/scale.py [--prompts 256] [--rows 1000000] [--repeats 3] [--model FOLDER] [--json FILE]

One process without Ray, one worker and two workers, each with one thread, answer the same prompts greedily. The ratio
is to the process without Ray. Then `--rows` prompts go through the run directory with scripted workers. In the middle
the driver "dies"; how long it takes until the first row comes again is the time of a resume, a new cluster included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one thread each

from ledger import DiedError, Pool, answer
from rich.console import Console

from selfevo.config.cluster import ClusterConfig
from selfevo.config.sections import TransformersSettings
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.protocols import Generation, Model, Request, Sampling, stream
from selfevo.method.skills import RESPOND
from selfevo.report.progress import Silent
from selfevo.rundir.workspace import Workspace
from selfevo.trainers.scripted import ScriptedTrainer

SCRIPTED_SLICE = 256  # rows


class Forgetful(ScriptedEngine):
    """Does not keep what it was asked."""

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        self.calls.clear()
        return super().generate(model, requests, sampling)


def speed(model: Path, prompts: int, batch_size: int, limit: int, repeats: int) -> dict[str, Any]:
    """Seconds of one process and of workers, all with the model loaded, and whether their texts are equal."""
    from selfevo.config.task import TaskConfig
    from selfevo.pipeline.build import build_engine
    from selfevo.tasks import load_task

    problems = load_task(TaskConfig(name="demo")).problems(prompts, 1, frozenset())
    rows = sorted((Request((each.prompt.prompt,), i) for i, each in enumerate(problems)), key=lambda r: len(r.turns[0]))
    slices = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    seconds: dict[str, list[float]] = {}
    texts: dict[str, Any] = {}
    for name, workers in (("process", 0), ("1 worker", 1), ("2 workers", 2)):
        settings = TransformersSettings(
            batch_size=batch_size, device="cpu", dtype="float32", kv_cache_gib=0, workers=workers
        )
        engine: Any = build_engine(settings, ClusterConfig())
        while True:  # loads the model in each worker
            engine.generate(model, rows[: 2 * batch_size], Sampling(1))
            if not workers or len(engine._crew.ready) == workers:
                break
        engine.generate(model, rows, Sampling(1))
        seconds[name] = []
        for _ in range(repeats):
            begun = time.perf_counter()
            texts[name] = sorted(stream(engine, model, slices, Sampling(limit)))
            seconds[name].append(time.perf_counter() - begun)
        del engine
    median = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "prompts": prompts,
        "batch_size": batch_size,
        "max_new_tokens": limit,
        "seconds": seconds,
        "ratio_1_worker": median["process"] / median["1 worker"],
        "ratio_2_workers": median["process"] / median["2 workers"],
        "same_texts": texts["process"] == texts["1 worker"] == texts["2 workers"],
    }


def many_rows(rows: int) -> dict[str, float]:
    """A stage of `rows` prompts by two scripted workers, killed in the middle."""
    root = Path(tempfile.mkdtemp())
    pool, before = Pool(rows), peak_memory()
    try:
        first = respond(root, pool, dies_after=rows // 2)
        second = respond(root, pool)
        disk = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(root)
    return {
        "rows": rows,
        "rows_per_second": rows / (first["seconds"] + second["seconds"]),
        "resume_seconds": second["until_first"],
        "driver_memory_mib": peak_memory(),
        "driver_memory_before_mib": before,
        "bytes_on_disk": disk,
    }


def respond(root: Path, pool: Pool, dies_after: int | None = None) -> dict[str, float]:
    """Seconds until the first slice came, and from there to the end or the death."""
    import ray

    from selfevo.engines.ray.engine import RayEngine

    first: list[float] = []

    class Watched(RayEngine):
        def stream(self, *given: Any) -> Iterator[tuple[int, list[Generation]]]:
            nonlocal dies_after
            for come in super().stream(*given):
                first.append(time.perf_counter()) if not first else None
                yield come
                if dies_after is not None:
                    dies_after -= len(come[1])
                    if dies_after < 0:
                        raise DiedError

    begun = time.perf_counter()
    engine = Watched(partial(Forgetful, answer, SCRIPTED_SLICE), SCRIPTED_SLICE, workers=2)
    run = Workspace(root, engine, lambda name: ScriptedTrainer(), {RESPOND.name: Sampling(64)}, 0, Silent())
    try:
        run.runner("round-1", Model("base", Path("base"), "weights")).generate(RESPOND, pool)
    except DiedError:
        pass
    finally:
        ended = time.perf_counter()
        ray.shutdown()
    return {"until_first": first[0] - begun, "seconds": ended - first[0]}


def peak_memory() -> float:
    """Of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a model folder; default: the model of the demo")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    here = str(Path(__file__).parent)  # the workers import this file too
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    console = Console()
    load, cores = os.getloadavg()[0], os.cpu_count()
    many = many_rows(given.rows)  # first: its memory is then its own
    console.print(
        f"{many['rows']:,} rows: {many['rows_per_second']:,.0f} rows/s, resumed in {many['resume_seconds']:.1f} s, "
        f"the driver had {many['driver_memory_mib']:.0f} MiB",
        highlight=False,
    )
    from selfevo.cli.demo import demo_model
    from selfevo.pipeline.build import describe_platform

    model = given.model or demo_model()
    generation = speed(model, given.prompts, given.batch_size, given.max_new_tokens, given.repeats)
    console.print(
        f"one worker is {generation['ratio_1_worker']:.2f} times as fast as a process without Ray, two are "
        f"{generation['ratio_2_workers']:.2f} times",
        highlight=False,
    )
    result = {"many_rows": many, "generation": generation, "load_before": load, "cores": cores}
    result["platform"] = describe_platform()
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
