"""Splits of prompts that may not share any."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from itertools import combinations

from selfevo.errors import DataError
from selfevo.method.normal_form import without_unseen
from selfevo.method.records import Prompt


def check_disjoint(*, allow_empty: Collection[str] = (), **sets: Iterable[Prompt]) -> None:
    """Raises DataError when two of the named sets share a prompt, whatever its case, spacing, Unicode form, and
    characters that cannot be seen.

    An empty set is an error too unless `allow_empty` names it: disjointness from nothing would prove nothing.
    """
    contents = {name: {_content(row): row.prompt for row in rows} for name, rows in sets.items()}
    for name, content in contents.items():
        if not content and name not in allow_empty:
            raise DataError(f"the set {name!r} is empty, so nothing can be said about its overlap; give it prompts")
    for (first, left), (second, right) in combinations(contents.items(), 2):
        if shared := left.keys() & right.keys():
            example = left[min(shared)]
            raise DataError(
                f"{first!r} and {second!r} share {len(shared)} prompt{'s' * (len(shared) > 1)}, for example "
                f"{example[:120]!r}; remove them from one of the two"
            )


def asked_otherwise(questions: Iterable[Prompt], rows: Iterable[Prompt]) -> int:
    """How many of `questions` are in `rows` under another system prompt. For check_disjoint these are two prompts."""
    found = {_content(question)[1:] for question in questions}
    there = found & {_content(row)[1:] for row in rows}
    return len(there)


def _content(prompt: Prompt) -> tuple[str, ...]:
    """System prompt and turns as they are seen, NFKC, case folded, white space collapsed: what makes two the same."""
    return tuple(map(_seen, prompt.conversation))


def _seen(text: str) -> str:
    text = unicodedata.normalize("NFKC", without_unseen(text)).casefold()
    return " ".join(unicodedata.normalize("NFKC", text).split())
