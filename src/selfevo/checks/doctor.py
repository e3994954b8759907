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
from selfevo.checks.preview import estimate, lessons_of
from selfevo.checks.tokens import conversations, stop_token, template, unknown_tokens
from selfevo.config.run_config import RunConfig
from selfevo.config.sources import TaskCorpus
from selfevo.inputs.corpus_check import count, doubt, imbalance, listed
from selfevo.inputs.splits import Splits, draw_splits
from selfevo.method import prompts
from selfevo.method.names import SFT
from selfevo.method.protocols import Engine
from selfevo.method.records import Refined
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer, pick_device, pick_dtype
from selfevo.models.template_settings import base_of
from selfevo.pipeline.build import build_engine
from selfevo.rundir.adapter_folder import weights_folder
from selfevo.trainers.adapters import check_targets
from selfevo.trainers.training_memory import Batch, count_parameters, gib, skeleton, training_memory


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
    yield rows(splits)
    if splits.asked_otherwise:
        yield _check("evaluation", "warn", splits.asked_otherwise)
    if config.corpus:
        yield from corpus(config, splits)
    if own := make_own_parts(config, splits):
        yield Check("own parts", "pass", f"{', '.join(own)} can be made")
    chat, d_meta = Chat(load_tokenizer(folder)), lessons_of(config, splits)
    yield conversations(chat, splits, config.wording)
    yield template(chat, d_meta, config.wording, config.thinking)
    yield stop_token(chat, d_meta, config.wording)
    yield unknown_tokens(chat, splits, d_meta)
    found = estimate(config, parameters, chat, splits, d_meta)
    yield memory(config, folder, found.batch)
    yield lengths(config, found.lengths)
    yield context(config, folder, chat, d_meta)
    yield from generation(config, folder, chat, splits, engine)
    if config.corpus is None:
        yield skilled(config, folder, splits, engine or build_engine(config.engine, config.cluster))
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
    weights = sum(path.stat().st_size for path in weights_folder(folder).glob("*.safetensors"))
    if config.trainer.lora and not config.trainer.lora.merge:
        weights //= 10  # adapters alone; seldom more
    measured = config.evaluation.models if config.evaluation else ()
    warm_up = isinstance(config.corpus, TaskCorpus) and config.corpus.warmup_share > 0
    models = (config.corpus is not None) + config.round_count + (SFT in measured) + warm_up
    checkpoint = 0 if config.trainer.lora else 12 * parameters
    need = models * weights + checkpoint
    place = next(path for path in (config.output.absolute(), *config.output.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    finding = f"{gib(need)} for {models} models and a checkpoint, {gib(free)} free in {place}"
    if free < need:
        return Check("disk", "fail", finding, "free some space, or give an output on a larger disk")
    status: Literal["pass", "warn"] = "warn" if free < 1.2 * need else "pass"
    return Check("disk", status, finding, "selfevo gc frees all but the best and the last model" * (status == "warn"))


def memory(config: RunConfig, folder: Path, batch: Batch) -> Check:
    """Whether the memory is enough for the largest micro-batch of D_meta, with activations and logits."""
    device = pick_device(config.trainer.device)
    need = training_memory(folder, config.trainer, batch, device.type, pick_dtype(config.trainer.dtype, device))
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    finding = f"{gib(need.total)} to train {need.parameters / 1e6:.0f} M parameters on {device}: {need.parts(batch)}"
    if free is None:
        return Check("memory", "pass", finding)
    finding += f"; {gib(free)} free"
    remedy = (
        "lower trainer.per_device_train_batch_size, with a higher gradient_accumulation_steps, set "
        "trainer.gradient_checkpointing: true, train adapters (trainer.lora: {}), or take a larger device"
    )
    if free < need.total:
        return Check("memory", "fail", finding, remedy)
    if free < 1.25 * need.total or not need.followed:
        return Check("memory", "warn", finding, f"if it runs out: {remedy}")
    return Check("memory", "pass", finding)


def rows(splits: Splits) -> Check:
    """The rows of files that cannot be used, and what is left off of others."""
    notes = [note for note in splits.notes if note != splits.asked_otherwise]
    if not splits.set_aside:
        return Check("rows", "pass", "; ".join(["every row of every file can be used", *notes]))
    return Check("rows", "warn", "; ".join(notes), "mend these rows, or go on without them")


def corpus(config: RunConfig, splits: Splits) -> list[Check]:
    """Recorded trajectories: do they show both verdicts, and do verdict and refinement agree?"""
    counts = count(splits.d_meta, config.wording, splits.corpus_reasons)
    if not counts.rows:
        return [Check(name, "pass", "written during the run") for name in ("verdicts", "D_meta")]
    finding, remedy = listed(counts.verdicts), "add rows with the other verdict to D_meta"
    if (fault := imbalance(counts, config.corpus)) is not None:
        verdicts = _check("verdicts", "fail", fault)
    elif len(counts.verdicts) == 1 and counts.rows > 1:
        verdicts = Check("verdicts", "warn", f"all of D_meta: {finding}", remedy)
    else:
        verdicts = Check("verdicts", "pass", finding)
    if (fault := doubt(counts, config.corpus)) is not None:
        return [verdicts, _check("D_meta", "fail", fault)]
    if counts.doubtful or counts.quarantined:
        return [verdicts, Check("D_meta", "warn", str(counts), "correct these rows, or go on with them")]
    return [verdicts, Check("D_meta", "pass", f"verdict and refinement agree in all of {counts.rows} rows")]


def _check(name: str, status: Literal["warn", "fail"], fault: str) -> Check:
    finding, _, remedy = fault.partition("; ")
    return Check(name, status, finding, remedy)


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
    settings = AutoConfig.from_pretrained(weights_folder(folder), trust_remote_code=False).get_text_config()
    limit = getattr(settings, "max_position_embeddings", None)
    if limit is None or limit < 0:
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
