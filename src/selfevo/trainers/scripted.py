"""A trainer that learns nothing and records its examples: for tests, and to try a configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfevo.method.protocols import Progress
from selfevo.method.records import Example, as_row


@dataclass(slots=True)
class ScriptedTrainer:
    """Writes a model folder with examples.jsonl. The "weights" are a hash of base and examples.

    `before` is called at the start of each training, for tests that fail or are killed there.
    """

    before: Callable[[Path, Sequence[Example]], None] = lambda base, examples: None
    calls: list[tuple[Path, list[Example]]] = field(default_factory=list)

    def key(self) -> str:
        return "scripted"

    def tokens(self, base: Path, examples: Sequence[Example]) -> int:
        return sum(len(turn.split()) for example in examples for turn in example.turns)

    def train(
        self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, seed: int, progress: Progress
    ) -> dict[str, float]:
        self.before(base, examples)
        self.calls.append((base, list(examples)))
        lines = "".join(json.dumps(as_row(example), ensure_ascii=False) + "\n" for example in examples)
        weights = b"".join(path.read_bytes() for path in sorted(base.glob("*.safetensors"))) + lines.encode()
        (output / "examples.jsonl").write_text(lines, encoding="utf-8")
        (output / "model.safetensors").write_bytes(hashlib.sha256(weights + str(seed).encode()).digest())
        (output / "config.json").write_text("{}", encoding="utf-8")
        progress.start("train", len(examples))
        progress.advance(len(examples))
        progress.finish()
        return {"tokens": float(self.tokens(base, examples))}
