"""Prompts that grow: the current model writes new ones from examples (self-instruct, arXiv 2212.10560).

Every proposal stays on disk with its reason: kept, not an instruction, too short or long, another script than the
seeds, a duplicate or nearly one (MinHash over character 5-grams), or too near to an evaluation set (decontamination).
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
from selfevo.inputs.decontamination import Decontaminator, normal
from selfevo.method.protocols import Model
from selfevo.method.records import Prompt, as_row, content_id
from selfevo.method.skills import RESPOND
from selfevo.rundir.atomic_files import read_marker, read_rows, write_done
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
    kept = read_marker(marker)["rows"]["kept"]
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
    shown = min(config.examples, len(seeds))
    tries = config.tries or 2 * config.count
    requests = {(p := Prompt.of(request(dice.sample(seeds, shown)))).id: p for _ in range(tries)}
    sampling = replace(workspace.sampling[RESPOND.name], temperature=config.temperature)
    drafted = workspace.runner(name, model, {RESPOND.name: sampling}).generate(RESPOND, list(requests.values()))
    accept = Acceptance(config, seeds, blocked)
    counts = {"in": 0, "kept": 0, "rejected": 0}

    def lines() -> Iterator[str]:
        for draft in drafted:
            prompt = Prompt.of(first_instruction(draft.response))
            reason = "not needed any more" if counts["kept"] == config.count else accept.reason(prompt.prompt)
            counts["in"] += 1
            counts["rejected" if reason else "kept"] += 1
            yield json.dumps({**as_row(prompt), "kept": reason is None, "reason": reason}, ensure_ascii=False)

    write_done(path, lines(), lambda: {"rows": counts})


def request(examples: Sequence[Prompt]) -> str:
    """What the model is asked with."""
    listed = "\n".join(f"{number}. {example.prompt}" for number, example in enumerate(examples, start=1))
    return f"Here are {len(examples)} tasks:\n{listed}\nWrite one new task of the same kind. Write only the task."


def first_instruction(text: str) -> str:
    """The first line that says something, without the number or the label it may carry."""
    for line in text.split("\n"):
        line = re.sub(r"^\s*(?:[-*]\s|\d+[.)]\s|(?:new )?task\s*\d*\s*:)\s*", "", line, flags=re.IGNORECASE).strip()
        if line:
            return line
    return ""


@dataclass(slots=True)
class Acceptance:
    """Whether a proposed prompt is taken, one after the other: what was taken counts against the next."""

    config: SelfInstructConfig
    seeds: Sequence[Prompt]
    blocked: Decontaminator
    _seen: set[str] = field(init=False)
    _scripts: frozenset[str] = field(init=False)
    _index: Any = field(init=False)

    def __post_init__(self) -> None:
        try:
            from datasketch import MinHashLSH
        except ImportError:
            raise MissingExtraError(
                "self_instruct finds near duplicates with datasketch; run: pip install 'selfevo[self-instruct]'"
            ) from None
        self._seen, self._scripts = set(), frozenset[str]()
        self._index = MinHashLSH(threshold=self.config.max_similarity, num_perm=_PERMUTATIONS)
        for seed in self.seeds:
            self._take(seed.prompt)
            self._scripts |= scripts(seed.prompt)

    def reason(self, text: str) -> str | None:
        """Why `text` is not taken; None if it is."""
        words = len(text.split())
        if not any(character.isalnum() for character in text):
            return "no instruction"
        if not self.config.min_words <= words <= self.config.max_words:
            return "too short" if words < self.config.min_words else "too long"
        if foreign := scripts(text) - self._scripts:
            return f"another script: {min(foreign)}"
        if " ".join(normal(text)) in self._seen:
            return "duplicate"
        if self._index.query(_minhash(text)):
            return "near duplicate"
        if reason := self.blocked.reason(text):
            return reason
        self._take(text)
        return None

    def _take(self, text: str) -> None:
        key = " ".join(normal(text))
        if key not in self._seen:
            self._seen.add(key)
            self._index.insert(key, _minhash(text), check_duplication=False)


def scripts(text: str) -> frozenset[str]:
    """The writing systems of its letters, by the first word of their Unicode names: LATIN, CYRILLIC, CJK, ..."""
    return frozenset(unicodedata.name(letter, "UNKNOWN").split()[0] for letter in text if letter.isalpha())


def _minhash(text: str) -> Any:
    from datasketch import MinHash

    joined = " ".join(normal(text))
    found = MinHash(num_perm=_PERMUTATIONS, seed=1)
    found.update_batch([joined[i : i + 5].encode() for i in range(max(1, len(joined) - 4))])
    return found
