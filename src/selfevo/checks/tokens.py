"""Checks of the chat template and the tokenizer: what is trained is what is asked, and no text is lost on the way."""

from __future__ import annotations

from collections.abc import Sequence

from selfevo.checks.check import Check
from selfevo.errors import DataError
from selfevo.inputs.splits import Splits
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.records import Example, Refined
from selfevo.method.skills import RESPOND
from selfevo.method.thinking import Thinking
from selfevo.method.training_examples import meta_examples
from selfevo.models.chat_template import Chat, messages

PROMPTS = 20


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


def template(chat: Chat, d_meta: Sequence[Refined], wording: Wording = ENGLISH, thinking: Thinking = "drop") -> Check:
    """Whether the first token behind the prompt of every skill is the answer's first, and what the template does."""
    name = "chat template"
    if thinking == "keep" and chat.has_channels:
        finding = f"it has {chat.between!r} between thinking and answer, and thinking in channels cannot be trained"
        return Check(name, "fail", finding, "set thinking to drop or show instead of keep")
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
