"""`selfevo doctor`: checks before a run, each with a remedy.

Some failures of self-training give no error: a stop token that is never trained, a chat template
that differs between training and inference, an engine whose text differs from the model's,
sequences that are too long to be trained on. They are checked with the model and the rows of the
run.
"""

from __future__ import annotations

import gc
import importlib.metadata
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement
from transformers import AutoConfig, GenerationConfig

from selfevo.checks.preview import count_parameters, estimate, lessons_of, skeleton
from selfevo.config.base import OwnPart
from selfevo.config.run_config import RunConfig
from selfevo.config.sources import TaskCorpus
from selfevo.errors import DataError
from selfevo.inputs.corpus_check import count, doubt, imbalance, listed
from selfevo.inputs.splits import Splits, draw_splits
from selfevo.method import prompts
from selfevo.method.names import SFT
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Engine, Generation, Request, Sampling
from selfevo.method.records import Example, Refined
from selfevo.method.skills import CRITIQUE, RESPOND
from selfevo.method.training_examples import meta_examples
from selfevo.method.verdicts import Verdict
from selfevo.models.chat_template import Chat, messages
from selfevo.models.device import load_tokenizer, pick_device, pick_dtype, quiet
from selfevo.models.loading import load_model
from selfevo.models.template_settings import base_of
from selfevo.pipeline.build import build_engine
from selfevo.rundir.inspect import wording_of
from selfevo.trainers.adapters import check_targets

PROMPTS = 20
NEW_TOKENS = 24
# Relative distance of the two largest logits within which rounding may swap them.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    status: Literal["pass", "warn", "fail"]
    finding: str
    remedy: str = ""


def examine(config: RunConfig, engine: Engine | None = None) -> list[Check]:
    """All checks of a configuration. Writes no files. Raises if model, data or layers for adapters are missing."""
    folder, splits = base_of(config), draw_splits(config)
    model = skeleton(folder)  # first, because it gives the clearest error for an unknown model
    if config.trainer.lora:
        check_targets(config.trainer.lora.target_modules, model)
    parameters = count_parameters(model)
    chat, d_meta = Chat(load_tokenizer(folder)), lessons_of(config, splits)
    found = estimate(config, parameters, chat, splits, d_meta)
    engine = engine or build_engine(config.engine)
    return [
        versions(),
        disk(config, folder, parameters),
        memory(config, parameters),
        rows(splits),
        *(corpus(config, splits) if config.corpus else []),
        conversations(chat, splits, config.wording),
        template(chat, d_meta, config.wording),
        stop_token(chat, d_meta, config.wording),
        unknown_tokens(chat, splits, d_meta),
        lengths(config, found.lengths),
        context(config, folder, chat, d_meta),
        *generation(config, folder, chat, splits, engine),
        *([] if config.corpus else [skilled(config, folder, splits, engine)]),
        Check("time", "pass", f"about {found.seconds / 60:.0f} minutes, within a factor of three"),
    ]


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
        verdicts = Check("verdicts", "fail", *fault.split("; ", 1))
    elif len(counts.verdicts) == 1 and counts.rows > 1:
        verdicts = Check("verdicts", "warn", f"all of D_meta: {finding}", remedy)
    else:
        verdicts = Check("verdicts", "pass", finding)
    if (fault := doubt(counts, config.corpus)) is not None:
        return [verdicts, Check("D_meta", "fail", *fault.split("; ", 1))]
    if counts.doubtful or counts.quarantined:
        return [verdicts, Check("D_meta", "warn", str(counts), "correct these rows, or go on with them")]
    return [verdicts, Check("D_meta", "pass", f"verdict and refinement agree in all of {counts.rows} rows")]


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


def generation(config: RunConfig, folder: Path, chat: Chat, splits: Splits, engine: Engine) -> list[Check]:
    """Runs the engine on prompts of the run. Do they fit and end, with the text of transformers?"""
    asked = [*splits.pool, *splits.to_annotate(), *splits.d_meta][:PROMPTS]
    requests = [RESPOND.request(prompt, 0, config.wording) for prompt in asked]
    generations = engine.generate(folder, requests, Sampling(NEW_TOKENS))
    engine.release()
    checks = []
    ended = sum(g.finish == "stop" for g in generations)
    checks.append(
        Check(
            "stop token emitted",
            "pass" if ended else "warn",
            f"the base model ends {ended} of {len(generations)} answers within {NEW_TOKENS} tokens",
            "" if ended else "training teaches it; if answers stay truncated, see the monitors in the report",
        )
    )
    if isinstance(config.engine, OwnPart):
        return [*checks, Check("engine", "pass", f"{config.engine.kind} is your own part and is not compared")]
    fitting = [i for i, g in enumerate(generations) if g.finish != "overlong"]
    dtype, device = config.engine.dtype, getattr(config.engine, "device", "auto")
    pairs = [(requests[i], generations[i]) for i in fitting]
    agreeing = agreement(pick_device(device), dtype, folder, chat, pairs)
    finding = f"{agreeing} of {len(fitting)} greedy answers equal those of transformers, up to rounding"
    if agreeing < 0.9 * len(fitting):
        remedy = "try engine.kind: transformers, engine.dtype: float32, engine.kv_cache_gib: 0, and report it"
        checks.append(Check("engine", "fail", finding, remedy))
    else:
        checks.append(Check("engine", "pass", finding))
    return checks


def skilled(config: RunConfig, folder: Path, splits: Splits, engine: Engine) -> Check:
    """Whether the model criticises its answers with a verdict that can be read. Without a corpus nothing teaches it."""
    wording = config.wording
    if wording_of(folder).learnt != wording.learnt:
        remedy = "give the wording of the run that trained it; it is in the config.yaml of that run"
        return Check("skills", "fail", "the model has learnt the skills in other words than those of `wording`", remedy)
    skills = {name: getattr(config.skills, name).to_sampling() for name in (RESPOND.name, CRITIQUE.name)}
    greedy = {name: replace(each, temperature=0.0, top_p=1.0) for name, each in skills.items()}
    asked = splits.pool[:PROMPTS]
    drafts = engine.generate(folder, [RESPOND.request(prompt, 0, wording) for prompt in asked], greedy[RESPOND.name])
    whole = [RESPOND.build(row, draft.text) for row, draft in zip(asked, drafts, strict=True) if draft.finish == "stop"]
    feedback = engine.generate(folder, [CRITIQUE.request(draft, 0, wording) for draft in whole], greedy[CRITIQUE.name])
    engine.release()
    given = [wording.parse(each.text) for each in feedback if each.finish == "stop"]
    read = sum(verdict is not Verdict.UNKNOWN for verdict in given)
    finding = f"of {len(asked)} answers the model ends {len(whole)}, and gives {read} a verdict that can be read"
    if read == len(asked):
        return Check("skills", "pass", finding)
    remedy = "give a corpus, which teaches the skills, or a model that has learnt them in a run: docs/guides/models.md"
    return Check("skills", "fail" if read < len(asked) / 2 else "warn", finding, remedy)


@torch.inference_mode()
def agreement(
    device: torch.device, dtype_name: str, folder: Path, chat: Chat, pairs: Sequence[tuple[Request, Generation]]
) -> int:
    """The number of answers that equal transformers' own greedy decoding, one prompt at a time.

    Texts may differ from a token on if rounding can swap the two likeliest tokens there.
    """
    quiet()
    dtype = pick_dtype(dtype_name, device)
    model = load_model(folder, dtype).to(device)
    # Without the penalties that a model's generation_config may set; the engine does not use them.
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=chat.stop_ids(model.generation_config.eos_token_id),
        pad_token_id=chat.stop_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    agreeing = 0
    for request, generation in pairs:
        ids = torch.tensor([chat.prompt(request.turns, request.system)], device=device)
        written = model.generate(ids, attention_mask=torch.ones_like(ids))
        tokens = written.sequences[0, ids.shape[1] :].tolist()
        common = next(i for i in range(len(tokens), -1, -1) if generation.text.startswith(chat.text(tokens[:i])))
        if generation.text == chat.text(tokens):
            agreeing += 1
        elif common < len(tokens):
            first, second = written.logits[common][0].float().topk(2).values.tolist()
            agreeing += first - second <= TOLERANCE[dtype] * max(1.0, abs(first))
    del model
    gc.collect()
    return agreeing


def _free_memory() -> int | None:
    """Bytes of memory that are free without swapping. None if the system does not tell."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    fields = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
