"""Run directories of every shape that a report may have to show. Each function writes one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from run_directory import (
    CONFIG,
    HOSTILE,
    judged,
    model,
    results,
    watched,
    write_json,
    write_round,
    write_rows,
    write_run,
)
from selfevo.evaluation.monitors import MEANING
from selfevo.rundir.results import Alarm, GateResults, GateRound, RowCounts, load_results, write_results

BOUNDS = {"min_distinct_2": 0.02, "max_self_bleu": 0.98, "min_yes": 0.01, "max_yes": 0.99}
HOME = "/home/some.person"
JAPANESE = "次の数を小さい順に並べてください。" * 6
ARABIC = "رتّب الأعداد التالية من الأصغر إلى الأكبر: ١٢ ثم 45 ثم ٢٣. " * 4


def write_log(run: Path, name: str, steps: int, **more: float) -> None:
    """The log of a training that goes well, with one spike of the gradient."""
    rows = [
        {
            "step": step,
            "loss": 2.5 * math.exp(-3 * step / steps) + 0.1,
            "learning_rate": 4e-4 * (1 - step / (steps + 1)),
            "grad_norm": 30.0 if step == steps // 2 else 1.5,
            "epoch": step / steps,
            **({key: value * (1 - step / (2 * steps)) for key, value in more.items()} if step % 5 == 0 else {}),
        }
        for step in range(1, steps + 1)
    ]
    folder = run / "models" / name
    if not folder.exists():
        write_json(folder / "selfevo.json", {"name": name, "start": "meta", "examples": {"self": 13}, "seconds": 9.0})
    write_rows(folder / "training.jsonl", rows)


def plain(run: Path) -> None:
    write_run(run)
    write_log(run, "meta", 40, eval_loss=2.0)
    write_log(run, "round-2", 3)


def begun(run: Path) -> None:
    write_json(run / "config.json", {"model": "tiny/base"})


def unmeasured(run: Path) -> None:
    write_run(run)
    write_json(run / "config.json", {**CONFIG, "evaluation": None})
    write_results(run, results(rounds=[watched("round-1"), watched("round-2")]))


def one_round(run: Path) -> None:
    write_run(run)
    write_json(run / "config.json", {**CONFIG, "rounds": 1})
    write_results(run, results(model("base", 0), model("round-1", 12, gained=3), rounds=[watched("round-1")]))


def twelve_rounds(run: Path) -> None:
    """With everything that a run can have: gate, monitors, alarms, costs, logs."""
    write_run(run)
    names = [f"round-{i}" for i in range(1, 13)]
    write_json(run / "config.json", {**CONFIG, "rounds": 12})
    figures = dict.fromkeys(MEANING, 0.5) | {"mean_length": 1234.5, "yes": 1.0, "self_bleu": None}
    compared = [
        GateRound(
            a=name,
            b="meta",
            mode="direct",
            difference=0.02,
            ci=(-0.05, 0.09),
            gained=10,
            lost=16,
            p_value=0.3,
            promoted=i % 2 == 0,
        )
        for i, name in enumerate(names)
    ]
    finding = (
        "verdict yes 1.000, above 0.99: the verdicts on r and r^ carry no information: they are nearly always the same"
    )
    alarm = {
        "kind": "monitor",
        "finding": finding,
        "remedy": "compare some rows of the round with the verdicts of D_meta",
    }
    models = [model("base", 3), model("sft", 166), model("meta", 160, gained=12, lost=4)]
    models += [model(name, 170 + 10 * i, gained=9, lost=5) for i, name in enumerate(names)]
    measured = results(*models, rounds=[watched(name).model_copy(update={"monitors": figures}) for name in names])
    more: dict[str, Any] = {
        "bounds": BOUNDS,
        "gate": GateResults(alpha=0.05, patience=2, best="round-12", rounds=tuple(compared)),
        "alarms": tuple(Alarm.model_validate({**alarm, "place": name}) for name in names),
        "groups": {
            "kind": {f"kind-{i}": "1" * 300 for i in range(57)} | {"counting_and_probability:hard": "1" * 300},
            "difficulty": {f"{i} steps": "1" * 300 for i in range(3)},
        },
        "stopped": "round-12 is not significantly better than meta",
    }
    write_results(run, measured.model_copy(update=more))
    events: list[dict[str, Any]] = []
    for name in names:
        write_round(run, name, [judged(i, kept=i % 3 > 0, changed=i % 2 > 0) for i in range(1, 20)], [])
        write_log(run, name, 1000)
        for stage in ("respond", "critique", "refine", "judge"):
            event = {"event": "generate", "seconds": 4321.5, "prompt_tokens": 12345678, "new_tokens": 23456789}
            events.append({**event, "stage": f"{name}/{stage}"})
    write_rows(
        run / "events.jsonl",
        [*events, {"event": "annotate", "stage": "d_meta/annotate", "seconds": 9, "dollars": 1234.5}],
    )


def nothing_kept(run: Path) -> None:
    write_run(run)
    write_round(run, "round-1", [judged(i, kept=False, changed=True) for i in range(1, 5)], [])
    found = load_results(run)
    rows = RowCounts(kept=0, rejected=4, quarantined=0)
    first = found.rounds[0].model_copy(update={"rows": rows, "audit": None})
    finding = "it kept none of its 4 rows (4 verdict not qualified), so no answer of the model was learnt from"
    remedy = "compare stages/round-1/filter.jsonl with D_meta, or choose another filter: docs/guides/filters.md"
    alarm = Alarm(kind="empty round", place="round-1", finding=finding, remedy=remedy)
    write_results(run, found.model_copy(update={"rounds": (first,), "models": found.models[:4], "alarms": (alarm,)}))


def no_rows(run: Path) -> None:
    write_run(run)
    for name in ("round-1", "round-2"):
        write_round(run, name, [], [])
    write_rows(run / "data" / "d_meta.jsonl", [])
    write_results(run, results(model("base", 0, n=0), n=0))
    write_rows(run / "models" / "meta" / "training.jsonl", [])


def long_texts(run: Path) -> None:
    """Long prompts, long words, long names of kinds and models, and numbers that do not end."""
    write_run(run)
    long, word = "Please sort all of these numbers, slowly. " * 400, "w" * 3000
    rows = [judged(1, kept=True, changed=True, prompt=long, response=word, feedback=long, refinement=long)]
    rows += [{**judged(2, kept=False, changed=True, prompt=word), "reason": f"{word} {long[:300]}"}]
    write_round(run, "round-1", rows, [{"id": "f", "prompt": word, "response": long}])
    found = load_results(run)
    kinds = {word[:200]: "1" * 300, long[:300]: "1" * 300}
    alarm = Alarm(kind="monitor", place="round-1", finding=f"{long[:400]} {word[:300]}", remedy=word[:300])
    renamed = tuple(each.model_copy(update={"name": f"{each.name}-{word[:100]}"}) for each in found.models)
    write_results(run, found.model_copy(update={"groups": {"kind": kinds}, "alarms": (alarm,), "models": renamed}))


def scripts(run: Path) -> None:
    """Japanese, Arabic from right to left, and both in one text; with system prompt and earlier turns."""
    write_run(run)
    context: dict[str, Any] = {"system": JAPANESE, "history": [ARABIC, JAPANESE]}
    texts = dict.fromkeys(("prompt", "response", "feedback", "refinement", "judgement"), JAPANESE)
    rows = [judged(1, kept=True, changed=True, **texts) | context]
    rows += [judged(2, kept=False, changed=True, **dict.fromkeys(texts, ARABIC))]
    rows += [judged(3, kept=True, changed=True, **dict.fromkeys(texts, f"{ARABIC}\n{JAPANESE}\nSort 3 1 2 \U0001f642"))]
    for name in ("round-1", "round-2"):
        write_round(run, name, rows, [{"id": "f", "prompt": ARABIC, "response": ARABIC}])
    found = load_results(run)
    kinds = {"並べ替え": "1" * 300, "ترتيب الأعداد": "1" * 300}
    alarm = Alarm(kind="annotation", place="d_meta", finding=f"注釈できない行: {ARABIC}", remedy="見直してください")
    write_results(run, found.model_copy(update={"groups": {"kind": kinds}, "alarms": (alarm,), "task": "並べ替え"}))


def listed_rounds(run: Path) -> None:
    """A list of rounds, and paths in a home folder."""
    write_run(run)
    listed = [
        {"prompts": {"path": f"{HOME}/data/pool.jsonl", "split": "train", "count": 1200}, "self_instruct": None},
        {"prompts": {"task": {"name": "gsm8k", "path": f"{HOME}/gsm8k.jsonl", "options": {}}, "count": None}},
        {"prompts": None, "self_instruct": {"count": 400, "temperature": 1.0}},
    ]
    paths = {
        "model": f"{HOME}/models/base-135m",
        "output": str(run),
        "corpus": {"path": str(run.parent / "d_meta.jsonl")},
    }
    write_json(run / "config.json", {**CONFIG, **paths, "rounds": listed})
    rows = [{**judged(1, kept=False, changed=True), "reason": f"my filter cannot read {HOME}/words.txt"}]
    write_round(run, "round-1", rows, [])


def hostile(run: Path) -> None:
    write_run(run)
    texts = dict.fromkeys(("prompt", "response", "feedback", "judgement"), HOSTILE)
    rows = [judged(1, kept=True, changed=True, **texts, refinement=HOSTILE + "!")]
    rows += [{**judged(2, kept=False, changed=True, **texts, refinement=HOSTILE), "reason": HOSTILE}]
    write_round(run, "round-1", rows, [{"id": "f", "prompt": HOSTILE, "response": HOSTILE}])
    write_rows(run / "data" / "d_meta.jsonl", [{k: v for k, v in rows[0].items() if k != "judgement"}])
    listed = [{"prompts": {"path": HOSTILE}}]
    write_json(run / "config.json", {**CONFIG, "model": HOSTILE, "policy": HOSTILE, "rounds": listed})
    write_json(run / "models/meta/selfevo.json", {"name": HOSTILE, "start": HOSTILE, "examples": {}, "seconds": 9.0})
    write_rows(run / "models/meta/training.jsonl", [{"step": 1, "loss": 1.0}])
    found = load_results(run)
    first = found.models[0].model_copy(update={"name": HOSTILE})
    alarm = Alarm(kind="monitor", place=HOSTILE, finding=HOSTILE, remedy=HOSTILE)
    more: dict[str, Any] = {"task": HOSTILE, "models": (first, *found.models[1:]), "alarms": (alarm,)}
    write_results(run, found.model_copy(update={**more, "groups": {"kind": {HOSTILE: "1" * 300}}}))


SHAPES: dict[str, Callable[[Path], None]] = {
    write.__name__: write
    for write in (
        *(plain, begun, unmeasured, one_round, twelve_rounds, nothing_kept, no_rows),
        *(long_texts, scripts, listed_rounds, hostile),
    )
}
