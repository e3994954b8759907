"""The check of `selfevo doctor` that runs the engine, and compares it with transformers."""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from selfevo.checks.check import Check
from selfevo.checks.remembered import fingerprint, remembered
from selfevo.checks.tokens import PROMPTS
from selfevo.config.base import OwnPart
from selfevo.config.run_config import RunConfig
from selfevo.inputs.splits import Splits
from selfevo.method.protocols import Engine, Generation, Request, Sampling
from selfevo.method.skills import CRITIQUE, RESPOND
from selfevo.method.verdicts import Verdict
from selfevo.models.chat_template import Chat
from selfevo.models.device import pick_device, pick_dtype, quiet
from selfevo.models.loading import load_model
from selfevo.pipeline.build import build_engine, describe_platform
from selfevo.rundir.inspect import wording_of

NEW_TOKENS = 24
# Relative distance of the two largest logits within which rounding may swap them.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def generation(
    config: RunConfig, folder: Path, chat: Chat, splits: Splits, engine: Engine | None = None
) -> list[Check]:
    """Runs the engine on prompts of the run. Do they fit and end, with the text of transformers?

    This takes longest, so it is remembered for the same model, engine, versions and prompts.
    """
    asked = [*splits.pool, *splits.to_annotate(), *splits.d_meta][:PROMPTS]
    requests = [RESPOND.request(prompt, 0, config.wording) for prompt in asked]

    def generate() -> list[Check]:
        return _generation(config, folder, chat, requests, engine or build_engine(config.engine, config.cluster))

    if engine is not None or isinstance(config.engine, OwnPart):
        return generate()
    question = {
        "model": (str(folder), fingerprint(folder)),
        "engine": config.engine.model_dump(mode="json"),
        "cluster": config.cluster.model_dump(mode="json") if config.engine.workers else None,
        "requests": [(request.turns, request.system) for request in requests],
        "selfevo": importlib.metadata.version("selfevo"),
        "platform": describe_platform(),
    }
    return [Check(**check) for check in remembered(question, lambda: [asdict(check) for check in generate()])]


def _generation(
    config: RunConfig, folder: Path, chat: Chat, requests: Sequence[Request], engine: Engine
) -> list[Check]:
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
        asked = chat.prompt(request.turns, request.system)
        if _is_greedy(model, asked, _tokens(chat, generation)):
            agreeing += 1
            continue
        ids = torch.tensor([asked], device=device)
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


def _tokens(chat: Chat, generation: Generation) -> list[int]:
    """The tokens of a text, if it is clear which they were; else none."""
    tokens = chat.words(generation.text)
    if generation.finish == "stop":
        return [*tokens, chat.stop_id]
    return tokens if len(tokens) == NEW_TOKENS else []


def _is_greedy(model: Any, prompt: list[int], tokens: list[int]) -> bool:
    """Whether each token is the likeliest one behind those before it. One pass of the model, not one a token."""
    if not tokens:
        return False
    ids = torch.tensor([[*prompt, *tokens]], device=model.device)
    likeliest = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].argmax(-1)
    return bool(likeliest.tolist() == tokens)
