"""Trajectories per second: the engine against four separate calls of transformers' generate, greedy, and against vLLM.

    python benchmarks/trajectories.py [--prompts 128] [--repeats 5] [--path gsm8k/train.jsonl] [--json FILE]

Ours writes (p, r, f, r^, v) for every prompt; generate then continues the very same conversations, skill by skill, with
the same batch size, precision and limits; vLLM, where it is installed (requirements-vllm.txt), writes trajectories of
its own with prefix caching. Each lives in a process of its own. They alternate, each repeat starts from nothing,
medians are reported. Prompts come from --path (rows with "question"), else from reasoning-gym's gsm_symbolic.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from selfevo.cli.demo import demo_model
from selfevo.config.task import TaskConfig
from selfevo.engines.transformers import TransformersEngine
from selfevo.method import prompts as templates
from selfevo.method.protocols import Engine, Request, Sampling
from selfevo.method.records import Prompt, Turns
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer, pick_device, pick_dtype, quiet
from selfevo.pipeline.build import describe_platform
from selfevo.tasks import load_task

EAGER = "ours, no CUDA graphs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=96, help="per skill")
    parser.add_argument("--model", type=Path, help="a model folder; default: the model of the demo")
    parser.add_argument("--path", type=Path, help="JSONL with a question column")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    parser.add_argument("--kv-cache-gib", type=float, default=2, help="of ours")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.model = given.model or demo_model()
    questions, console = read_prompts(given.path, given.prompts), Console(width=120)
    chat, sampling = Chat(load_tokenizer(given.model)), Sampling(given.max_new_tokens)
    contenders = {"ours": Contender("ours", given), "generate": Contender("generate", given)}
    if torch.cuda.is_available():
        contenders[EAGER] = Contender(EAGER, given)
    if find_spec("vllm"):
        contenders["vllm"] = Contender("vllm", given)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    same = total = 0
    for repeat in range(given.repeats):
        turns, texts = contenders["ours"].run((questions, sampling), runs["ours"])
        for name, contender in contenders.items():
            if name == "generate":
                _, written = contender.run((turns, sampling), runs[name])
                same += sum(a == b for w, t in zip(written, texts, strict=True) for a, b in zip(w, t, strict=True))
                total += sum(map(len, written))
            elif name in ("vllm", EAGER):
                contender.run((questions, sampling), runs[name])
        spent = ", ".join(f"{name} {measured[-1]['seconds']:.1f} s" for name, measured in runs.items())
        console.print(f"repeat {repeat + 1}: {spent}", highlight=False)
    needed = count_needed(chat, turns, texts)
    dtype = pick_dtype(given.dtype, pick_device("auto"))
    result = summarise(runs, needed, len(questions), given.model, dtype)
    for name, contender in contenders.items():
        result["engines"][name]["peak_memory_mib"] = contender.end()
    result |= {"same_texts": same / total, "prompts": len(questions), "repeats": given.repeats}
    result |= {"max_new_tokens": given.max_new_tokens, "batch_size": given.batch_size, "platform": describe_platform()}
    show(console, result)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


class Contender:
    """One engine in a process of its own."""

    def __init__(self, name: str, given: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=contend, args=(theirs, name, given), daemon=True)
        self.process.start()
        self.pipe.recv()  # loading is not what is measured

    def run(self, job: object, runs: list[dict[str, float]]) -> tuple[Any, Any]:
        self.pipe.send(job)
        measured, turns, texts = self.pipe.recv()
        runs.append(measured)
        return turns, texts

    def end(self) -> float:
        """Ends it; returns the most memory it and its children had in use, in MiB."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        peak = sum(peak_memory(member.pid) for member in family)
        self.pipe.send(None)
        self.process.join()
        return peak


def peak_memory(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def contend(pipe: Connection, name: str, given: argparse.Namespace) -> None:
    """The process of a contender: does jobs until there is none."""
    quiet()
    engine: Any
    if name == "generate":
        engine = Generate(given.model, given.batch_size, given.dtype)
        engine.generate([("Hello",)], 2)
    elif name == "vllm":
        from selfevo.engines.vllm import VLLMEngine

        engine = VLLMEngine(given.batch_size, given.dtype, kv_cache_gib=4)
        engine.generate(given.model, [Request(("Hello",), 0)], Sampling(2))
    else:
        engine = TransformersEngine(given.batch_size, given.dtype, kv_cache_gib=given.kv_cache_gib)
        engine.generate(given.model, [Request(("Hello",), 0)], Sampling(2))
        if name == EAGER:
            engine._batching = replace(engine._batching, fixed=False)
    pipe.send("ready")
    while (job := pipe.recv()) is not None:
        subject, sampling = job
        begun = time.perf_counter()
        if name == "generate":
            turns, texts, new, prefilled = subject, [], 0, 0
            for conversations in subject:
                written, tokens, filled = engine.generate(conversations, sampling.max_new_tokens)
                texts.append(written)
                new, prefilled = new + tokens, prefilled + filled
        else:
            if name != "vllm":
                engine._memory.clear()
                engine.prefilled = 0
            turns, texts, new = ours(engine, given.model, subject, sampling)
            prefilled = engine.prefilled if name != "vllm" else 0
        seconds = time.perf_counter() - begun
        pipe.send(({"seconds": seconds, "tokens": new, "prefilled": prefilled}, turns, texts))
    if name == "vllm":
        engine.release()


def read_prompts(path: Path | None, count: int) -> list[str]:
    if path is None:
        problems = load_task(TaskConfig(name="gym:gsm_symbolic")).problems(count, 0, frozenset())
        return [problem.prompt.prompt for problem in problems]
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["question"] for line, _ in zip(lines, range(count), strict=False)]


def ours(
    engine: Engine, model: Path, questions: Sequence[str], sampling: Sampling
) -> tuple[list[list[Turns]], list[list[str]], int]:
    """The conversations of each skill, the text that continues each, and the number of tokens written."""
    turns: list[list[Turns]] = []
    texts: list[list[str]] = []
    new = 0

    def ask(conversations: list[Turns]) -> list[str]:
        nonlocal new
        got = engine.generate(model, [Request(t, i) for i, t in enumerate(conversations)], sampling)
        new += sum(generation.new_tokens for generation in got)
        turns.append(conversations)
        # A conversation needs some words; what a skill cannot say is no matter of speed.
        texts.append([generation.text for generation in got])
        return [generation.text or "?" for generation in got]

    prompts = [Prompt.of(question) for question in questions]
    r = ask([templates.respond(p) for p in prompts])
    f = ask([templates.critique(p, a) for p, a in zip(prompts, r, strict=True)])
    s = ask([templates.refine(p, a, b) for p, a, b in zip(prompts, r, f, strict=True)])
    ask([templates.critique(p, a) for p, a in zip(prompts, s, strict=True)])
    return turns, texts, new


class Generate:
    """What one would write first: tokenise, pad on the left, model.generate."""

    def __init__(self, model: Path, batch_size: int, dtype: str) -> None:
        device = pick_device("auto")
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=pick_dtype(dtype, device)).to(device).eval()
        self.chat, self.batch_size = Chat(load_tokenizer(model)), batch_size

    def generate(self, conversations: Sequence[Turns], limit: int) -> tuple[list[str], int, int]:
        """Texts, tokens written, prompt tokens computed."""
        prompts = [self.chat.prompt(turns) for turns in conversations]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        texts, new, prefilled = [""] * len(prompts), 0, 0
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            width = max(len(prompts[i]) for i in batch)
            ids = torch.full((len(batch), width), self.chat.stop_id)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
                mask[row, width - len(prompts[i]) :] = 1
            prefilled += ids.numel()
            out = self.model.generate(
                ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                max_new_tokens=limit,
                do_sample=False,
                eos_token_id=self.chat.stop_id,
                pad_token_id=self.chat.stop_id,
            )
            for i, row in zip(batch, out[:, width:].tolist(), strict=True):
                written = row[: row.index(self.chat.stop_id)] if self.chat.stop_id in row else row
                texts[i], new = self.chat.text(written), new + len(written)
        return texts, new, prefilled


def count_needed(chat: Chat, turns: Sequence[Sequence[Turns]], texts: Sequence[Sequence[str]]) -> int:
    """Prompt tokens that no earlier stage of the same conversation has read or written."""
    needed = 0
    for i in range(len(turns[0])):
        seen: list[list[int]] = []
        for conversations, written in zip(turns, texts, strict=True):
            ids = chat.prompt(conversations[i])
            needed += len(ids) - min(max((shared(ids, other) for other in seen), default=0), len(ids) - 1)
            seen.append(ids + chat.words(written[i]))
    return needed


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def summarise(
    runs: dict[str, list[dict[str, float]]], needed: int, prompts: int, folder: Path, dtype: torch.dtype
) -> dict[str, Any]:
    parameters = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).num_parameters()
    peak = matmul_flops(pick_device("auto"), dtype)
    engines = {}
    for name, measured in runs.items():
        seconds = statistics.median(run["seconds"] for run in measured)
        tokens = statistics.median(run["tokens"] for run in measured)
        engines[name] = {
            "seconds": seconds,
            "all_seconds": [run["seconds"] for run in measured],
            "trajectories_per_second": prompts / seconds,
            "tokens_per_second": tokens / seconds,
            "prefilled_per_needed": measured[-1]["prefilled"] / needed,
            "share_of_roofline": 2 * parameters * (tokens + needed) / seconds / peak,
        }
    return {
        "engines": engines,
        "ratio_vs_generate": engines["generate"]["seconds"] / engines["ours"]["seconds"],
        "ratio_vs_vllm": engines["vllm"]["seconds"] / engines["ours"]["seconds"] if "vllm" in engines else None,
        "prefilled_per_needed": engines["ours"]["prefilled_per_needed"],
        "dtype": str(dtype),
        "peak_flops": peak,
    }


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, the best of five."""
    a, b = (torch.randn(2048, 2048, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        begun = time.perf_counter()
        for _ in range(4):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - begun) / 4)
    return 2 * 2048**3 / best


def show(console: Console, result: dict[str, Any]) -> None:
    table = Table(title=f"{result['prompts']} trajectories, medians of {result['repeats']}", title_justify="left")
    for column in ("", "seconds", "trajectories/s", "tokens/s", "prefilled/needed", "share of roofline", "MiB"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in result["engines"].items():
        table.add_row(
            name,
            f"{row['seconds']:.1f}",
            f"{row['trajectories_per_second']:.2f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['prefilled_per_needed']:.2f}" if row["prefilled_per_needed"] else "?",
            f"{row['share_of_roofline']:.2f}",
            f"{row['peak_memory_mib']:.0f}",
        )
    console.print(table)
    versus = f", vllm {result['ratio_vs_vllm']:.2f}" if result["ratio_vs_vllm"] else ""
    console.print(
        f"times as fast as generate {result['ratio_vs_generate']:.2f}{versus}; same texts as generate "
        f"{result['same_texts']:.1%}, {result['dtype']}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
