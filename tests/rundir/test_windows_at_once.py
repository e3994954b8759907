"""An engine that works on many slices at a time gets several windows, and still the slices of one window at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from runs import MODEL, PROMPTS, open_run, reply, tree
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.protocols import Generation, Request, Sampling
from selfevo.method.skills import RESPOND


class Slices(ScriptedEngine):
    """Notes what it is asked together."""

    def __init__(self, slices_at_once: int) -> None:
        super().__init__(reply, batch_size=3)
        self.slices_at_once, self.together = slices_at_once, list[set[str]]()

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        self.together.append({request.turns[0] for request in requests})
        return super().generate(model, requests, sampling)


@pytest.mark.parametrize("slices_at_once", [2, 5, 100])
def test_the_slices_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slices_at_once: int) -> None:
    for module in ("stage_file", "workspace"):
        monkeypatch.setattr(f"selfevo.rundir.{module}.WINDOW", 8)
    one, many = Slices(0), Slices(slices_at_once)
    for name, engine in (("one", one), ("many", many)):
        open_run(tmp_path / name, engine).runner("round-1", MODEL).generate(RESPOND, PROMPTS)
    assert many.together == one.together
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
