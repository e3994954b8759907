"""`selfevo run --dry-run`: shows training sequences and requests, token by token, before a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from rich.console import Console
from rich.text import Text

from selfevo.checks.own_parts import make_own_parts
from selfevo.config.base import OwnPart
from selfevo.config.run_config import RunConfig
from selfevo.config.sources import TaskCorpus
from selfevo.config.training import TrainerConfig
from selfevo.inputs.annotation import to_be_annotated
from selfevo.inputs.corpus_check import check_sound, count
from selfevo.inputs.splits import Splits, draw_splits
from selfevo.method.names import META, SFT, round_name
from selfevo.method.prompts import Wording
from selfevo.method.records import Drafted, Example, Refined, as_row, extended
from selfevo.method.skills import RESPOND, SKILLS
from selfevo.method.training_examples import answer_examples, meta_examples
from selfevo.method.verdicts import Verdict
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer, pick_device, pick_dtype
from selfevo.models.template_settings import base_of
from selfevo.pipeline.build import trainer_of
from selfevo.report.tables import print_properties
from selfevo.report.terminal import printable
from selfevo.tasks import load_task
from selfevo.tasks.base import AnnotatedTask, Problem
from selfevo.trainers.training_memory import Batch, count_parameters, skeleton

_SAMPLES = 3
PLACEHOLDERS = 20  # prompts that stand for trajectories where there is no D_meta
# Speed of training and generation as a share of a large matrix product's speed, measured with
# SmolLM2-135M on two CPU cores (experiments/notebook.md). The estimate only has to tell minutes
# from hours.
_TRAINING_SHARE, _GENERATION_SHARE = 0.15, 0.10


def preview(config: RunConfig, console: Console) -> None:
    """Prints three samples per kind of sequence with the loss mask, token counts, and estimated time.

    Raises DataError at its end if a run would refuse D_meta.
    """
    folder = base_of(config)
    chat = Chat(load_tokenizer(folder))
    splits = draw_splits(config)
    own = make_own_parts(config, splits)
    d_meta = lessons_of(config, splits)
    if own:
        console.print(f"your own parts can be made: {', '.join(own)}\n")
    for note in splits.notes:
        console.print(f"{note}\n", style="yellow")
    counts = count(splits.d_meta, config.wording, splits.corpus_reasons)
    if isinstance(config.corpus, TaskCorpus):
        console.print("D_meta is written during the run; here the response is the gold answer.\n", style="yellow")
    elif splits.d_meta:
        console.print(f"D_meta: {counts}\n", style="yellow" if counts.doubtful else "")
    elif config.corpus is None:
        console.print(
            "No corpus: the model has to have the skills already, and only its own r^ is learnt. Its texts are not "
            "known yet, so token counts are too low.\n",
            style="yellow",
        )
    elif splits.unlabelled:
        console.print(
            "D_meta is written during the run; its texts are not known yet, so token counts are too low.\n",
            style="yellow",
        )
    skills, answers = meta_examples(d_meta, 0.0, config.wording), answer_examples(d_meta, config.beta)
    in_loss, other = (marked("in the loss"), "green"), ("not in the loss", "dim")
    console.print(Text.assemble("Training sequences: ", in_loss, ", ", other, "; ⏎ ends a line\n"))
    answering = ("answering: r^ labelled, beta", answers) if config.corpus else ("answering: r^ labelled", answers)
    for title, examples in (("meta-skills: f and r^ labelled", skills), answering)[config.corpus is None :]:
        show(console, title, examples, lambda example: masked(chat, example))
    for skill in SKILLS:
        of_pool = skill is RESPOND
        show(
            console,
            f"asked: {skill.name}, {'the first prompts of the pool' if of_pool else 'on rows of D_meta'}",
            splits.pool if of_pool else d_meta,
            lambda row, skill=skill: Text(visible(chat, chat.prompt(skill.turns(row, config.wording), row.system))),
        )
    found = estimate(config, count_parameters(skeleton(folder)), chat, splits, d_meta)
    print_estimate(config, found, len(d_meta), len(splits.pool), console)
    check_sound(counts, config.corpus)


def preview_annotation(config: RunConfig, console: Console) -> None:
    """Prints the number of annotations, their greatest cost, and the first call. Makes no call."""
    corpus = to_be_annotated(config)
    splits = draw_splits(config)
    make_own_parts(config, splits)
    prompts = splits.to_annotate()
    calls = len(prompts) * (2 if isinstance(corpus, TaskCorpus) else 1)
    console.print(f"{len(prompts)} prompts, at most {calls} responses to annotate")
    annotator = corpus.annotator
    if annotator is None:
        console.print("annotator: a program with the gold answers, which costs nothing")
        return
    if isinstance(annotator, OwnPart):
        console.print(f"annotator: {annotator.kind}, your own part; its cost is not known here")
        return
    from selfevo.models.endpoint import Endpoint, most, price  # needs an extra
    from selfevo.teachers.openai import OpenAITeacher

    task = load_task(corpus.task) if isinstance(corpus, TaskCorpus) else None
    teacher = OpenAITeacher(
        annotator, Endpoint(annotator), task, {p.prompt.id: p for p in splits.labelled}, config.wording
    )
    # The responses are not known yet, so the greatest length counts.
    longest = "x" * 4 * config.skills.respond.max_new_tokens
    asks = [teacher.ask(extended(Drafted, prompt, longest)) for prompt in prompts]
    read, written = (sum(most(ask)[i] for ask in asks) * calls // len(asks) for i in (0, 1))
    cost = price(annotator, read, written)
    shown = f"${cost:.2f}" if cost is not None else "price unknown, give input_price and output_price"
    console.print(f"at most {read:,} tokens to read and {written:,} to write: {shown}")
    if cost and annotator.max_dollars and cost > annotator.max_dollars:
        console.print(f"max_dollars={annotator.max_dollars} could stop the annotation before its end", style="yellow")
    console.rule("the first call", align="left")
    first = teacher.ask(extended(Drafted, prompts[0], "(the model's response)"))
    for message in first.messages:
        console.print(Text(message["role"], "dim"), message["content"], soft_wrap=True)


def lessons_of(config: RunConfig, splits: Splits) -> list[Refined]:
    """D_meta. Before it is written: gold answers as responses, or placeholder texts; also where there is no corpus."""
    if isinstance(config.corpus, TaskCorpus):
        return solved(load_task(config.corpus.task), splits.labelled, config.wording)
    feedback = f"(the feedback)\n{config.wording.line(Verdict.NOT_QUALIFIED)}"
    prompts = splits.unlabelled if config.corpus else splits.pool[:PLACEHOLDERS]
    return splits.d_meta or [
        Refined(**as_row(p), response="(the response)", feedback=feedback, refinement="(r^)") for p in prompts
    ]


def solved(task: AnnotatedTask, problems: Sequence[Problem], wording: Wording) -> list[Refined]:
    """The trajectories of a model whose direct answers are right."""
    answers = [(problem, task.solution(problem)) for problem in problems]
    return [
        Refined(
            **as_row(problem.prompt),
            response=answer,
            feedback=wording.restated(task.explain(problem, answer)),
            refinement=answer,
        )
        for problem, answer in answers
    ]


def show(console: Console, title: str, rows: Sequence[object], render: Callable[..., Text]) -> None:
    console.rule(title, align="left")
    for row in rows[:_SAMPLES]:
        console.print(render(row), soft_wrap=True)
        console.print()


def masked(chat: Chat, example: Example) -> Text:
    """The training sequences of an example: one, or more where the template writes a past turn otherwise."""
    texts = []
    for ids, weights in chat.sequences(example.turns, example.weights, example.system):
        text = Text()
        for in_loss, pairs in groupby(zip(ids, weights, strict=True), lambda pair: pair[1] > 0):
            shown = "".join(visible(chat, [token]) for token, _ in pairs)
            text.append(marked(shown) if in_loss else shown, style="green" if in_loss else "dim")
        labelled = sum(weight > 0 for weight in weights)
        texts.append(text.append(f"  [{len(ids)} tokens, {labelled} in the loss]", style="cyan"))
    return Text("\n").join(texts)


def marked(text: str) -> str:
    """Text in the loss, to be known without colour too."""
    return f"⟦{text}⟧"


def visible(chat: Chat, ids: list[int]) -> str:
    return printable(chat.tokenizer.decode(ids, skip_special_tokens=False)).replace("\n", "⏎\n")


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected size of a run. Token counts are exact for known text, else from the mean of D_meta.

    `lengths`: tokens of each sequence of L_meta. `batch`: the largest micro-batch of these.
    `training`: tokens to train on in the whole run. `generated`: tokens to generate and read.
    `speed`: floating-point operations per second of one measured matrix product.
    """

    parameters: int
    lengths: list[int]
    batch: Batch
    training: float
    generated: float
    speed: float

    @property
    def seconds(self) -> float:
        """The estimated time. It only has to tell minutes from hours."""
        work = 6 * self.training / _TRAINING_SHARE + 2 * self.generated / _GENERATION_SHARE
        return self.parameters * work / self.speed


def estimate(config: RunConfig, parameters: int, chat: Chat, splits: Splits, d_meta: Sequence[Refined]) -> Estimate:
    examples = meta_examples(d_meta, config.beta, config.wording)
    sequences = [loss for e in examples for _, loss in chat.sequences(e.turns, e.weights, e.system)]
    lengths = list(map(len, sequences))
    known = sum(lengths)
    one = known / max(1, len(d_meta))  # mean tokens of a trajectory, with its pair (p, r^)
    if config.corpus is None:
        known = 0  # they are placeholders, and nothing is learnt before the rounds
    pool = len(splits.pool) * config.samples_per_prompt
    kept = 0.5 * pool / config.round_count  # not known before the run; half is a guess
    answer = one * 0.3
    training = known * trainer_of(config, META).num_train_epochs
    if isinstance(corpus := config.corpus, TaskCorpus):
        training += one * corpus.labels * corpus.warmup_share * 0.3 * corpus.warmup_epochs
    if config.evaluation and SFT in config.evaluation.models:
        labels = len(splits.labelled) + len(splits.sft)
        training += max(known, answer * labels) * trainer_of(config, SFT).num_train_epochs
    for t in range(1, config.round_count + 1):
        rows = known if config.policy != "continual-latest" else 0.0
        rows += answer * kept * (1 if config.policy == "continual-latest" else t)
        training += rows * trainer_of(config, round_name(t)).num_train_epochs
    measured = len(splits.evaluation) * (config.round_count + 3) + len(splits.dev) * (config.round_count + 1)
    generated = (pool * 1.5 + measured) * one
    sizes = [(len(loss), sum(weight > 0 for weight in loss[1:])) for loss in sequences]
    if not (splits.d_meta or isinstance(config.corpus, TaskCorpus)):  # placeholders, so as long as it may become
        skills = config.skills
        written = skills.critique.max_new_tokens + skills.refine.max_new_tokens
        added = written + skills.respond.max_new_tokens
        sizes = [(min(length + added, config.trainer.max_length), labels + written) for length, labels in sizes]
    return Estimate(parameters, lengths, largest(config.trainer, sizes), training, generated, measure_flops(config))


def largest(trainer: TrainerConfig, sizes: Sequence[tuple[int, int]]) -> Batch:
    """The largest micro-batch of sequences of so many tokens, of which so many are labelled."""
    rows, limit = trainer.per_device_train_batch_size, trainer.max_length
    fitting = sorted((size for size in sizes if size[0] <= limit), reverse=True)
    if trainer.packing:
        share = sum(labels for _, labels in fitting) / max(1, sum(length for length, _ in fitting))
        return Batch(rows, limit, round(rows * limit * share))
    longest = fitting[:rows] or [(limit, limit)]
    return Batch(len(longest), longest[0][0], sum(min(labels, longest[0][0]) for _, labels in longest))


def print_estimate(config: RunConfig, found: Estimate, trajectories: int, pool: int, console: Console) -> None:
    limit = config.trainer.max_length
    cut = sum(length > limit for length in found.lengths)
    size = f"{trajectories} trajectories, {sum(found.lengths)} tokens, {cut} longer than max_length={limit}"
    values = {
        "parameters": f"{found.parameters / 1e6:.0f} M",
        "D_meta": size if config.corpus else "none",
        "pool": f"{pool} prompts in {config.round_count} round{'s' * (config.round_count > 1)}, policy {config.policy}",
        "tokens to train on": f"about {found.training / 1e3:.0f} k",
        "tokens to generate and read": f"about {found.generated / 1e3:.0f} k",
        "matrix products here": f"{found.speed / 1e9:.0f} GFLOP/s measured",
        "time": f"about {found.seconds / 60:.0f} minutes, within a factor of three",
    }
    print_properties(console, values, "estimate")


def measure_flops(config: RunConfig) -> float:
    """Floating-point operations per second of one 2048 x 1024 x 1024 product in the training precision."""
    device = pick_device(config.trainer.device)
    dtype = pick_dtype(config.trainer.dtype, device)
    a, b = torch.randn(2048, 1024, device=device, dtype=dtype), torch.randn(1024, 1024, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # waits until the device is done
        best = min(best, time.perf_counter() - started)
    return 2 * 2048 * 1024 * 1024 / best
