"""Prompts that grow: the current model writes new ones from examples (self-instruct, arXiv 2212.10560).

Every proposal stays on disk with its reason: kept, not an instruction, too short or long, another script than the
seeds, a duplicate or nearly one (MinHash over 5 letters in a row, or 2 characters of a script without spaces), or too
near to an evaluation set (decontamination).
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfevo.config.sources import SelfInstructConfig
from selfevo.errors import DataError, MissingExtraError
from selfevo.inputs.decontamination import UNSPACED, Decontaminator, is_unspaced, normal
from selfevo.method.normal_form import without_unseen
from selfevo.method.prompts import Wording
from selfevo.method.protocols import Model
from selfevo.method.records import Prompt, as_row, content_id
from selfevo.method.skills import RESPOND
from selfevo.method.thinking import without_thinking
from selfevo.rundir.atomic_files import read_counts, read_rows, write_done
from selfevo.rundir.layout import done
from selfevo.rundir.workspace import Stored, Workspace

_PERMUTATIONS = 128


def grow(
    workspace: Workspace,
    name: str,
    model: Model,
    seeds: Sequence[Prompt],
    blocked: Decontaminator,
    config: SelfInstructConfig,
) -> Stored[Prompt]:
    """`config.count` new prompts by `model`, or as many as pass. Raises DataError when none does.

    `seeds` are shown as examples, a few at a time, and may not be repeated.
    """
    path = workspace.layout.filtered(name)
    marker = done(path)
    if not marker.exists():
        _propose(workspace, name, model, seeds, blocked, config, path)
    kept = read_counts(marker)["kept"]
    if not kept:
        reasons = Counter(row["reason"] for row in read_rows(path))
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise DataError(
            f"{name}: none of {reasons.total()} prompts that {model.name} wrote can be used ({listed}); see {path}; "
            "raise self_instruct.tries, or give the round prompts"
        )
    return Stored(path, Prompt, kept, ("kept", True))


def _propose(
    workspace: Workspace,
    name: str,
    model: Model,
    seeds: Sequence[Prompt],
    blocked: Decontaminator,
    config: SelfInstructConfig,
    path: Path,
) -> None:
    dice = random.Random(content_id(workspace.seed, name, model.id))
    alike: dict[str, list[Prompt]] = {}  # examples have one system prompt, and the new prompt is asked under it too
    for seed in seeds:
        alike.setdefault(seed.system, []).append(seed)
    requests: dict[str, Prompt] = {}
    systems: dict[str, str] = {}
    for _ in range(config.tries or 2 * config.count):
        system = dice.choice(seeds).system if len(alike) > 1 else seeds[0].system
        shown = dice.sample(alike[system], min(config.examples, len(alike[system])))
        asked = Prompt.of(request(shown, workspace.wording))
        asked = replace(asked, id=content_id(asked.id, system)) if system else asked
        requests[asked.id], systems[asked.id] = asked, system
    sampling = replace(workspace.sampling[RESPOND.name], temperature=config.temperature)
    drafted = workspace.runner(name, model, {RESPOND.name: sampling}).generate(RESPOND, list(requests.values()))
    accept = Acceptance(config, seeds, blocked)
    counts = {"in": 0, "kept": 0, "rejected": 0}

    def lines() -> Iterator[str]:
        for draft in drafted:
            prompt = Prompt.of(first_instruction(draft.response), system=systems[draft.id])
            reason = (
                "not needed any more" if counts["kept"] == config.count else accept.reason(prompt.prompt, prompt.system)
            )
            counts["in"] += 1
            counts["rejected" if reason else "kept"] += 1
            yield json.dumps({**as_row(prompt), "kept": reason is None, "reason": reason}, ensure_ascii=False)

    write_done(path, lines(), lambda: {"rows": counts})


def opening(prompt: Prompt) -> str:
    """The first user turn: a task that can be read without the turns before it."""
    return (*prompt.history, prompt.prompt)[0]


def request(examples: Sequence[Prompt], wording: Wording) -> str:
    """What the model is asked with."""
    listed = "\n".join(f"{number}. {opening(example)}" for number, example in enumerate(examples, start=1))
    if wording.new_prompt:
        return wording.new_prompt.replace("{examples}", listed)
    return f"Here are {len(examples)} tasks:\n{listed}\nWrite one new task of the same kind. Write only the task."


_TASK = r"(?:task|instruction|question|problem|prompt|exercise|example)"
_MARKS = r"[#*_`>\"“\s]*"
# What a model says before the task it was asked for: a number, a label, or that a task follows.
_PREAMBLE = re.compile(
    rf"{_MARKS}(?:"
    r"[-\u2022]\s|\d+[.)]\s|[*+]\s"
    r"|(?:sure(?: thing)?|certainly|of course|okay|ok|absolutely|great|alright|yes|got it|no problem)\s*"
    r"(?:[!.:\u2014]+|,(?=\s*(?:here|i )))"
    rf"|here(?:'s|\u2019s| is| are)\b[^:\n]{{0,40}}\b{_TASK}\b[^:.\n]{{0,40}}(?::|\.?\s*$)"
    rf"|(?:(?:my |the |a )?(?:new|next|proposed) {_TASK}|(?:task|instruction|prompt)s?)\s*\d*\s*[*_]*\s*(?::|$)"
    r"|(?:好的|当然(?:可以)?|沒問題|没问题|當然)\s*[,，!！。：:]+|(?:这是|以下是|下面是|這是)[^：:\n]{0,30}[：:]"
    r"|(?:新的?)?(?:任务|题目|问题|任務|題目|問題|指令)\s*\d*\s*[：:]"
    r"|(?:はい|もちろん(?:です)?|承知しました|わかりました)\s*[、,。!！]+|(?:以下|こちら|これ)[^：:\n]{0,30}[：:]"
    r"|(?:新しい)?(?:タスク|課題|問題)\s*\d*\s*[：:]"
    r"|(?:แน่นอน|ได้เลย)\s*[!,.]*(?=\s|$)|(?:นี่คือ|โจทย์)[^:\n]{0,30}:"
    r")\s*",
    re.IGNORECASE,
)


def first_instruction(text: str) -> str:
    """The first line that says something, without thinking, the number or the label it may carry, and what announces
    it ("Sure! Here is a new task:")."""
    for line in without_thinking(text).split("\n"):
        while (match := _PREAMBLE.match(line)) and match.end():
            line = line[match.end() :]
        line = re.sub(r"^#+\s+", "", line.strip()).strip()
        for quotes in ("**", "__", "`", '""', "“”"):
            if len(line) > 2 * len(quotes) and line.startswith(quotes[:1]) and line.endswith(quotes[-1:]):
                line = _unquoted(line, quotes)
        if line and not set(line) <= set('#*_`-=<>|"“” '):
            return line
    return ""


def _unquoted(line: str, quotes: str) -> str:
    """Without marks around the whole line: ** twice on each side, or one quotation mark."""
    left, right = (quotes, quotes) if quotes[0] in "*_`" else (quotes[0], quotes[-1])
    inner = line.removeprefix(left).removesuffix(right)
    whole = line.startswith(left) and line.endswith(right) and left not in inner and right not in inner
    return inner.strip() if whole else line


@dataclass(slots=True)
class Acceptance:
    """Whether a proposed prompt is taken, one after the other: what was taken counts against the next."""

    config: SelfInstructConfig
    seeds: Sequence[Prompt]
    blocked: Decontaminator
    _seen: set[tuple[str, str]] = field(init=False)  # system prompt and text
    _scripts: frozenset[str] = field(init=False)
    _index: Any = field(init=False)

    def __post_init__(self) -> None:
        try:
            from datasketch import MinHashLSH
        except ImportError:
            raise MissingExtraError(
                "self_instruct finds near duplicates with datasketch; run: pip install 'selfevo[self-instruct]'"
            ) from None
        self._seen, self._scripts = set(), frozenset()
        self._index = MinHashLSH(threshold=self.config.max_similarity, num_perm=_PERMUTATIONS)
        for seed in self.seeds:
            self._take(opening(seed), seed.system)
            self._scripts |= scripts(opening(seed))

    def reason(self, text: str, system: str = "") -> str | None:
        """Why `text` is not taken; None if it is. Under another system prompt it is another prompt."""
        words = count_words(text)
        if not any(character.isalnum() for character in text):
            return "no instruction"
        if not self.config.min_words <= words <= self.config.max_words:
            return "too short" if words < self.config.min_words else "too long"
        if foreign := self._foreign(text):
            return f"another script: {min(foreign)}"
        if (system, " ".join(normal(text))) in self._seen:
            return "duplicate"
        if any(other == system for other, _ in self._index.query(_minhash(text))):
            return "near duplicate"
        if reason := self.blocked.reason(text):
            return reason
        self._take(text, system)
        return None

    def _foreign(self, text: str) -> frozenset[str]:
        foreign = scripts(text) - self._scripts
        if "KANA" in self._scripts:  # Japanese, whose children's books have no signs
            foreign -= {"CJK"}
        if "LATIN" in foreign:  # a name, a unit or a variable, as it stands in all scripts
            units = normal(text)
            if 2 * sum("LATIN" in scripts(unit) for unit in units) <= len(units):
                foreign -= {"LATIN"}
        return foreign

    def _take(self, text: str, system: str) -> None:
        key = (system, " ".join(normal(text)))
        if key not in self._seen:
            self._seen.add(key)
            self._index.insert(key, _minhash(text), check_duplication=False)


def count_words(text: str) -> int:
    """Words between spaces; in a script without spaces each character counts."""
    return sum(max(1, len(UNSPACED.findall(word))) for word in text.split())


def scripts(text: str) -> frozenset[str]:
    """The writing systems of its letters, by the first word of their Unicode names: LATIN, CYRILLIC, CJK, KANA, ...

    A Greek or Hebrew letter or two by themselves are mathematics, and no script.
    """
    text = re.sub(
        r"(?<![\u0370-\u03ff\u1f00-\u1fff])[\u0370-\u03ff]{1,2}(?![\u0370-\u03ff\u1f00-\u1fff])", " ", _shown(text)
    )
    text = re.sub(r"(?<![\u05d0-\u05ea])[\u05d0-\u05ea](?![\u05d0-\u05ea])", " ", text)
    names = {
        unicodedata.name(letter, "UNKNOWN").split()[0] for letter in text if unicodedata.category(letter) in _CASES
    }
    return frozenset("KANA" if name in ("HIRAGANA", "KATAKANA") else name for name in names)


_CASES = ("Lu", "Ll", "Lt", "Lo")  # not Lm: modifiers stand beside letters of any script


def _shown(text: str) -> str:
    return unicodedata.normalize("NFKC", without_unseen(text))


def _minhash(text: str) -> Any:
    from datasketch import MinHash

    units = normal(text)
    # 5 letters are about a word, and so are 2 characters of a script without spaces.
    joined, size = ("".join(units), 2) if is_unspaced(units) else (" ".join(units), 5)
    found = MinHash(num_perm=_PERMUTATIONS, seed=1)
    found.update_batch([joined[i : i + size].encode() for i in range(max(1, len(joined) - size + 1))])
    return found
