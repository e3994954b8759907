"""What the untrained model writes, recorded for critics.py: answers short and long, and rewritten solutions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from selfevo.data.disjoint import check_disjoint
from selfevo.engines.transformers import TransformersEngine
from selfevo.method.protocols import Request, Sampling
from selfevo.method.records import Prompt
from selfevo.rundir.atomic_files import write_atomic
from selfevo.statistics import wilson
from selfevo.tasks.base import Problem
from selfevo.tasks.word_problems import WordProblems

SEED = 100
# The first three questions of GSM8K's training set in the style that is wanted: short, calculations written out.
SHOTS = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did "
    "Natalia sell altogether in April and May?",
    "In May she sold half as many clips as in April: 48 / 2 = 24.\nIn April and May together she sold 48 + 24 = 72 "
    "clips.\n#### 72",
    "Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of babysitting. How much did she earn?",
    "An hour has 60 minutes, so she earns 12 / 60 = $0.2 a minute.\nFor 50 minutes she earned 0.2 * 50 = $10.\n#### 10",
    "Betty is saving money for a new wallet which costs $100. Betty has only half of the money she needs. Her parents "
    "decided to give her $15 for that purpose, and her grandparents twice as much as her parents. How much more money "
    "does Betty need to buy the wallet?",
    "Betty has half of the price: 100 / 2 = $50.\nHer grandparents give her twice what her parents give: 15 * 2 = $30."
    "\nWith both gifts she has 50 + 15 + 30 = $95.\nShe still needs 100 - 95 = $5.\n#### 5",
)
# Without these words half of the answers are pages of LaTeX, whatever the examples show.
FORM = "{}\n\nAnswer in short lines, a calculation in each, the last line #### and the result."
REWRITE = (
    "{}\n\nA solution:\n{}\n\nWrite your own solution in short lines, a calculation in each, the last line #### and "
)
REWRITE += "the result."


@dataclass(frozen=True, slots=True)
class Sample:
    """A recorded text of the untrained model."""

    id: str
    sample: int
    text: str
    finish: str
    tokens: int

    @property
    def usable(self) -> bool:
        """Ended, and in the style asked for: a few lines, then the answer."""
        return self.finish == "stop" and "\n####" in self.text and "\\" not in self.text


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many problems are labelled, and how many others have their answers recorded; the rows of a batch."""

    labels: int
    recorded: int
    batch: int


def problems_of(task: WordProblems, sizes: Sizes, further: int = 0) -> tuple[list[Problem], ...]:
    """The labelled problems, those whose answers are recorded, and `further` ones to measure on."""
    shots = {Prompt.of(question).id for question in SHOTS[::2]}
    known = sizes.labels + sizes.recorded
    drawn = task.problems(known + further, SEED, frozenset(shots))
    parts = drawn[: sizes.labels], drawn[sizes.labels : known], drawn[known:]
    labelled, recorded, measured = ([problem.prompt for problem in part] for part in parts)
    check_disjoint(allow_empty=("measured",), labelled=labelled, recorded=recorded, measured=measured)
    return parts


def record(
    path: Path, model: Path, jobs: Sequence[tuple[str, int, tuple[str, ...]]], sampling: Sampling, size: int
) -> None:
    """Appends the texts of `jobs` (id, sample, turns) that `path` lacks."""
    done = {(each.id, each.sample) for each in read(path)}
    owed = [job for job in jobs if job[:2] not in done]
    engine = TransformersEngine(batch_size=size)
    for start in range(0, len(owed), size):
        batch = owed[start : start + size]
        if not start:  # its states serve the whole batch
            engine.generate(model, [Request(batch[0][2], 0)], Sampling(1))
        requests = [Request(turns, int(id, 16) + sample) for id, sample, turns in batch]
        texts = engine.generate(model, requests, sampling)
        with path.open("a", encoding="utf-8") as file:
            for (id, sample, _), text in zip(batch, texts, strict=True):
                file.write(json.dumps(asdict(Sample(id, sample, text.text, text.finish, text.new_tokens))) + "\n")
        print(f"{path.name}: {start + len(batch)} of {len(owed)}", flush=True)


def read(path: Path) -> list[Sample]:
    names = Sample.__dataclass_fields__
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Sample(**{name: row[name] for name in names}) for row in map(json.loads, lines)]


def sample(model: Path, task: WordProblems, output: Path, sizes: Sizes) -> None:
    labelled, recorded, _ = problems_of(task, sizes)
    shots = [FORM.format(text) if i % 2 == 0 else text for i, text in enumerate(SHOTS)]
    for temperature, problems, numbers in ((0.0, [*labelled, *recorded], [0]), (0.6, labelled, [1, 2])):
        jobs = [(p.prompt.id, n, (*shots, FORM.format(p.prompt.prompt))) for n in numbers for p in problems]
        record(output / "samples.jsonl", model, jobs, Sampling(150, temperature), sizes.batch)


def rewrite(model: Path, task: WordProblems, output: Path, sizes: Sizes) -> None:
    """Solutions in the model's own words, the gold one in view."""
    labelled, _, _ = problems_of(task, sizes)
    shots: list[str] = []
    for question, answer in zip(SHOTS[::2], SHOTS[1::2], strict=True):
        shots += [REWRITE.format(question, task.solution(Problem(Prompt.of(question), "", ""))), answer]
    jobs = [(p.prompt.id, 0, (*shots, REWRITE.format(p.prompt.prompt, task.solution(p)))) for p in labelled]
    record(output / "rewritten.jsonl", model, jobs, Sampling(180), sizes.batch)


def at_length(model: Path, task: WordProblems, output: Path, sizes: Sizes, further: int) -> None:
    """Answers to the labelled problems as the model gives them when nothing is said of their form, and to others."""
    labelled, _, measured = problems_of(task, sizes, further)
    for temperature, number in ((0.0, 0), (0.6, 1)):
        jobs = [(p.prompt.id, number, (p.prompt.prompt,)) for p in labelled]
        record(output / "long.jsonl", model, jobs, Sampling(450, temperature), sizes.batch)
    if not measured:
        return
    record(
        output / "untrained.jsonl",
        model,
        [(p.prompt.id, 0, (p.prompt.prompt,)) for p in measured],
        Sampling(450),
        sizes.batch,
    )
    texts = {each.id: each for each in read(output / "untrained.jsonl")}
    right = sum(task.is_correct(p, texts[p.prompt.id].text) and texts[p.prompt.id].finish == "stop" for p in measured)
    found = {"answers": len(measured), "right": right, "interval": wilson(right, len(measured))}
    found |= {"tokens": sum(texts[p.prompt.id].tokens for p in measured) / len(measured)}
    write_atomic(output / "untrained.json", json.dumps(found, indent=2))
    print(f"untrained, at length: {json.dumps(found)}")
