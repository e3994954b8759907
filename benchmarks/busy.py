"""How much of its speed selfevo keeps beside other programs: generation and training, with one busy process a core.

    python benchmarks/busy.py [--repeats 5] [--short] [--try "GOMP_SPINCOUNT=1000 OMP_NUM_THREADS=1"]... [--json FILE]

The contenders are torch's default, and ours, which has what `selfevo` sets. `--try` adds one with other variables: this
is how ours was chosen. Each measurement has a process of its own, which starts without any OMP_, GOMP_, KMP_ or MKL_
variable, loads and warms up; then the busy processes start. Contenders alternate; medians are reported. A ratio is
(ours beside busy processes) / (torch's default, quiet). quiet_loss is 1 - (ours, quiet) / (torch's default, quiet), of
the job that loses more. Who shares each core with another process has half of them: a ratio of 0.5 at best.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from selfevo.models.threads import processors, share_processors

# torch is imported in the contenders alone, behind their environment.

DEFAULT, OURS = "torch's default", "ours"
JOBS = ("generation", "training")
VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_")
Rates = dict[str, dict[str, dict[str, list[float]]]]  # of each job, contender and state, repeat by repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--trajectories", type=int, default=16, help="of D_meta, trained on once in batches of 8")
    parser.add_argument("--short", action="store_true", help="one repeat on few rows: a rehearsal, not a measurement")
    parser.add_argument("--try", dest="tried", action="append", default=[], metavar="NAME=VALUE ...")
    parser.add_argument("--model", type=Path, help="a model folder; default: the model of the demo")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.short:
        given.repeats, given.prompts, given.trajectories = 1, 8, 4
    for name in [name for name in os.environ if name.startswith(VARIABLES)]:
        del os.environ[name]
    environments: dict[str, dict[str, str]] = {DEFAULT: {}, OURS: {}}
    share_processors(environments[OURS])
    environments |= {tried: dict(pair.split("=", 1) for pair in tried.split()) for tried in given.tried}
    rates: Rates = {job: {name: {"quiet": [], "busy": []} for name in environments} for job in JOBS}
    for repeat in range(given.repeats):
        for state in ("quiet", "busy"):
            for name in sorted(environments, reverse=repeat % 2 == 1):
                if (name, state) == (DEFAULT, "busy") and repeat:
                    continue  # it may take ten times as long, and no figure rests on it
                measured = measure(environments[name], given, processors() if state == "busy" else 0)
                for job, rate in measured.items():
                    rates[job][name][state].append(rate)
                found = ", ".join(f"{job} {rate:.1f}" for job, rate in measured.items())
                print(f"repeat {repeat + 1}, {state}, {name}: {found} tokens/s", flush=True)
    result = {**summarise(rates), **facts(given, environments), "tokens_per_second": rates}
    for job in JOBS:
        for name, by_state in rates[job].items():
            quiet, busy = (statistics.median(by_state[state]) for state in ("quiet", "busy"))
            print(f"{job:10} {name:40} {quiet:7.1f} tokens/s quiet, {busy:7.1f} busy")
    print(json.dumps({key: result[key] for key in ("generation_ratio", "training_ratio", "quiet_loss")}))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


def summarise(rates: Rates) -> dict[str, float]:
    """The figures of the benchmark, from the medians of tokens per second."""

    def median(job: str, name: str, state: str) -> float:
        return statistics.median(rates[job][name][state])

    ratios = {f"{job}_ratio": median(job, OURS, "busy") / median(job, DEFAULT, "quiet") for job in JOBS}
    kept = min(median(job, OURS, "quiet") / median(job, DEFAULT, "quiet") for job in JOBS)
    return {**ratios, "quiet_loss": 1 - kept}


def facts(given: argparse.Namespace, environments: dict[str, dict[str, str]]) -> dict[str, Any]:
    from selfevo.pipeline.build import describe_platform

    sizes = {name: getattr(given, name) for name in ("repeats", "prompts", "max_new_tokens", "trajectories")}
    return {**sizes, "busy_processes": processors(), "environments": environments, "platform": describe_platform()}


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that never wait. They end with this one, however it ends."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}: sum(range(100_000))"
    processes = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(environment: dict[str, str], given: argparse.Namespace, busy: int) -> dict[str, float]:
    """Tokens per second of each job, in a process that has `environment` before it loads torch."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=contend, args=(theirs, environment, given), daemon=True)
    process.start()
    theirs.close()
    pipe.recv()  # it is warm
    with busy_processes(busy):
        pipe.send("now")
        found: dict[str, float] = pipe.recv()
    process.join()
    return found


def contend(pipe: Connection, environment: dict[str, str], given: argparse.Namespace) -> None:
    """The process of a contender."""
    os.environ.update(environment)
    jobs = prepare(given)
    for job in jobs.values():
        job(2)  # the first one is slower
    pipe.send("warm")
    pipe.recv()
    rates = {}
    for name, job in jobs.items():
        begun = time.perf_counter()
        tokens = job(None)
        rates[name] = tokens / (time.perf_counter() - begun)
    pipe.send(rates)


def prepare(given: argparse.Namespace) -> dict[str, Callable[[int | None], int]]:
    """Each job as a function of the number of its rows, by default all, to the tokens that it wrote or learnt from."""
    from training import CONFIG, trajectories

    from selfevo.cli.demo import demo_model
    from selfevo.engines.transformers import TransformersEngine
    from selfevo.method.protocols import Request, Sampling
    from selfevo.method.training_examples import meta_examples
    from selfevo.models.device import quiet
    from selfevo.report.progress import Silent
    from selfevo.trainers.sft import TRLTrainer

    quiet()
    model = given.model or demo_model()
    engine, trainer = TransformersEngine(given.prompts, kv_cache_gib=0), TRLTrainer(CONFIG)
    rows = trajectories(max(given.prompts, given.trajectories))

    def generate(count: int | None) -> int:
        requests = [Request((row.prompt,), 0) for row in rows[: count or given.prompts]]
        return sum(each.new_tokens for each in engine.generate(model, requests, Sampling(given.max_new_tokens)))

    def train(count: int | None) -> int:
        engine.release()
        examples = meta_examples(rows[: count or given.trajectories], 1.0)
        with tempfile.TemporaryDirectory() as scratch:
            output, work = Path(scratch, "out"), Path(scratch, "work")
            output.mkdir()
            work.mkdir()
            trainer.train(model, examples, output, work=work, seed=0, progress=Silent())
        return trainer.tokens(model, examples)

    return {"generation": generate, "training": train}


if __name__ == "__main__":
    main()
