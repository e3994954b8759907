"""The report of a run: report.html, one page that needs no network. The same run gives the same bytes.

Only files of the run are read. Model text is not trusted: the template escapes everything, and the
page's content security policy forbids scripts and network. Home folders and user names are left out
of all that the run itself says (privacy.py), because people share the page.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, UndefinedError

from selfevo.errors import RunError
from selfevo.method.names import META, SFT
from selfevo.method.prompts import Wording
from selfevo.method.skills import SKILLS
from selfevo.report import curves, page_tables
from selfevo.report.chart import draw
from selfevo.report.model_card import TERMS, asked
from selfevo.report.privacy import shareable
from selfevo.report.symbols import Symbols
from selfevo.report.wording import FINISHES, cut, duration, number, summarise
from selfevo.rundir.atomic_files import MODEL_MARKER, read_marker, read_rows, write_atomic
from selfevo.rundir.inspect import costs, is_run, read_wording
from selfevo.rundir.layout import Layout
from selfevo.rundir.ownership import check_format
from selfevo.rundir.results import Alarm, read_results

SAMPLES = {"kept, refined": 3, "kept, unchanged": 2, "rejected": 3, "quarantined": 2}
LONGEST_TEXT = 6000
STEPS = {
    "prompt": ("p", "prompt"),
    "response": ("r", "first response"),
    "feedback": ("f", "feedback on r"),
    "refinement": ("r^", "refinement"),
    "judgement": ("v", "feedback on r^, whose verdict decides"),
}
POLICIES = {
    "restart": "each round trains the base model again, on all rows kept so far",
    "continual-mixed": "each round trains the model of the round before, on all rows kept so far",
    "continual-latest": "each round trains the model of the round before, on its own rows alone",
}
CONTEXT = ("system", "history", "prompt")


@dataclass(frozen=True, slots=True)
class Step:
    """One text of a trajectory. `omitted` is the number of characters not shown."""

    symbol: str
    label: str
    text: str
    omitted: int = 0
    verdict: str | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One row of a round: its texts, and whether it was kept, rejected or quarantined."""

    group: str
    headline: str
    reason: str | None
    steps: list[Step]


@dataclass(slots=True)
class Round:
    """The rows of one round, counted from its files: rows_in = kept + rejected + quarantined."""

    name: str
    rows_in: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    trajectories: list[Trajectory] = field(default_factory=list)


def write_report(run: Path) -> Path:
    """Writes `run`/report.html from the current files of the run. Returns its path.

    Raises RunError if `run` is not a run directory or one of its JSON files is damaged.
    """
    layout = Layout(run)
    if not layout.config.is_file():
        raise RunError(f"{run} holds no config.json, so it is not a selfevo run; give the folder of one")
    if layout.manifest.is_file():
        check_format(run)
    found = [read_marker(path) if path.is_file() else {} for path in (layout.config, layout.manifest)]
    place = Path(found[0].get("output", ""))
    place = place if place.is_absolute() else run.resolve()
    config, manifest = (shareable(each, place) for each in found)
    results, wording = read_results(run), read_wording(layout.config)
    rounds = [_read_round(run, path, wording) for path in layout.rounds()]
    folders = layout.finished_models()
    models = [read_marker(path / MODEL_MARKER, name=str, examples=dict) for path in folders]
    answers = {model["name"]: model["examples"].get("answer", 0) for model in models}
    logs = [list(_rows(path / "training.jsonl")) for path in folders]
    evaluation, ablation = config.get("evaluation") or {}, config.get("ablation") or {}
    filters = [str(each.get("kind", each) if isinstance(each, dict) else each) for each in config.get("filter", [])]
    if ablation.get("gold_filter"):
        filters.append("gold answers instead of the filters that judge (ablation)")
    listed = config["rounds"] if isinstance(config.get("rounds"), list) else []
    audits = {each.name: each.audit for each in results.rounds if each.audit} if results else {}
    watched = [each for each in results.rounds if each.monitors] if results else []
    spent = costs(run) if is_run(run) else {}
    summary = summarise(
        results,
        rounds,
        [model["name"] for model in models],
        evaluated=bool(evaluation),
        sft_labels=ablation.get("sft_labels"),
    )
    if results and results.stopped:
        summary.append(f"The rounds ended before their number: {shareable(results.stopped, place)}.")
    page = _render(
        layout.results,
        folder=run.resolve().name,
        config=config,
        manifest={name: value for name, value in manifest.items() if name != "costs"},
        alarms=shareable([_alarm(each) for each in results.alarms], place) if results else [],
        results=results,
        symbols=Symbols(),
        summary=summary,
        facts={
            "Base model": config.get("model"),
            "Task": (shareable(results.task, place) if results else None) or evaluation.get("task", {}).get("name"),
            "Rounds": len(listed) or config.get("rounds"),
            "Policy": config.get("policy"),
            "Filter": ", ".join(filters),
            "beta": config.get("beta"),
            "Seed": config.get("seed"),
            "Total time": duration(results.seconds if results else None),
        },
        policy=POLICIES.get(str(config.get("policy"))),
        judged=page_tables.judged(results) if results and results.judge else None,
        chart=draw(results.models) if results and results.models else None,
        models=page_tables.models(results) if results and results.models else None,
        comparisons=page_tables.comparisons(results.comparisons) if results and results.comparisons else None,
        splits=page_tables.splits(results) if results else {},
        rounds=rounds,
        filtered=page_tables.rounds(rounds) if rounds else None,
        audited=page_tables.audits(audits) if audits else None,
        gate=results.gate if results else None,
        compared=page_tables.gate(results.gate) if results and results.gate else None,
        monitored=page_tables.monitors(watched, results.bounds) if results and watched else None,
        trained=page_tables.trainings(models) if models else None,
        repeated=answers.get(SFT, 0) > answers.get(META, math.inf),
        terms={term: TERMS.get(term, "") for term in sorted({each for model in models for each in model["examples"]})},
        curves=[drawn for model, log in zip(models, logs, strict=True) if (drawn := curves.draw(model["name"], log))],
        sources=page_tables.sources(listed) if listed else None,
        total=page_tables.costs({"total": spent["total"]}) if spent else None,
        costs=page_tables.costs({name: cost for name, cost in spent.items() if name != "total"}) if spent else None,
        corpus=_read_corpus(layout.data("d_meta"), wording),
        steps=page_tables.STEPS,
        asked=asked(wording),
    )
    # A lone surrogate is legal in JSON but not in UTF-8; it must not make the page fail.
    write_atomic(layout.report, page.encode("utf-8", "replace").decode("utf-8"))
    return layout.report


def _render(source: Path, **values: Any) -> str:
    try:
        return _template().render(**values)
    except UndefinedError as error:
        raise RunError(f"{source} lacks a figure of the report ({error}); resume the run to have it written") from None


def _alarm(found: Alarm) -> tuple[str, str]:
    """What it is about, and the rest of the sentence."""
    place = {"d_meta": "D_meta"}.get(found.place, found.place)
    return cut(place, 80), "; ".join(cut(text, 500) for text in (found.finding, found.remedy) if text)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("selfevo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "yaml": lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100),
    }
    return environment.get_template("page.html.jinja")


def _read_round(run: Path, folder: Path, wording: Wording) -> Round:
    found = Round(folder.name)
    # Ids are hashes, so the rows with the smallest ids are a random but fixed sample.
    picked: dict[str, list[dict[str, Any]]] = {group: [] for group in SAMPLES}

    def pick(group: str, row: dict[str, Any]) -> None:
        picked[group] = sorted([*picked[group], row], key=lambda r: str(r["id"]))[: SAMPLES[group]]

    for skill in (each.name for each in SKILLS):
        for row in _rows(folder / f"{skill}.jsonl", id=str, status=str):
            found.rows_in += skill == "respond"
            if row["status"] == "quarantined":
                reason = shareable(str(row.get("reason")), run)
                found.quarantined[f"{skill}: {FINISHES.get(reason, reason)}"] += 1
                pick("quarantined", {**row, "skill": skill, "reason": reason})
    for row in _rows(folder / "filter.jsonl", id=str, kept=bool, **dict.fromkeys(STEPS, str)):
        if row["kept"]:
            found.kept += 1
            pick("kept, unchanged" if row["refinement"].strip() == row["response"].strip() else "kept, refined", row)
        else:
            reason = shareable(str(row.get("reason")), run)
            found.rejected[reason] += 1
            pick("rejected", {**row, "reason": reason})
    quarantined = _with_history(run, folder, picked.pop("quarantined"))
    found.trajectories = [
        _trajectory(group, row, row.get("reason"), wording) for group, rows in picked.items() for row in rows
    ]
    found.trajectories += [_stopped(row, wording) for row in quarantined]
    return found


def _with_history(run: Path, folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Quarantined rows hold only an id. Adds the texts of their earlier stages."""
    history: dict[str, dict[str, Any]] = {row["id"]: {} for row in rows}
    if not history:
        return []
    pool = ((path, CONTEXT) for path in sorted(run.glob("data/*.jsonl")) if path.is_file())
    skills = ((folder / f"{skill}.jsonl", (*CONTEXT, *STEPS)) for skill in (each.name for each in SKILLS))
    for path, names in (*pool, *skills):
        for row in _rows(path):
            if row.get("id") in history:
                history[row["id"]] |= {name: row[name] for name in names if isinstance(row.get(name), str | list)}
    return [history[row["id"]] | row for row in rows]


def _rows(path: Path, **kinds: type) -> Iterator[dict[str, Any]]:
    """The rows of a file; none if the run has not written it yet. Raises RunError if a value has not its kind."""
    if not path.is_file():
        return
    with suppress(FileNotFoundError):  # a run that is started again renames the file of a stage without a marker
        for row in read_rows(path):
            for name, kind in kinds.items():
                if not isinstance(row.get(name), kind):
                    raise RunError(
                        f"{path} holds a row without {name!r} as a run writes it; selfevo verify says what to do"
                    )
            yield row


def _trajectory(group: str, row: Mapping[str, Any], reason: str | None, wording: Wording) -> Trajectory:
    judges = {name: wording.parse(row[name]).value for name in ("feedback", "judgement") if name in row}
    steps = [_step("", "system prompt", row["system"])] if row.get("system") else []
    for i, turn in enumerate(row.get("history", ())):
        steps.append(_step("", "assistant, earlier" if i % 2 else "user, earlier", turn))
    steps += [_step(*STEPS[name], row[name], judges.get(name)) for name in STEPS if name in row]
    prompt = " ".join(str(row.get("prompt", row["id"])).split())
    return Trajectory(group, prompt[:160] + "…" * (len(prompt) > 160), reason, steps)


def _stopped(row: Mapping[str, Any], wording: Wording) -> Trajectory:
    """A quarantined row: its earlier texts, then the unusable text of the engine."""
    reason = f"{row['skill']}: {FINISHES.get(row['reason'], row['reason'])}"
    trajectory = _trajectory("quarantined", row, reason, wording)
    text = row.get("generation", {}).get("text", "")
    if text:
        trajectory.steps.append(_step("…", f"what {row['skill']} gave", text))
    return trajectory


def _step(symbol: str, label: str, text: str, verdict: str | None = None) -> Step:
    return Step(symbol, label, text[:LONGEST_TEXT], max(0, len(text) - LONGEST_TEXT), verdict)


def _read_corpus(path: Path, wording: Wording) -> dict[str, Any]:
    """The size of D_meta, the counts of its verdicts, and two of its rows."""
    prompts, verdicts = set[tuple[str, ...]](), Counter[str]()
    picked: list[dict[str, Any]] = []
    for row in _rows(path, id=str, prompt=str, response=str, feedback=str):
        prompts.add((row.get("system", ""), *row.get("history", ()), row["prompt"]))
        verdicts[wording.parse(row["feedback"]).value] += 1
        picked = sorted([*picked, row], key=lambda r: (str(r["id"]), r["response"]))[:2]
    return {
        "rows": verdicts.total(),
        "prompts": len(prompts),
        "verdicts": dict(sorted(verdicts.items())),
        "trajectories": [_trajectory("annotated", row, None, wording) for row in picked],
    }
