"""New prompts are asked for in the words of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runs import MODEL, open_run
from selfevo.config.sources import SelfInstructConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.inputs.decontamination import Decontaminator
from selfevo.inputs.self_instruct import grow, request
from selfevo.method.prompts import Wording
from selfevo.method.records import Prompt

WORDING = Wording(new_prompt="Aufgaben:\n{examples}\nSchreibe eine neue.")
SEEDS = [Prompt.of("Was wiegt ein Wal?"), Prompt.of("Wie heißt {examples}?")]


def test_the_examples_stand_where_the_wording_says() -> None:
    assert request(SEEDS, WORDING) == (
        "Aufgaben:\n1. Was wiegt ein Wal?\n2. Wie heißt {examples}?\nSchreibe eine neue."
    )


def test_a_run_asks_in_them(root: Path) -> None:
    engine = ScriptedEngine(lambda path, turns: "Wie hoch ist der Turm von Ulm?")
    workspace = replace(open_run(root, engine), wording=WORDING)
    [grown] = grow(workspace, "self-instruct-2", MODEL, SEEDS, Decontaminator([]), SelfInstructConfig(count=1))
    assert grown.prompt == "Wie hoch ist der Turm von Ulm?"
    assert {asked.turns[0].partition("\n")[0] for _, asked in engine.calls} == {"Aufgaben:"}
