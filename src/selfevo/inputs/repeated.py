"""Prompts that are asked several times in a round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from selfevo.method.records import Prompt, content_id
from selfevo.method.rows import Rows


@dataclass(frozen=True, slots=True)
class Repeated:
    """Each prompt several times in a row. Each copy has its own id, and so its own seed."""

    prompts: Rows[Prompt]
    times: int

    def __len__(self) -> int:
        return self.times * len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        for prompt in self.prompts:
            yield prompt
            for number in range(1, self.times):
                yield replace(prompt, id=content_id(prompt.id, number))
