"""`selfevo doctor`: checks before a run, each with a remedy.

Some failures of self-training give no error: a stop token that is never trained, a chat template
that differs between training and inference, an engine whose text differs from the model's,
sequences that are too long to be trained on. They are checked with the model and the rows of the
run.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement
from transformers import AutoConfig

from selfevo.checks.check import Check
from selfevo.checks.generation import generation, skilled
from selfevo.checks.own_parts import make_own_parts
from selfevo.checks.preview import count_parameters, estimate, lessons_of, skeleton
from selfevo.config.run_config import RunConfig
from selfevo.config.sources import TaskCorpus
from selfevo.errors import DataError
from selfevo.inputs.corpus_check import count, doubt, imbalance, listed
from selfevo.inputs.splits import Splits, draw_splits
from selfevo.method import prompts
from selfevo.method.names import SFT
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Engine
from selfevo.method.records import Example, Refined
from selfevo.method.skills import RESPOND
from selfevo.method.training_examples import meta_examples
from selfevo.models.chat_template import Chat, messages
from selfevo.models.device import load_tokenizer, pick_device
from selfevo.models.template_settings import base_of
from selfevo.pipeline.build import build_engine
from selfevo.trainers.adapters import check_targets

PROMPTS = 20


def examine(config: RunConfig, engine: Engine | None = None) -> list[Check]:
    """All checks of a configuration. Writes no files. Raises if model, data or layers for adapters are missing."""
    return list(checks_of(config, engine))


def checks_of(config: RunConfig, engine: Engine | None = None) -> Iterator[Check]:
    """The checks, each as it ends, with the time that it took."""
    started = time.monotonic()
    for check in _checks(config, engine):
        yield replace(check, seconds=round(time.monotonic() - started, 2))
        started = time.monotonic()


def _checks(config: RunConfig, engine: Engine | None) -> Iterator[Check]:
    yield versions()
    folder, splits = base_of(config), draw_splits(config)
    model = skeleton(folder)  # first, because it gives the clearest error for an unknown model
    if config.trainer.lora:
        check_targets(config.trainer.lora.target_modules, model)
    parameters = count_parameters(model)
    yield disk(config, folder, parameters)
    yield memory(config, parameters)
    yield rows(splits)
    if config.corpus:
        yield from corpus(config, splits)
    if own := make_own_parts(config, splits):
        yield Check("own parts", "pass", f"{', '.join(own)} can be made")
    chat, d_meta = Chat(load_tokenizer(folder)), lessons_of(config, splits)
    yield conversations(chat, splits, config.wording)
    yield template(chat, d_meta, config.wording)
    yield stop_token(chat, d_meta, config.wording)
    yield unknown_tokens(chat, splits, d_meta)
    found = estimate(config, parameters, chat, splits, d_meta)
    yield lengths(config, found.lengths)
    yield context(config, folder, chat, d_meta)
    yield from generation(config, folder, chat, splits, engine)
    if config.corpus is None:
        yield skilled(config, folder, splits, engine or build_engine(config.engine))
    yield Check("time", "pass", f"a run takes about {found.seconds / 60:.0f} minutes, within a factor of three")


def versions() -> Check:
    """Whether every required package has a supported version."""
    wrong, found = [], []
    for line in importlib.metadata.requires("selfevo") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = importlib.metadata.version(requirement.name)
        if requirement.name in ("torch", "transformers", "trl"):
            found.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        return Check("versions", "fail", "; ".join(wrong), "pip install -U selfevo")
    return Check("versions", "pass", ", ".join(found))


def disk(config: RunConfig, folder: Path, parameters: int) -> Check:
    """Whether the disk has space for all models of the run, and one checkpoint with its optimizer."""
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    measured = config.evaluation.models if config.evaluation else ()
    warm_up = isinstance(config.corpus, TaskCorpus) and config.corpus.warmup_share > 0
    models = (config.corpus is not None) + config.round_count + (SFT in measured) + warm_up
    checkpoint = 0 if config.trainer.lora else 12 * parameters
    need = models * weights + checkpoint
    place = next(path for path in (config.output.absolute(), *config.output.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    finding = f"{_gib(need)} for {models} models and a checkpoint, {_gib(free)} free in {place}"
    if free < need:
        return Check("disk", "fail", finding, "free some space, or give an output on a larger disk")
    status: Literal["pass", "warn"] = "warn" if free < 1.2 * need else "pass"
    return Check("disk", status, finding, "selfevo gc frees all but the best and the last model" * (status == "warn"))


def memory(config: RunConfig, parameters: int) -> Check:
    """Whether the memory is enough for training, without activations.

    It counts weights, gradients and Adam's two moments in float32; with LoRA only the weights.
    """
    device = pick_device(config.trainer.device)
    need = parameters * (2 if config.trainer.lora else 16)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    finding = f"{_gib(need)} to train {parameters / 1e6:.0f} M parameters on {device}, without activations"
    if free is None:
        return Check("memory", "pass", finding)
    finding += f"; {_gib(free)} free"
    remedy = "train adapters (trainer.lora: {}), take a smaller model, or a larger device"
    if free < need:
        return Check("memory", "fail", finding, remedy)
    if free < 1.5 * need:
        return Check("memory", "warn", finding, f"if it runs out: trainer.gradient_checkpointing: true, or {remedy}")
    return Check("memory", "pass", finding)


def rows(splits: Splits) -> Check:
    """The rows of files that cannot be used, and what is left off of others."""
    if not splits.set_aside:
        return Check("rows", "pass", "; ".join(["every row of every file can be used", *splits.notes]))
    return Check("rows", "warn", "; ".join(splits.notes), "mend these rows, or go on without them")


def corpus(config: RunConfig, splits: Splits) -> list[Check]:
    """Recorded trajectories: do they show both verdicts, and do verdict and refinement agree?"""
    counts = count(splits.d_meta, config.wording, splits.corpus_reasons)
    if not counts.rows:
        return [Check(name, "pass", "written during the run") for name in ("verdicts", "D_meta")]
    finding, remedy = listed(counts.verdicts), "add rows with the other verdict to D_meta"
    if (fault := imbalance(counts, config.corpus)) is not None:
        verdicts = _failed("verdicts", fault)
    elif len(counts.verdicts) == 1 and counts.rows > 1:
        verdicts = Check("verdicts", "warn", f"all of D_meta: {finding}", remedy)
    else:
        verdicts = Check("verdicts", "pass", finding)
    if (fault := doubt(counts, config.corpus)) is not None:
        return [verdicts, _failed("D_meta", fault)]
    if counts.doubtful or counts.quarantined:
        return [verdicts, Check("D_meta", "warn", str(counts), "correct these rows, or go on with them")]
    return [verdicts, Check("D_meta", "pass", f"verdict and refinement agree in all of {counts.rows} rows")]


def _failed(name: str, fault: str) -> Check:
    finding, _, remedy = fault.partition("; ")
    return Check(name, "fail", finding, remedy)


def conversations(chat: Chat, splits: Splits, wording: Wording = ENGLISH) -> Check:
    """Whether the template has a place for every system prompt and all earlier turns, also those of later rounds."""
    problems = [problem.prompt for problem in (*splits.evaluation, *splits.dev, *splits.audit, *splits.labelled)]
    asked = [*splits.pool, *splits.unlabelled, *splits.d_meta, *splits.dev_prompts, *problems]
    for prompt in {(bool(prompt.system), len(prompt.history)): prompt for prompt in asked}.values():
        try:
            chat.prompt(RESPOND.turns(prompt, wording), prompt.system)
        except DataError as error:
            return Check("conversations", "fail", str(error), "or leave such prompts out of the files")
    systems, longer = sum(bool(prompt.system) for prompt in asked), sum(bool(prompt.history) for prompt in asked)
    finding = f"of {len(asked)} prompts {systems} have a system prompt and {longer} have earlier turns"
    return Check("conversations", "pass", finding)


def template(chat: Chat, d_meta: Sequence[Refined], wording: Wording = ENGLISH) -> Check:
    """Whether the first token behind the prompt of every skill is the answer's first, and what the template does."""
    name = "chat template"
    rows = d_meta[:PROMPTS]
    for example in meta_examples(rows, 1.0, wording):
        if fault := _between(chat, example):
            return Check(name, "fail", f"{fault} of {example.id}", "report it, with the chat template of the model")
    if chat.skipped:
        return Check(
            name,
            "warn",
            f"each prompt opens thinking with {chat.opening!r}; {chat.skipped!r} stands between it and an answer "
            "without thinking, and is trained with it",
            _without_thinking(chat),
        )
    if chat.between:
        return Check(
            name,
            "warn",
            f"the template itself writes {chat.between!r} between a prompt and its last answer; here each answer is "
            "trained right behind the prompt, as it is asked",
            _without_thinking(chat),
        )
    asked = d_meta[0].conversation[1:] if d_meta else ()
    plain = messages(asked, d_meta[0].system) if d_meta else []
    theirs = chat.tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False) if plain else []
    if plain and list(theirs) != chat.prompt(asked, d_meta[0].system):
        return Check(
            name,
            "warn",
            "apply_chat_template gives other tokens than training and inference use here",
            "see `selfevo run --dry-run`; a server that applies the template itself will use slightly other prompts",
        )
    finding = f"training and inference agree token by token on {3 * len(rows)} conversations"
    trajectories = (
        chat.sequences(each.turns, each.weights, each.system) for each in meta_examples(rows[:1], 0.0, wording)
    )
    count = max(map(len, trajectories), default=1)
    if count > 1:
        finding += f"; a trajectory is {count} sequences, because the template writes past turns otherwise"
    return Check(name, "pass", finding)


def _between(chat: Chat, example: Example) -> str:
    """What is wrong with a labelled turn whose words do not follow right behind its prompt; "" if nothing is."""
    sequences = chat.sequences(example.turns, example.weights, example.system)
    for i in (i for i, weight in enumerate(example.weights) if weight):
        *asked, text = example.turns[: 2 * i + 2]
        prompt, answer = chat.prompt(tuple(asked), example.system), chat.answer(text)
        found = [ids for ids, loss in sequences if ids[: len(prompt)] == prompt and any(loss[len(prompt) :])]
        if not any(ids[len(prompt) : len(prompt) + len(answer)] == answer for ids in found):
            return f"training and inference differ in front of turn {2 * i + 2}"
    return ""


def _without_thinking(chat: Chat) -> str:
    if "enable_thinking" in chat.tokenizer.get_chat_template():
        return "chat_template_kwargs: {enable_thinking: false} has the template write it into the prompt"
    return "nothing needs to be done; chat_template takes another template"


def stop_token(chat: Chat, d_meta: Sequence[Refined], wording: Wording = ENGLISH) -> Check:
    """Whether every labelled turn ends in the stop token, with a weight in the loss."""
    shown = repr(chat.tokenizer.decode([chat.stop_id]))
    for example in meta_examples(d_meta[:PROMPTS], 1.0, wording):
        if untrained := _untrained_stops(chat, example):
            return Check(
                "stop token trained",
                "fail",
                f"{shown} has no weight in the loss after {untrained} labelled turns of {example.id}",
                "save the model with a chat template that closes an assistant turn with one token",
            )
    return Check("stop token trained", "pass", f"{shown} ends every labelled turn and is in the loss")


def _untrained_stops(chat: Chat, example: Example) -> int:
    trained = sum(
        token == chat.stop_id and weight > 0
        for ids, weights in chat.sequences(example.turns, example.weights, example.system)
        for token, weight in zip(ids, weights, strict=True)
    )
    return sum(weight > 0 for weight in example.weights) - trained


def unknown_tokens(chat: Chat, splits: Splits, d_meta: Sequence[Refined]) -> Check:
    """Whether the tokenizer knows every character. What it does not know, the model neither reads nor learns."""
    name, unknown = "unknown tokens", chat.tokenizer.unk_token_id
    texts = [text for row in d_meta for text in (*row.conversation, row.response, row.feedback, row.refinement)]
    texts += [text for prompt in splits.unlabelled for text in prompt.conversation]
    texts = [text for text in texts if text]  # most prompts have no system prompt
    lost = [text for text in texts if unknown is not None and unknown in chat.words(text)]
    if not lost:
        return Check(name, "pass", f"every character of {len(texts)} texts has a token")
    first = lost[0]
    missing = [c for c in dict.fromkeys(first) if not c.isspace() and unknown in chat.words(c)]
    return Check(
        name,
        "warn",
        f"{len(lost)} of {len(texts)} texts have parts that the tokenizer writes as {chat.tokenizer.unk_token}: "
        f"{', '.join(map(repr, missing[:5])) or repr(first[:60])}",
        "replace these characters in your files, or take a model whose tokenizer knows them",
    )


def lengths(config: RunConfig, sizes: Sequence[int]) -> Check:
    """Whether training sequences are longer than max_length and so left out."""
    limit, longest = config.trainer.max_length, max(sizes)
    over = sum(size > limit for size in sizes)
    finding = f"{over} of {len(sizes)} sequences are longer than max_length={limit}; the longest has {longest} tokens"
    if not over:
        return Check("max_length", "pass", finding)
    remedy = f"trainer.max_length: {longest} trains on all of them"
    return Check("max_length", "fail" if over > len(sizes) / 2 else "warn", finding, remedy)


def context(config: RunConfig, folder: Path, chat: Chat, d_meta: Sequence[Refined]) -> Check:
    """Whether every conversation of D_meta, plus max_new_tokens, fits into the model's context."""
    settings = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    limit = getattr(settings, "max_position_embeddings", None)
    if limit is None:
        return Check("context", "pass", "the model states no limit")
    over = 0
    for row in d_meta:
        turns = prompts.refine(row, row.response, row.feedback, config.wording)
        asked = (
            (config.skills.respond, turns[:-4]),
            (config.skills.critique, turns[:-2]),
            (config.skills.refine, turns),
        )
        over += any(len(chat.prompt(view, row.system, limit)) + skill.max_new_tokens > limit for skill, view in asked)
    finding = f"{over} of {len(d_meta)} trajectories plus max_new_tokens do not fit into {limit} tokens"
    if not over:
        return Check("context", "pass", finding)
    remedy = "take a model with a longer context, shorter prompts, or a lower max_new_tokens in skills"
    return Check("context", "fail" if over > len(d_meta) / 2 else "warn", finding, remedy)


def _free_memory() -> int | None:
    """Bytes of memory that are free without swapping. None if the system does not tell."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    fields = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
