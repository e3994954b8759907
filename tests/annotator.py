"""What the tests of annotators behind a server share: a small run, and a server that annotates well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.records import Refined
from selfevo.pipeline.run import build_d_meta
from selfevo.report.progress import Silent
from selfevo.rundir.atomic_files import read_rows
from server import Answer, completion

CANARY = "sk-canary-0123456789"


def configured(folder: Path, url: str, count: int = 20, *, gold: bool = False, **annotator: Any) -> RunConfig:
    """Prompts "1 + 1?" ..., answered right by the model every other time."""
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    (folder / "pool.jsonl").write_text("".join(json.dumps({"prompt": f"pool {i}"}) + "\n" for i in range(4)))
    (folder / "asked.jsonl").write_text("".join(json.dumps({"prompt": f"ask {i}"}) + "\n" for i in range(count)))
    source: dict[str, Any] = {"prompts": str(folder / "asked.jsonl"), "labels": count}
    if gold:
        source = {"task": {"name": "add-to-each"}, "labels": count, "warmup_share": 0, "samples_per_prompt": 1}
    source["max_one_verdict"] = 1.0  # servers of tests say always the same
    settings = {"model": "m", "base_url": url, "api_key_env": "TEST_API_KEY", "timeout_seconds": 60, **annotator}
    return parse_config(
        {
            "model": str(base),
            "output": str(folder / "run"),
            "prompts": {"path": str(folder / "pool.jsonl")},
            "corpus": {**source, "annotator": settings},
            "rounds": 1,
        },
        "test",
    )


def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda model, turns: f"response to {turns[0]}", batch_size=64)


def build(config: RunConfig) -> list[Refined]:
    return build_d_meta(config, Silent(), engine())[1]


def rows_of(config: RunConfig) -> list[dict[str, Any]]:
    return list(read_rows(config.output / "stages/d_meta/annotate.jsonl"))


def asked(body: dict[str, Any]) -> dict[str, str]:
    content: dict[str, str] = json.loads(body["messages"][-1]["content"])
    return content


def annotation(feedback: str = "It lacks a sum.", verdict: str = "not qualified", refinement: str = "Two.") -> str:
    return json.dumps({"feedback": feedback, "verdict": verdict, "refinement": refinement})


def good(body: dict[str, Any]) -> Answer:
    return completion(annotation(refinement=f"better answer to {asked(body)['instruction']}"))
