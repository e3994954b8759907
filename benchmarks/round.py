"""A whole round against the naive composition: four calls of generate, then TRL's SFTTrainer with its defaults.

    python benchmarks/round.py [--prompts 64] [--trajectories 20] [--repeats 5] [--model FOLDER] [--json FILE]

Both read and continue the same conversations, then train for as many steps on the same D_meta and refined
answers. --model is best
a model of a run that has learnt the meta-skills, for answers of ordinary length.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from training import as_conversations, steps_of, train_ours, train_trl
from training import trajectories as annotated
from trajectories import Generate, ours

from selfevo.cli.demo import demo_model
from selfevo.config.task import TaskConfig
from selfevo.engines.transformers import TransformersEngine
from selfevo.method.protocols import Sampling
from selfevo.method.records import Example, Prompt, Refined, Turns
from selfevo.method.training_examples import answer_examples, meta_examples
from selfevo.models.device import quiet
from selfevo.pipeline.build import describe_platform
from selfevo.tasks import load_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--trajectories", type=int, default=20, help="of D_meta, which every round trains on again")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=96, help="per skill")
    parser.add_argument("--model", type=Path, help="a model folder; default: the model of the demo")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    quiet()
    model, console = given.model or demo_model(), Console()
    problems = load_task(TaskConfig(name="demo")).problems(given.prompts, 1, frozenset())
    questions, d_meta = [problem.prompt.prompt for problem in problems], annotated(given.trajectories)
    engine, sampling = TransformersEngine(given.batch_size), Sampling(given.max_new_tokens)
    runs: list[dict[str, float]] = []
    for repeat in range(given.repeats):
        begun = time.perf_counter()
        turns, texts, _ = ours(engine, model, questions, sampling)
        generated = time.perf_counter()
        examples = meta_examples(d_meta, 1.0) + learnt(questions, texts[2])
        pairs: list[Turns] = [(p, s) for p, s in zip(questions, texts[2], strict=True) if s]
        conversations = as_conversations(d_meta) + pairs
        engine.release()
        with tempfile.TemporaryDirectory() as scratch:
            train_ours(model, Path(scratch), repeat, examples, steps_of(conversations))
        ended = time.perf_counter()
        run = {"ours_generate": generated - begun, "ours_train": ended - generated, "ours": ended - begun}
        begun = time.perf_counter()
        naive = Generate(model, given.batch_size, "auto")
        for asked in turns:
            naive.generate(asked, given.max_new_tokens)
        del naive
        generated = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            train_trl(model, Path(scratch), repeat, conversations)
        ended = time.perf_counter()
        run |= {"naive_generate": generated - begun, "naive_train": ended - generated, "naive": ended - begun}
        runs.append(run)
        console.print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in run.items()), highlight=False)
    result: dict[str, object] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    result["ratio_vs_naive"] = statistics.median(run["naive"] / run["ours"] for run in runs)
    result |= {
        "prompts": given.prompts,
        "trajectories": given.trajectories,
        "repeats": given.repeats,
        "runs": runs,
        "platform": describe_platform(),
    }
    console.print(f"a round is {result['ratio_vs_naive']:.2f} times as fast as the naive one", highlight=False)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


def learnt(questions: list[str], refined: list[str]) -> list[Example]:
    return answer_examples(Refined(Prompt.of(p).id, p, s, "", s) for p, s in zip(questions, refined, strict=True) if s)


if __name__ == "__main__":
    main()
