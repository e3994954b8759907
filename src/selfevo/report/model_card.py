"""The model card, a README.md beside each model: hub metadata, lineage, training data, results, cost.

The metadata hold the accuracies, so that the hub shows them. The card is written again after each
measurement, so the hash of a model does not cover it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from selfevo.method.prompts import Wording
from selfevo.method.verdicts import Verdict
from selfevo.report.terminal import printable
from selfevo.report.wording import duration, number, percent
from selfevo.rundir.adapter_folder import is_adapter
from selfevo.rundir.atomic_files import MADE, MODEL_MARKER, exists, from_user, read_marker, write_atomic
from selfevo.rundir.hub import parse
from selfevo.rundir.inspect import costs, wording_of
from selfevo.rundir.layout import Layout
from selfevo.rundir.results import MODES, Mode, ModelResults, read_results

TERMS = {
    "skills": "feedback and refinement, from the annotated corpus",
    "answer": "refined answers to the prompts of the annotated corpus",
    "self": "refined answers that the model itself kept, from prompts without labels",
    "preference": "pairs, the refined answer preferred to the first one, from prompts without labels (DPO, a baseline)",
    "prompt": "prompts without labels, its own verdict as reward (GRPO, a baseline)",
}

ANSWERS: dict[Mode, str] = {
    "direct": "first answer",
    "refined": "after self-refinement",
    "consistency": "vote of several samples",
    "both": "vote of several refined samples",
}


WHOLE = "A plain transformers folder; `selfevo answer` uses its self-refinement too."
ADAPTER = (
    "An adapter, as PEFT saves it: PEFT and `selfevo answer` load it together with its base. `selfevo merge` makes a "
    "plain transformers folder of the two."
)


def write_card(root: Path, name: str) -> None:
    """Writes the README.md of the model `name` from the run directory `root`.

    Does nothing if the model's files were removed.
    """
    layout = Layout(root)
    folder = layout.model(name)
    marker = read_marker(folder / MODEL_MARKER, **MADE)
    config, manifest = read_marker(layout.config, model=str, objective=dict), read_marker(layout.manifest)
    if "removed" in marker:
        return
    results = read_results(root)
    measured = results.model(name) if results else None
    task = line(results.task or "") if results else ""
    base, adapter = str(config["model"]), is_adapter(folder)
    title = line(f"{Path(base).name}, {name}")
    data = ModelCardData(
        base_model=hub_id(base),
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["selfevo", "self-evolution", "language-feedback", "arxiv:2310.00533"],
        model_name=title,
        eval_results=(_eval_results(task, measured) if measured else None) or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {literal(title)}",
        f"Made by selfevo {literal(manifest.get('selfevo', ''))}, an implementation of SELF (arXiv 2310.00533): policy "
        f"{literal(config['policy'])}, objective of the rounds {literal(str(config['objective']['kind']))}, "
        f"seed {config['seed']}. {ADAPTER if adapter else WHOLE}",
        "## Lineage\n\n| model | trained from | SHA-256 of weights and tokenizer |\n|---|---|---|\n"
        + "\n".join(f"| {literal(a)} | {literal(b)} | {literal(sha)} |" for a, b, sha in lineage(root, name)),
        "## Learnt from\n\n"
        + "\n".join(
            f"- {count} examples: {TERMS.get(term) or literal(term)}" for term, count in marker["examples"].items()
        ),
    ]
    if system := config.get("system"):
        parts.append(f"## System prompt\n\nPrompts without one of their own were asked under: {literal(system)}")
    said = asked(wording_of(folder)).items()
    parts.append("## Wording\n\n" + "\n".join(f"- {what}: {literal(text)}" for what, text in said))
    if measured:
        parts.append(f"## Results\n\n{_results(task, measured)}")
    parts.append(f"## Cost\n\n{_cost(costs(root), name)}")
    parts.append(f"Versions: {literal(json.dumps(manifest.get('platform', {})))}")
    write_atomic(folder / "README.md", str(ModelCard("\n\n".join(parts) + "\n")))


_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def hub_id(name: str) -> str | None:
    """The id in `name` if it is a name on the hub. None for a local path, which is private."""
    identifier, _ = parse(name)
    return identifier if _HUB_ID.fullmatch(identifier) and not exists(from_user(name)) else None


def line(text: str) -> str:
    """`text` in one line without control characters."""
    return " ".join(printable(text).split())


def literal(text: str) -> str:
    """`text` for Markdown: one line in which no character has a meaning, and no address becomes a link."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&!$:@]|(?<=www)\.)", r"\\\1", line(text))


def write_cards(root: Path) -> None:
    """Writes the cards of all models of a run."""
    for path in sorted(root.glob(f"models/[!.]*/{MODEL_MARKER}")):
        write_card(root, path.parent.name)


def lineage(root: Path, name: str) -> list[tuple[str, str, str]]:
    """The models from `name` back to the base: name, start model, hash."""
    rows, models = [], Layout(root).models
    while True:
        marker = read_marker(models / name / MODEL_MARKER, **MADE)
        rows.append((name, str(marker["start"]), str(marker["weights"])))
        if not (models / str(marker["start"]) / MODEL_MARKER).is_file():
            return [*rows, (str(marker["start"]), "", str(marker["start_weights"]))]
        name = str(marker["start"])


def _eval_results(task: str, measured: ModelResults) -> list[EvalResult]:
    """The accuracies, in [0, 1], in the hub's format."""
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=f"held-out problems of {task}",
            metric_type=_metric(measured).replace(" ", "_"),
            metric_name=f"{_metric(measured)}, {ANSWERS[mode]}",
            metric_value=round(rate.accuracy, 4),
        )
        for mode in MODES
        if (rate := measured.rate(mode)) and rate.accuracy is not None
    ]


def asked(wording: Wording) -> dict[str, str]:
    """The words that a model is asked with and judges in, each with what it is for."""
    verdicts = (wording.line(verdict) for verdict in (Verdict.QUALIFIED, Verdict.NOT_QUALIFIED))
    return {
        "asked for feedback": wording.feedback_request,
        "asked to refine": wording.refine,
        "last line of a feedback": " or ".join(verdicts),
    }


def _metric(measured: ModelResults) -> str:
    return "win rate" if measured.compared else "accuracy"


def _results(task: str, measured: ModelResults) -> str:
    lines = [
        f"Held-out problems of {literal(task)}, greedy (votes: sampled); in brackets the 95 % interval; n problems:",
        "",
        f"| | {_metric(measured)} |",
        "|---|---|",
    ]
    for mode in MODES:
        if rate := measured.rate(mode):
            low, high = rate.ci
            lines.append(
                f"| {ANSWERS[mode]} | {percent(rate.accuracy)} ({percent(low)} to {percent(high)}), n = {rate.n} |"
            )
    precision, recall = measured.verdicts.precision, measured.recall
    lines += [
        "",
        f"Its own verdicts: precision {percent(precision)} (of the answers that it calls qualified, the share that are "
        f"right), recall {percent(recall)} (of the right answers, the share that it calls qualified).",
    ]
    return "\n".join(lines)


def _cost(found: Mapping[str, Mapping[str, float]], name: str) -> str:
    lines = ["| | time | tokens read | tokens written | tokens trained on | US dollars |", "|---|---|---|---|---|---|"]
    for label, key in (("this model's training", name), ("the whole run so far", "total")):
        if cost := found.get(key):
            tokens = (number(cost[each]) for each in ("prompt_tokens", "new_tokens", "trained_tokens"))
            lines.append(f"| {label} | {duration(cost['seconds'])} | {' | '.join(tokens)} | {cost['dollars']:.2f} |")
    return "\n".join(lines)
