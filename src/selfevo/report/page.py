"""The report of a run: report.html, one page that needs no network. The same run gives the same bytes.

Only files of the run are read. Model text is not trusted: the template escapes everything, and the
page's content security policy forbids scripts and network.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, UndefinedError

from selfevo.errors import RunError
from selfevo.evaluation.monitors import MEANING
from selfevo.method.prompts import Wording
from selfevo.method.skills import SKILLS
from selfevo.report.chart import draw
from selfevo.report.wording import FINISHES, duration, number, p_value, percent, points, summarise
from selfevo.rundir.atomic_files import MODEL_MARKER, read_marker, read_rows, write_atomic
from selfevo.rundir.inspect import costs, is_run, read_wording
from selfevo.rundir.layout import Layout
from selfevo.rundir.ownership import check_format
from selfevo.rundir.results import Results, Split, read_results
from selfevo.statistics import Rate

SAMPLES = {"kept, refined": 3, "kept, unchanged": 2, "rejected": 3, "quarantined": 2}
LONGEST_TEXT = 6000
STEPS = {
    "prompt": ("p", "prompt"),
    "response": ("r", "first response"),
    "feedback": ("f", "feedback on r"),
    "refinement": ("r̂", "refinement"),
    "judgement": ("v", "feedback on r̂, which decides"),
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
    config, manifest = (read_marker(path) if path.is_file() else {} for path in (layout.config, layout.manifest))
    results, wording = read_results(run), read_wording(layout.config)
    rounds = [_read_round(run, path, wording) for path in layout.rounds()]
    models = [read_marker(path / MODEL_MARKER, name=str, examples=dict) for path in layout.finished_models()]
    evaluation, ablation = config.get("evaluation") or {}, config.get("ablation") or {}
    filters = [str(each.get("kind", each)) for each in config.get("filter", [])]
    if ablation.get("gold_filter"):
        filters.append("gold answers instead of the filters that judge (ablation)")
    measured = results.models if results else ()
    audits = {each.name: each.audit for each in results.rounds if each.audit} if results else {}
    page = _render(
        layout.results,
        folder=run.resolve().name,
        config=config,
        manifest=manifest,
        results=results,
        task=(results.task if results else None) or evaluation.get("task", {}).get("name"),
        summary=summarise(
            results,
            rounds,
            [model["name"] for model in models],
            evaluated=bool(evaluation),
            sft_labels=ablation.get("sft_labels"),
        ),
        splits={by: _split(results, by) for by in get_args(Split)} if results else {},
        chart=draw(measured) if measured else None,
        rounds=rounds,
        filters=", ".join(filters),
        audits=audits,
        monitored=[each for each in results.rounds if each.monitors] if results else [],
        labels={name: label for name, (label, *_) in MEANING.items()},
        costs=costs(run) if is_run(run) else {},
        models=models,
        terms=sorted({term for model in models for term in model["examples"]}),
        corpus=_read_corpus(layout.data("d_meta"), wording),
    )
    # A lone surrogate is legal in JSON but not in UTF-8; it must not make the page fail.
    write_atomic(layout.report, page.encode("utf-8", "replace").decode("utf-8"))
    return layout.report


def _render(source: Path, **values: Any) -> str:
    try:
        return _template().render(**values)
    except UndefinedError as error:
        raise RunError(f"{source} lacks a figure of the report ({error}); resume the run to have it written") from None


def _split(results: Results, by: Split) -> dict[str, list[tuple[Rate, Rate]]]:
    """For each group of problems: the direct and refined rate of every model."""
    each = [(results.rates(by, model, "direct"), results.rates(by, model, "refined")) for model in results.models]
    names = results.groups.get(by, {}) if each else {}
    return {name: [(direct[name], refined[name]) for direct, refined in each] for name in names}


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
        "percent": percent,
        "points": points,
        "number": number,
        "duration": duration,
        "p_value": p_value,
        "indented": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
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
                reason = str(row.get("reason"))
                found.quarantined[f"{skill}: {FINISHES.get(reason, reason)}"] += 1
                pick("quarantined", {**row, "skill": skill, "reason": reason})
    for row in _rows(folder / "filter.jsonl", id=str, kept=bool, **dict.fromkeys(STEPS, str)):
        if row["kept"]:
            found.kept += 1
            pick("kept, unchanged" if row["refinement"].strip() == row["response"].strip() else "kept, refined", row)
        else:
            found.rejected[str(row.get("reason"))] += 1
            pick("rejected", row)
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
